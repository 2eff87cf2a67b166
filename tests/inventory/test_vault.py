"""Secrets at rest are encrypted and never lost; a vault that cannot be opened says why."""

import os
import stat
import subprocess
from pathlib import Path

import pyrage
import pytest

from mailkeep.errors import UserError
from mailkeep.inventory.vault import Vault, create_vault, identity_path, write_private_file

SECRET = b"correct horse\nbattery staple"


def text_of(error: pytest.ExceptionInfo[UserError]) -> str:
    return str(error.value)


def everything_below(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_secret_comes_back_as_it_was_written(vault: Vault) -> None:
    vault.write("dkim/example.org/s20261122", SECRET)
    assert vault.read("dkim/example.org/s20261122") == SECRET


def test_no_file_holds_a_secret_in_clear_text(vault: Vault, inventory: Path) -> None:
    vault.write("relay", SECRET)
    assert all(SECRET not in content for content in everything_below(inventory).values())


def test_names_lists_what_was_written_and_not_what_was_deleted(vault: Vault) -> None:
    for name in ("relay", "dkim/example.org/s20261122", "tls/key"):
        vault.write(name, SECRET)
    vault.delete("tls/key")
    assert vault.names() == ["dkim/example.org/s20261122", "relay"]


def test_files_and_directories_are_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        vault = create_vault(tmp_path / "secrets", tmp_path / "config" / "identity")
        vault.write("dkim/example.org/s20261122", SECRET)
    finally:
        os.umask(before)
    for path in [tmp_path / "config", *tmp_path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_write_that_fails_leaves_the_former_secret_and_no_debris(
    vault: Vault, inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.write("relay", SECRET)
    before = everything_below(inventory)

    def fail_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail_full)
    with pytest.raises(UserError, match=r"relay\.age: cannot be written: No space left"):
        vault.write("relay", b"another")
    assert everything_below(inventory) == before


def test_a_missing_identity_says_where_it_is_expected_and_how_to_restore_it(vault: Vault, config: Path) -> None:
    vault.write("relay", SECRET)
    vault.identity.unlink()
    with pytest.raises(UserError) as error:
        vault.read("relay")
    assert str(config / "mailkeep" / "first.age-identity") in text_of(error)
    assert "if that was renamed, rename this file likewise" in text_of(error)
    assert "MAILKEEP_IDENTITY" in text_of(error)
    assert "backup" in text_of(error)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_an_identity_that_others_may_access_is_refused(vault: Vault, mode: int) -> None:
    vault.write("relay", SECRET)
    vault.identity.chmod(mode)
    with pytest.raises(UserError, match=f"chmod 600 {vault.identity}"):
        vault.read("relay")
    vault.identity.chmod(0o400)
    assert vault.read("relay") == SECRET


def test_a_wrong_identity_is_told_apart_from_damage(vault: Vault, tmp_path: Path) -> None:
    vault.write("relay", SECRET)
    other = create_vault(tmp_path / "other" / "secrets", tmp_path / "other.identity")
    with pytest.raises(UserError) as error:
        Vault(vault.directory, other.identity).read("relay")
    assert "not encrypted for the identity" in text_of(error)
    assert str(vault.directory / "relay.age") in text_of(error)
    assert "damaged" not in text_of(error)


def damage_file(sealed: bytes) -> dict[str, bytes]:
    flipped = bytearray(sealed)
    flipped[-1] ^= 1
    return {
        "empty": b"",
        "cut": sealed[:-1],
        "longer": sealed + b"\0",
        "one bit": bytes(flipped),
        "header": b"x" + sealed,
        "clear": SECRET,
    }


@pytest.mark.parametrize("kind", damage_file(b"any").keys())
def test_a_damaged_file_is_never_read_and_named(vault: Vault, kind: str) -> None:
    vault.write("relay", SECRET)
    path = vault.directory / "relay.age"
    path.write_bytes(damage_file(path.read_bytes())[kind])
    with pytest.raises(UserError) as error:
        vault.read("relay")
    assert str(path) in text_of(error)
    assert "damaged" in text_of(error)
    assert SECRET.decode() not in text_of(error)


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"\xff\xfe\0", b"AGE-SECRET-KEY-1QQQ\n", b"secret!\n"])
def test_a_file_that_is_no_identity_is_named_and_not_quoted(vault: Vault, content: bytes) -> None:
    vault.write("relay", SECRET)
    vault.identity.write_bytes(content)
    with pytest.raises(UserError) as error:
        vault.read("relay")
    assert str(vault.identity) in text_of(error)
    assert "secret!" not in text_of(error)
    assert "QQQ" not in text_of(error)


def test_a_missing_secret_is_named(vault: Vault) -> None:
    for method in (vault.read, vault.delete):
        with pytest.raises(UserError, match=str(vault.directory / "relay.age")):
            method("relay")


