"""A renamed key still works under its old name, which is noted; both at once are refused."""

import pytest
from settings_samples import WITHOUT_GUARD, Inventory, line_of

from mailkeep.settings.renamed_keys import describe_renamed_keys

OLD = "guard:\n  mode: learn\n  store:\n    host: valkey.example.net\n    tls: no\n"


def test_the_old_key_means_the_same_and_is_noted_by_line(mail_yml: Inventory) -> None:
    renamed = mail_yml.write(WITHOUT_GUARD + OLD.replace("store:", "shared_store:")).load()
    assert describe_renamed_keys(mail_yml.path) == []
    old = mail_yml.write(WITHOUT_GUARD + OLD).load()
    assert old == renamed
    assert old.guard.shared_store is not None
    assert (old.guard.shared_store.host, old.guard.shared_store.tls) == ("valkey.example.net", False)
    line = line_of(mail_yml.path.read_text(), "store:")
    assert describe_renamed_keys(mail_yml.path) == [
        f"{mail_yml.path}:{line}: guard.store is now guard.shared_store; the old name still works"
    ]


def test_a_fault_below_the_old_key_has_its_line_and_the_new_name(mail_yml: Inventory) -> None:
    problem = mail_yml.write(WITHOUT_GUARD + OLD.replace("tls: no", "tls: perhaps")).problem()
    assert problem.field == "guard.shared_store.tls"
    assert problem.line == line_of(mail_yml.path.read_text(), "tls: perhaps")


def test_old_and_new_key_at_once_are_an_error_at_the_old_one(mail_yml: Inventory) -> None:
    problem = mail_yml.write(WITHOUT_GUARD + OLD + "  shared_store:\n    host: other.example.net\n").problem()
    content = mail_yml.path.read_text()
    assert problem.line == line_of(content, "  store:")
    assert problem.field == "guard.store"
    new_line = line_of(content, "shared_store:")
    assert problem.actual == f"the old name of guard.shared_store, which is on line {new_line}"
    assert problem.expected == "guard.shared_store alone"


@pytest.mark.parametrize("guard", ["guard: nonsense\n", "guard: [store]\n", "guard:\n"])
def test_a_section_of_another_kind_is_left_to_the_models(mail_yml: Inventory, guard: str) -> None:
    mail_yml.write(WITHOUT_GUARD + guard)
    assert describe_renamed_keys(mail_yml.path) == []
