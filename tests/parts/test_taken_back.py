"""A setting that is taken back leaves nothing of what it had brought: no secret, no stale file, no unit."""

from datetime import date
from pathlib import Path

import pytest

from mailkeep.inventory import secrets, vault
from mailkeep.inventory.dkim_keys import signing_domains
from mailkeep.inventory.secrets import Secrets
from mailkeep.parts import mail_server
from mailkeep.parts.model import SYSTEMD, Part, Unit
from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings

# Which files cannot simply go: something else must be in their place, and the preflight asks for it.
REPLACED = {"/etc/resolv.conf"}
MORE: dict[str, dict[str, object]] = {
    "another domain": {"domains": ["example.org", "example.com"]},
    "a local resolver": {"resolver": "local"},
    "a relay host with a password": {"relay": {"host": "smtp.example.net", "user": "anna"}},
    "a webhook": {"alerts": {"webhook": {"format": "ntfy"}}},
    "a shared store": {"guard": {"shared_store": {"host": "valkey.example.net"}}},
    "certificates by ACME": {"tls": {"mode": "acme"}},
    "certificates by ACME, by the DNS": {
        "tls": {"mode": "acme", "acme": {"challenge": "dns-01", "provider": "rfc2136"}}
    },
    "what mail programs ask for": {"tls": {"mode": "files", "certificate": "c.pem"}, "web": {"autoconfig": True}},
}


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    """With a DKIM key for each of the domains above."""
    directory = tmp_path_factory.mktemp("inventory")
    (directory / "mail.yml").write_text(
        "host: {name: mail.example.org, addresses: [192.0.2.1]}\n"
        "domains: [example.org, example.com]\nadmin: {addresses: [ann@example.net]}\n"
    )
    identity = directory / "identity.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAILKEEP_IDENTITY", str(identity))
        vault.create_vault(directory / "secrets", identity)
        declared = load_settings(directory / "mail.yml")
        secrets.create_missing_keys(declared, directory, date(2026, 1, 1))
        return secrets.load_secrets(declared, directory)


def server(declared: dict[str, object], keys: Secrets) -> tuple[Part, ...]:
    made = Settings.model_validate(declared)
    domains = signing_domains(made)
    dkim = tuple(key for key in keys.dkim if key.domain in domains)
    webhook = "https://example.net/hook" if made.alerts.webhook else None
    by_dns = {"RFC2136_NAMESERVER": "192.0.2.53"} if made.tls.acme.challenge == "dns-01" else None
    return mail_server.build_parts(
        made, Secrets(dkim, keys.tls, "password", webhook, "password", dns_credentials=by_dns)
    )


def files(of: tuple[Part, ...]) -> set[str]:
    return {file.path for part in of for file in part.files}


def units(of: tuple[Part, ...]) -> dict[str, Unit]:
    return {unit.name: unit for part in of for unit in part.units}


@pytest.mark.parametrize("setting", MORE)
def test_its_files_are_removed(declared: dict[str, object], keys: Secrets, setting: str) -> None:
    without = server(declared | {"resolver": "system"}, keys)
    before = server(declared | {"resolver": "system"} | MORE[setting], keys)
    left = files(before) - files(without)
    assert left

    gone = {path for part in without for path in part.absent}
    exclusive = {one.path for part in without for one in part.directories if one.purge_unmanaged}
    removed = {
        path for path in left if gone & {path, *map(str, Path(path).parents)} or str(Path(path).parent) in exclusive
    }

    assert left - removed <= REPLACED


@pytest.mark.parametrize("setting", MORE)
def test_its_units_are_stopped_for_their_own_files_are_removed(
    declared: dict[str, object], keys: Secrets, setting: str
) -> None:
    without = server(declared | {"resolver": "system"}, keys)
    before = server(declared | {"resolver": "system"} | MORE[setting], keys)
    goes = {name for name, unit in units(before).items() if unit.running and name.startswith("mailkeep")}
    gone = {path for part in without for path in part.absent}
    assert [name for name in goes - {*units(without)} if f"{SYSTEMD}/{name}" not in gone] == []
