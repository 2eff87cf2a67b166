"""The working copy of the demonstration's inventory: accounts and keys must not be in git, so they are created here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import yaml

from mailkeep.errors import UserError
from mailkeep.inventory import passwords, secrets, vault
from mailkeep.inventory.create import create_vault_and_keys, parse_new_settings, staging_directory
from mailkeep.inventory.hosts import HOSTS_FILE, SETTINGS_FILE

LOGINS = "logins.json"
SEPARATOR = b"\naccounts:\n"
ACCOUNTS = ("anna@example.test", "ben@example-two.test")


@dataclass(frozen=True, slots=True)
class DemoLogins:
    """The passphrases of the accounts, by address."""

    passphrases: Mapping[str, str] = field(repr=False)


def create_demo_inventory(source: Path, target: Path, today: date | None = None) -> DemoLogins:
    """Copy the inventory `source`, which has neither accounts nor keys, to `target`, and create both there.

    `logins.json` (0600) in `target` keeps the passphrases. A later call changes nothing unless `source` has changed.
    Then its files are copied again and missing keys are created; existing keys and passphrases stay.
    """
    today = today or date.today()
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        logins = {address: passwords.generate_password() for address in ACCOUNTS}
        with staging_directory(target) as stage:
            vault.write_private_file(stage / LOGINS, json.dumps(logins, indent=2).encode())
            text = _settings_text(source, logins)
            create_vault_and_keys(stage, parse_new_settings(text), today)
            _write_files(source, stage, text)
            stage.rename(target)
    logins = _read_logins(target / LOGINS)
    if not _is_up_to_date(source, target):
        text = _settings_text(source, logins)
        secrets.create_missing_keys(parse_new_settings(text), target, today)
        _write_files(source, target, text)
    return DemoLogins(logins)


def _settings_text(source: Path, logins: Mapping[str, str]) -> bytes:
    accounts = [
        {"address": address, "password": passwords.hash_password(passphrase)} for address, passphrase in logins.items()
    ]
    accounts_yaml = yaml.safe_dump(accounts, sort_keys=False, width=float("inf")).encode()
    return (source / SETTINGS_FILE).read_bytes() + SEPARATOR + accounts_yaml


def _write_files(source: Path, target: Path, text: bytes) -> None:
    vault.write_private_file(target / HOSTS_FILE, (source / HOSTS_FILE).read_bytes())
    vault.write_private_file(target / SETTINGS_FILE, text)


def _is_up_to_date(source: Path, target: Path) -> bool:
    settings_text, _, _ = (target / SETTINGS_FILE).read_bytes().partition(SEPARATOR)
    same_hosts = (target / HOSTS_FILE).read_bytes() == (source / HOSTS_FILE).read_bytes()
    return same_hosts and settings_text == (source / SETTINGS_FILE).read_bytes()


def _read_logins(path: Path) -> dict[str, str]:
    try:
        logins = json.loads(path.read_bytes())
    except (OSError, ValueError):
        logins = None
    if not isinstance(logins, dict):
        raise UserError(f"{path}: not readable. Remove {path.parent}; the next run creates the demonstration anew.")
    return logins
