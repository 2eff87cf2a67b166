"""The working copy of the demonstration inventory: what must not be in git is made where it is used."""

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
    """The passphrase of each address."""

    passphrases: Mapping[str, str] = field(repr=False)


def create_demo_inventory(source: Path, target: Path, today: date | None = None) -> DemoLogins:
    """Copies the inventory `source`, which has neither accounts nor keys, to `target` and gives it both.

    `logins.json` (0600) in it keeps the passphrases. Later calls change nothing unless `source` has changed:
    then they take over its files, make what keys it needs more, and keep all keys and passphrases.
    """
    today = today or date.today()
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        logins = {address: passwords.generate_password() for address in ACCOUNTS}
        with staging_directory(target) as stage:
            vault.write_private_file(stage / LOGINS, json.dumps(logins, indent=2).encode())
            text = _settings(source, logins)
            create_vault_and_keys(stage, parse_new_settings(text), today)
            _write(source, stage, text)
            stage.rename(target)
    logins = _logins(target / LOGINS)
    if not _taken_over(source, target):
        text = _settings(source, logins)
        secrets.create_missing_keys(parse_new_settings(text), target, today)
        _write(source, target, text)
    return DemoLogins(logins)


def _settings(source: Path, logins: Mapping[str, str]) -> bytes:
    accounts = [
        {"address": address, "password": passwords.hash_password(passphrase)} for address, passphrase in logins.items()
    ]
    listed = yaml.safe_dump(accounts, sort_keys=False, width=float("inf")).encode()
    return (source / SETTINGS_FILE).read_bytes() + SEPARATOR + listed


def _write(source: Path, target: Path, text: bytes) -> None:
    vault.write_private_file(target / HOSTS_FILE, (source / HOSTS_FILE).read_bytes())
    vault.write_private_file(target / SETTINGS_FILE, text)


def _taken_over(source: Path, target: Path) -> bool:
    ours, _, _ = (target / SETTINGS_FILE).read_bytes().partition(SEPARATOR)
    same_hosts = (target / HOSTS_FILE).read_bytes() == (source / HOSTS_FILE).read_bytes()
    return same_hosts and ours == (source / SETTINGS_FILE).read_bytes()


def _logins(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: not readable. Remove {path.parent} to have the demonstration made anew.")
    return found
