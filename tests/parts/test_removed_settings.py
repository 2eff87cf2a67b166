"""A setting that is removed leaves nothing behind: no secret, no stale file, no unit."""

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

# Files that cannot simply go: the preflight asks the operator to replace them.
REPLACED = {"/etc/resolv.conf"}
MORE: dict[str, dict[str, object]] = {
    "another domain": {"domains": ["example.org", "example.com"]},
    "a local resolver": {"resolver": "local"},
    "a relay host with a password": {"relay": {"host": "smtp.example.net", "user": "anna"}},
    "a spam filter": {"spam": "full"},
    "a webhook": {"alerts": {"webhook": {"format": "ntfy"}}},
    "a shared store": {"guard": {"shared_store": {"host": "valkey.example.net"}}},
    "certificates by ACME": {"tls": {"mode": "acme"}},
    "certificates by ACME, by the DNS": {
        "tls": {"mode": "acme", "acme": {"challenge": "dns-01", "provider": "rfc2136"}}
    },
    "what mail programs ask for": {"tls": {"mode": "files", "certificate": "c.pem"}, "web": {"autoconfig": True}},
}


@pytest.fixture(scope="session")
def all_secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    """All keys, with a DKIM key for each of the domains above."""
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


def build_server(declared: dict[str, object], all_secrets: Secrets) -> tuple[Part, ...]:
    settings = Settings.model_validate(declared)
    domains = signing_domains(settings)
    dkim = tuple(key for key in all_secrets.dkim if key.domain in domains)
    webhook = "https://example.net/hook" if settings.alerts.webhook else None
    by_dns = {"RFC2136_NAMESERVER": "192.0.2.53"} if settings.tls.acme.challenge == "dns-01" else None
    return mail_server.build_parts(
        settings, Secrets(dkim, all_secrets.tls, "password", webhook, "password", dns_credentials=by_dns)
    )


def file_paths(parts: tuple[Part, ...]) -> set[str]:
    return {file.path for part in parts for file in part.files}


def units_by_name(parts: tuple[Part, ...]) -> dict[str, Unit]:
    return {unit.name: unit for part in parts for unit in part.units}


@pytest.mark.parametrize("setting", MORE)
def test_its_files_are_removed(declared: dict[str, object], all_secrets: Secrets, setting: str) -> None:
    without = build_server(declared | {"resolver": "system"}, all_secrets)
    before = build_server(declared | {"resolver": "system"} | MORE[setting], all_secrets)
    left = file_paths(before) - file_paths(without)
    assert left

    gone = {path for part in without for path in part.absent}
    purged = {directory.path for part in without for directory in part.directories if directory.purge_unmanaged}
    removed = {
        path for path in left if gone & {path, *map(str, Path(path).parents)} or str(Path(path).parent) in purged
    }

    assert left - removed <= REPLACED


@pytest.mark.parametrize("setting", MORE)
def test_its_units_are_stopped_because_their_files_are_removed(
    declared: dict[str, object], all_secrets: Secrets, setting: str
) -> None:
    without = build_server(declared | {"resolver": "system"}, all_secrets)
    before = build_server(declared | {"resolver": "system"} | MORE[setting], all_secrets)
    goes = {name for name, unit in units_by_name(before).items() if unit.running and name.startswith("mailkeep")}
    gone = {path for part in without for path in part.absent}
    assert [name for name in goes - {*units_by_name(without)} if f"{SYSTEMD}/{name}" not in gone] == []