def test_every_recipient_can_read_a_secret(vault: Vault, tmp_path: Path) -> None:
    colleague = pyrage.x25519.Identity.generate()
    identity = tmp_path / "colleague"
    write_private_file(identity, f"{colleague}\n".encode())
    vault.write("tls/key", SECRET)
    with (vault.directory / "recipients.txt").open("a") as file:
        file.write(f"\n# a colleague\n{colleague.to_public()}  # with a note\n")
    vault.write("relay", SECRET)
    assert Vault(vault.directory, identity).read("relay") == SECRET

    with pytest.raises(UserError, match="--reencrypt"):
        Vault(vault.directory, identity).read("tls/key")
    vault.reencrypt()
    assert Vault(vault.directory, identity).read("tls/key") == SECRET


@pytest.mark.parametrize("content", [None, "", "# nobody\n\n"])
def test_no_secret_is_written_without_recipients(vault: Vault, content: str | None) -> None:
    recipients = vault.directory / "recipients.txt"
    recipients.unlink()
    if content is not None:
        recipients.write_text(content)
    with pytest.raises(UserError, match=str(recipients)):
        vault.write("relay", SECRET)
    assert vault.names() == []


def test_a_bad_recipient_is_named_by_its_line(vault: Vault) -> None:
    recipients = vault.directory / "recipients.txt"
    recipients.write_text(recipients.read_text() + "age1nonsense\n")
    with pytest.raises(UserError, match=f"{recipients}:4: no age recipient"):
        vault.write("relay", SECRET)


def test_a_private_key_among_the_recipients_is_refused_and_not_repeated(vault: Vault) -> None:
    private = str(pyrage.x25519.Identity.generate())
    recipients = vault.directory / "recipients.txt"
    recipients.write_text(recipients.read_text() + private)
    with pytest.raises(UserError, match="private key") as error:
        vault.write("relay", SECRET)
    assert private not in text_of(error)


def test_creating_never_overwrites_an_identity(vault: Vault, tmp_path: Path) -> None:
    before = vault.identity.read_bytes()
    with pytest.raises(UserError, match=str(vault.identity)):
        create_vault(tmp_path / "new", vault.identity)
    assert vault.identity.read_bytes() == before
    assert not (tmp_path / "new").exists()


def test_creating_never_overwrites_recipients(vault: Vault, tmp_path: Path) -> None:
    before = (vault.directory / "recipients.txt").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        create_vault(vault.directory, tmp_path / "fresh")
    assert (vault.directory / "recipients.txt").read_bytes() == before
    assert not (tmp_path / "fresh").exists()


def test_a_creation_that_fails_halfway_leaves_no_identity(tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("a file where the directory should be")
    with pytest.raises(UserError, match="Not a directory"):
        create_vault(tmp_path / "secrets", tmp_path / "identity")
    assert not (tmp_path / "identity").exists()


def test_the_identity_is_found_in_the_inventory_then_by_variable_then_in_the_config_directory(
    tmp_path: Path,
) -> None:
    inventory = tmp_path / "first"
    inventory.mkdir()
    home = {"HOME": str(tmp_path)}
    config = {"XDG_CONFIG_HOME": "/config"}
    chosen = {"MAILKEEP_IDENTITY": "/chosen"}
    assert identity_path(inventory, home).parts[-3:] == (".config", "mailkeep", "first.age-identity")
    assert identity_path(inventory, config) == Path("/config/mailkeep/first.age-identity")
    assert identity_path(inventory, config | chosen) == Path("/chosen")
    (inventory / "age-identity").touch()
    assert identity_path(inventory, config | chosen) == inventory / "age-identity"


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../b", "", ".hidden", "a//b", "a\n"])
def test_no_name_leads_out_of_the_vault(vault: Vault, name: str) -> None:
    with pytest.raises(UserError, match="no secret this name"):
        vault.write(name, SECRET)


def test_a_clone_ignores_inventories_and_identities_but_not_its_own_examples() -> None:
    repository = Path(__file__).resolve().parents[2]

    def is_ignored(path: str) -> bool:
        return subprocess.run(["git", "check-ignore", "-q", path], cwd=repository, check=False).returncode == 0

    assert is_ignored("inventories/first/age-identity")
    assert is_ignored("inventories/first.age-identity")
    assert is_ignored("inventories/first/secrets/relay.age")
    assert is_ignored("inventories/demo/age-identity")
    assert not is_ignored("inventories/example/mail.yml")


def test_an_identity_file_may_hold_several(vault: Vault, tmp_path: Path) -> None:
    vault.write("relay", SECRET)
    both = tmp_path / "both"
    write_private_file(both, f"{pyrage.x25519.Identity.generate()}\n".encode() + vault.identity.read_bytes())
    assert Vault(vault.directory, both).read("relay") == SECRET
