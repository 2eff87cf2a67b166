"""The demonstration's inventory: settings are public in git; accounts and keys are created once, where it is used."""

import re
import shutil
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from mailkeep.errors import UserError
from mailkeep.inventory import hosts, secrets, vault
from mailkeep.lab.demo_inventory import create_demo_inventory
from mailkeep.settings.load import load_settings

SOURCE = Path(__file__).resolve().parents[2] / "inventories" / "demo"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with an identity for production in the environment."""
    monkeypatch.setenv("MAILKEEP_IDENTITY", str(tmp_path / "production"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    target = tmp_path_factory.mktemp("lab") / ".lab" / "demo"
    create_demo_inventory(SOURCE, target)
    return target


@pytest.fixture
def target(demo: Path, tmp_path: Path) -> Path:
    return shutil.copytree(demo, tmp_path / ".lab" / "demo")


def read_tree(root: Path) -> dict[Path, tuple[bytes | None, int]]:
    return {path: (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns) for path in root.rglob("*")}


def test_the_source_has_neither_accounts_nor_keys() -> None:
    assert sorted(path.name for path in SOURCE.rglob("*") if "__pycache__" not in path.parts) == [
        "inventory.py",
        "mail.yml",
    ]
    assert not re.search("accounts:|password", (SOURCE / "mail.yml").read_text())


def test_its_addresses_and_names_are_for_documentation_only(target: Path) -> None:
    declared = load_settings(target / "mail.yml")
    assert {str(address) for address in declared.host.addresses} == {"198.51.100.10", "2001:db8:100::10"}
    assert all(name.endswith(".test") for name in (declared.host.name, *declared.domains))


def test_the_copy_is_complete_and_its_passphrases_open_its_accounts(target: Path) -> None:
    declared = load_settings(target / "mail.yml")
    logins = create_demo_inventory(SOURCE, target).passphrases
    assert (
        [*logins] == [account.address for account in declared.accounts] == ["anna@example.test", "ben@example-two.test"]
    )
    for account in declared.accounts:
        PasswordHasher().verify(account.password.removeprefix("{ARGON2ID}"), logins[account.address])
    assert len(secrets.load_secrets(declared, target).dkim) == 3


def test_passphrases_and_identity_are_the_owners_alone(target: Path) -> None:
    for name in ("logins.json", "age-identity"):
        assert (target / name).stat().st_mode & 0o777 == 0o600


def test_the_users_own_identities_play_no_part(config: Path, tmp_path: Path) -> None:
    create_demo_inventory(SOURCE, tmp_path / "demo")
    assert not config.exists()
    assert not (config.parent / "production").exists()


def test_a_second_call_changes_nothing_and_knows_the_passphrases(target: Path) -> None:
    before = read_tree(target)
    first = create_demo_inventory(SOURCE, target)
    assert create_demo_inventory(SOURCE, target) == first
    assert read_tree(target) == before


def test_what_the_user_added_to_the_copy_stays(target: Path) -> None:
    with (target / "mail.yml").open("a") as file:
        file.write("  # a note\n")
    before = read_tree(target)
    create_demo_inventory(SOURCE, target)
    assert read_tree(target) == before


def test_a_changed_source_reaches_the_copy_which_keeps_its_keys_and_passphrases(target: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(SOURCE, tmp_path / "changed")
    text = (changed / "mail.yml").read_text()
    (changed / "mail.yml").write_text(re.sub(r"(?m)^domains: \[", "domains: [example-three.test, ", text))
    before = create_demo_inventory(SOURCE, target)
    keys = {key.domain: key for key in secrets.load_secrets(load_settings(target / "mail.yml"), target).dkim}
    assert create_demo_inventory(changed, target) == before
    after = secrets.load_secrets(load_settings(target / "mail.yml"), target).dkim
    assert {key.domain for key in after} == {*keys, "example-three.test"}
    assert all(keys.get(key.domain, key) == key for key in after)


def test_a_source_that_lost_its_last_lines_reaches_the_copy(target: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(SOURCE, tmp_path / "changed")
    lines = (changed / "mail.yml").read_text().splitlines(keepends=True)
    (changed / "mail.yml").write_text("".join(lines[:-1]))
    create_demo_inventory(changed, target)
    assert lines[-1] not in (target / "mail.yml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".age", "inventory.py", "mail.yml"])
def test_a_takeover_that_was_interrupted_is_completed_by_the_next_call(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    changed = shutil.copytree(SOURCE, tmp_path / "changed")
    text = (changed / "mail.yml").read_text()
    (changed / "mail.yml").write_text(text.replace("domains: [", "domains: [example-three.test, "))
    (changed / "inventory.py").write_text("hosts = []\n")
    real = vault.write_private_file

    def write_or_stop(path: Path, data: bytes, *, replace: bool = True) -> None:
        if path.name.endswith(suffix):
            raise KeyboardInterrupt
        real(path, data, replace=replace)

    with monkeypatch.context() as patch:
        patch.setattr(vault, "write_private_file", write_or_stop)
        with pytest.raises(KeyboardInterrupt):
            create_demo_inventory(changed, target)
    create_demo_inventory(changed, target)
    assert secrets.list_missing(load_settings(target / "mail.yml"), target) == []
    assert "example-three.test" in (target / "mail.yml").read_text()
    assert (target / hosts.HOSTS_FILE).read_text() == "hosts = []\n"


def test_a_failure_halfway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(secrets, "create_missing_keys", stop)
    with pytest.raises(KeyboardInterrupt):
        create_demo_inventory(SOURCE, tmp_path / ".lab" / "demo")
    assert [*(tmp_path / ".lab").iterdir()] == []


@pytest.mark.parametrize("content", [None, "nonsense", "[]"])
def test_lost_passphrases_are_reported(target: Path, content: str | None) -> None:
    (target / "logins.json").unlink()
    if content:
        (target / "logins.json").write_text(content)
    with pytest.raises(UserError, match=f"Remove {target}"):
        create_demo_inventory(SOURCE, target)


def test_no_repr_shows_a_passphrase(target: Path) -> None:
    logins = create_demo_inventory(SOURCE, target)
    assert not [passphrase for passphrase in logins.passphrases.values() if passphrase in repr(logins)]


def test_pyinfra_finds_the_container_through_the_labs_ssh_config(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAILKEEP_LAB", raising=False)
    ssh_config = target.parent / "mailkeep" / "mail.ssh_config"
    data = {"mailkeep": str(target / "mail.yml"), "ssh_config_file": str(ssh_config)}
    assert hosts.read_hosts(target) == {"mail": data}
