"""An inventory that is older than the one deployed last is noticed, whoever deploys it."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from mailkeep.host import deploy_history
from mailkeep.host.deploy_history import DeclaredState, History

ANNA = {"the account anna@example.org": "", "the password of anna@example.org": "1"}
BERT = {"the account bert@example.org": "", "the password of bert@example.org": "5"}
DOMAIN = {"the domain example.org": ""}


def deploy(history: History, file: Path, items: Mapping[str, str]) -> History:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(items))
    return deploy_history.parse_history(deploy_history.add_state(history, DeclaredState(file, items)))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here" / "mail.yml"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The copy of a second administrator."""
    return tmp_path / "there" / "mail.yml"


@pytest.mark.parametrize(
    ("newer", "older", "undone"),
    [
        ({**DOMAIN, **ANNA, **BERT}, {**DOMAIN, **ANNA}, ["remove the account bert@example.org"]),
        (DOMAIN, {**DOMAIN, **ANNA}, ["bring back the account anna@example.org"]),
        (
            {**DOMAIN, **ANNA, "the password of anna@example.org": "2"},
            {**DOMAIN, **ANNA},
            ["set back the password of anna@example.org"],
        ),
        # Older, and edited since.
        (
            {**DOMAIN, **ANNA, **BERT},
            {**DOMAIN, **ANNA, "the alias info@example.org": "9"},
            ["remove the account bert@example.org"],
        ),
        # Edits alone.
        ({**DOMAIN, **ANNA, **BERT}, {**DOMAIN, **ANNA, **BERT, "the alias info@example.org": "9"}, []),
        ({**DOMAIN, **ANNA, **BERT}, {**ANNA, **BERT}, []),
        ({**DOMAIN, **ANNA, **BERT}, {**DOMAIN, **ANNA, **BERT, "the password of anna@example.org": "3"}, []),
    ],
)
def test_what_an_older_inventory_would_undo_is_named_and_edits_are_not(
    newer: dict[str, str], older: dict[str, str], undone: list[str], here: Path, there: Path
) -> None:
    history = deploy(deploy((), here, {**DOMAIN, **ANNA}), there, newer)
    assert deploy_history.list_undone(history, older) == undone
    text = deploy_history.describe_undone(history, DeclaredState(here, older))
    assert bool(text) == bool(undone)
    assert all(line in text for line in undone)


def test_who_deployed_last_may_take_back_an_edit(here: Path) -> None:
    history = deploy(deploy((), here, DOMAIN), here, {**DOMAIN, **ANNA})
    assert deploy_history.list_undone(history, DOMAIN) == ["remove the account anna@example.org"]
    assert deploy_history.describe_undone(history, DeclaredState(here, DOMAIN)) == ""


def test_who_has_pulled_what_was_deployed_last_may_remove_it(here: Path, there: Path) -> None:
    def git(directory: Path, *arguments: str) -> None:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(directory), *arguments]
        subprocess.run(command, check=True, capture_output=True)

    history = deploy((), here, DOMAIN)
    git(here.parent, "init", "-q", "-b", "main")
    git(here.parent, "add", "-A")
    git(here.parent, "commit", "-qm", "first")
    git(here.parent.parent, "clone", "-q", str(here.parent), str(there.parent))
    history = deploy(history, there, {**DOMAIN, **ANNA})
    git(there.parent, "commit", "-qam", "second")

    older = DeclaredState(here, DOMAIN)
    assert "remove the account anna@example.org" in deploy_history.describe_undone(history, older)
    git(here.parent, "pull", "-q", str(there.parent), "main")
    here.write_text("without her again")
    assert deploy_history.describe_undone(history, older) == ""


def test_only_a_changed_state_is_recorded_and_the_oldest_are_forgotten(here: Path) -> None:
    history: History = ()
    for number in range(deploy_history.MAX_STATES + 5):
        items = {**DOMAIN, "the password of anna@example.org": str(number)}
        assert not deploy_history.is_recorded(history, DeclaredState(here, items))
        history = deploy(history, here, items)
        assert deploy_history.is_recorded(history, DeclaredState(here, items))
    assert len(history) == deploy_history.MAX_STATES
    assert history[0].changed == {**DOMAIN, "the password of anna@example.org": "5"}


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"time": 1}]'])
def test_a_damaged_history_stops_no_deploy(text: str) -> None:
    assert deploy_history.parse_history(text) == ()
