"""A lost age identity: nothing is written that nobody could read, and the server's files make a new vault."""

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from mailkeep.errors import UserError
from mailkeep.inventory import credentials, secrets, tls_keys
from mailkeep.inventory.dkim_keys import generate_dkim_pem, take_over_dkim_key
from mailkeep.inventory.tls_certificate import split_pem
from mailkeep.inventory.vault import create_vault, identity_path, open_vault
from mailkeep.operate import vault_recovery
from mailkeep.parts import mail_server
from mailkeep.settings.models import Settings

TODAY = date.today()
SELF_SIGNED: dict[str, object] = {
    "host": {"name": "mail.example.org", "addresses": ["192.0.2.1"]},
    "domains": ["example.org", "example.net"],
    "admin": {"addresses": ["admin@example.com"]},
}
ALL: dict[str, object] = {
    **SELF_SIGNED,
    "tls": {"mode": "acme", "acme": {"challenge": "dns-01", "provider": "rfc2136"}},
    "relay": {"host": "smtp.example.net", "port": 587, "user": "anna"},
    "alerts": {"webhook": {}},
    "guard": {"shared_store": {"host": "192.0.2.9"}},
}
PASSWORD = 'a :b"$`\\c'  # noqa: S105


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An inventory with every kind of secret."""
    monkeypatch.setenv("MAILKEEP_IDENTITY", str(tmp_path / "identity"))
    directory = tmp_path / "home"
    create_vault(directory / "secrets", identity_path(directory))
    credentials.save_relay_password(directory, PASSWORD)
    credentials.save_shared_store_password(directory, PASSWORD)
    credentials.save_webhook(directory, "https://ntfy.example.org/topic", "token")
    credentials.save_dns_credentials(directory, f"RFC2136_TSIG_SECRET={PASSWORD}\nRFC2136_NAMESERVER=192.0.2.53\n")
    return directory


def render_files(settings: Settings, directory: Path) -> dict[str, bytes]:
    parts = mail_server.build_parts(settings, secrets.load_secrets(settings, directory))
    return {file.path: file.content for part in parts for file in part.files}


@pytest.mark.parametrize("declared", [SELF_SIGNED, ALL], ids=["self-signed", "all"])
def test_the_files_of_a_server_make_a_vault_from_which_a_deploy_changes_nothing(
    declared: dict[str, object], inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.model_validate(declared)
    secrets.create_missing_keys(settings, inventory, TODAY)
    files, before = render_files(settings, inventory), open_vault(inventory)
    contents = {name: before.read(name) for name in before.names()}
    identity_path(inventory).unlink()
    monkeypatch.setattr(vault_recovery, "_read_files", lambda _: ({"mail": files}, []))

    lines = vault_recovery.recover_vault(settings, inventory, TODAY)

    after = open_vault(inventory)
    after.check_identity()
    needed = {name: text for name, text in contents.items() if name in after.names()}
    assert set(contents) - set(needed) == (set() if declared is ALL else {"acme", "relay", "store", "webhook"})
    for name, text in needed.items():
        if name == "tls/acme":
            assert split_pem(after.read(name))[1] == split_pem(text)[1]
        else:
            assert after.read(name) == text, name
    changed = {path for path, content in render_files(settings, inventory).items() if files[path] != content}
    assert changed <= {"/etc/mailkeep/tls/server.pem"} if declared is ALL else not changed
    assert not [line for line in lines if line.startswith("Not on the server")]
    assert (inventory / f"secrets.lost-{TODAY:%Y%m%d}").is_dir()


@pytest.mark.parametrize(
    "write",
    [
        lambda settings, directory: secrets.create_missing_keys(settings, directory, TODAY),
        lambda _, directory: credentials.save_relay_password(directory, "a password"),
        lambda _, directory: credentials.save_webhook(directory, "https://ntfy.example.org/topic", ""),
        lambda _, directory: credentials.save_dns_credentials(directory, "A=b"),
    ],
)
@pytest.mark.parametrize("identity", ["lost", "another"])
def test_nothing_is_written_into_a_vault_that_its_writer_cannot_open(
    write: Callable[[Settings, Path], object], identity: str, inventory: Path, tmp_path: Path
) -> None:
    identity_path(inventory).unlink()
    if identity == "another":
        create_vault(tmp_path / "other", identity_path(inventory))
    before = open_vault(inventory).names()
    with pytest.raises(UserError, match="mailkeep vault recover NAME"):
        write(Settings.model_validate(SELF_SIGNED), inventory)
    assert open_vault(inventory).names() == before


def test_a_vault_that_can_be_opened_is_not_replaced(inventory: Path, tmp_path: Path) -> None:
    settings = Settings.model_validate(SELF_SIGNED)
    with pytest.raises(UserError, match="nothing is lost"):
        vault_recovery.recover_vault(settings, inventory, TODAY)
    identity_path(inventory).unlink()
    create_vault(tmp_path / "other", identity_path(inventory))
    with pytest.raises(UserError, match="this identity exists, and does not open"):
        vault_recovery.recover_vault(settings, inventory, TODAY)


def test_a_dkim_key_that_was_taken_over_is_recovered_too(inventory: Path) -> None:
    settings = Settings.model_validate(SELF_SIGNED)
    take_over_dkim_key(open_vault(inventory), "example.net", "mail", generate_dkim_pem(), "mail.private")
    secrets.create_missing_keys(settings, inventory, TODAY)
    entries, missing = vault_recovery.read_entries(settings, render_files(settings, inventory), TODAY)
    assert "dkim/example.net/mail" in entries
    assert missing == []


def test_a_key_that_the_server_does_not_have_is_named(inventory: Path) -> None:
    settings = Settings.model_validate(SELF_SIGNED)
    secrets.create_missing_keys(settings, inventory, TODAY)
    files = {path: text for path, text in render_files(settings, inventory).items() if "example.net" not in path}
    entries, missing = vault_recovery.read_entries(settings, files, TODAY)
    assert tls_keys.SELF_SIGNED in entries
    assert missing == ["a DKIM key for example.net; for a new domain, `mailkeep keys` creates one"]


@pytest.fixture
def lost(inventory: Path) -> tuple[Settings, Path, dict[str, bytes]]:
    """An inventory whose identity is lost, and the files of its server."""
    settings = Settings.model_validate(ALL)
    secrets.create_missing_keys(settings, inventory, TODAY)
    files = render_files(settings, inventory)
    identity_path(inventory).unlink()
    return settings, inventory, files


def test_the_server_that_lacks_nothing_makes_the_vault(
    lost: tuple[Settings, Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, inventory, files = lost
    fewer = {path: text for path, text in files.items() if "example.net" not in path}
    damaged = {**files, vault_recovery.paths.GUARD_SHARED_STORE: b"[]"}
    hosts = {"fresh": {}, "damaged": damaged, "fewer": fewer, "full": files, "same": files}
    monkeypatch.setattr(vault_recovery, "_read_files", lambda _: (hosts, ["gone: no route"]))
    lines = vault_recovery.recover_vault(settings, inventory, TODAY)
    assert lines[0].startswith("From full: ")
    assert [line for line in lines if line.startswith("Not ")] == [
        "Not read: gone: no route",
        "Not read: fresh: none of Mailkeep's keys are on this server.",
        f"Not read: damaged: {vault_recovery.paths.GUARD_SHARED_STORE} on this server is damaged: it does not hold "
        f"`{vault_recovery.SHARED_STORE}`.",
    ]


@pytest.mark.parametrize("change", ["another DKIM key", "a former password", "damaged"])
def test_servers_that_differ_or_are_damaged_change_nothing(
    change: str, lost: tuple[Settings, Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, inventory, files = lost
    other = {
        "another DKIM key": {
            re.sub(r"example\.net\.s[0-9]{8}", "example.net.s20200101", path): text for path, text in files.items()
        },
        "a former password": {**files, vault_recovery.postfix.RELAY_PASSWORD: b"[smtp.example.net]:587 anna:former\n"},
        "damaged": {**files, vault_recovery.paths.GUARD_SHARED_STORE: b"{}"},
    }[change]
    hosts = {"other": other} if change == "damaged" else {"mail": files, "other": other}
    monkeypatch.setattr(vault_recovery, "_read_files", lambda _: (hosts, []))
    before = sorted(inventory.iterdir())
    with pytest.raises(UserError, match="Nothing was changed"):
        vault_recovery.recover_vault(settings, inventory, TODAY)
    assert sorted(inventory.iterdir()) == before
