"""Seconds of the processor that `mailkeep account` needs for a mail.yml with many accounts: list, add, passwd, remove.

Usage: .venv/bin/python bench/accounts.py [ACCOUNTS]
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mailkeep.settings import edit_accounts, yaml_reader
from mailkeep.settings.load import load_settings, parse_settings

HASH = "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43
NEW = "new@example.org"
HEAD = """\
host: {name: mail.example.org, addresses: [203.0.113.25]}
admin: {addresses: [you@example.net]}
domains: [example.org]
aliases: {postmaster@example.org: u0@example.org, abuse@example.org: u0@example.org}
accounts:
"""


def edit_loaded(file: Path, edit: Callable[..., None], *arguments: str) -> None:
    """As a command does: it reads the settings before it edits them."""
    load_settings(file)
    edit(file, *arguments)


COMMANDS: dict[str, Callable[[Path], object]] = {
    "list": lambda file: edit_accounts.list_accounts(load_settings(file)),
    "add": lambda file: edit_loaded(file, edit_accounts.add_account, NEW, HASH),
    "passwd": lambda file: edit_loaded(file, edit_accounts.set_password, NEW, HASH[:-1] + "B"),
    "remove": lambda file: edit_loaded(file, edit_accounts.remove_account, NEW),
}


def write_settings(file: Path, accounts: int) -> None:
    items = (
        f"  - address: u{number}@example.org\n    password: '{HASH}'\n    name: User {number}\n    quota: 2G\n"
        for number in range(accounts)
    )
    file.write_text(HEAD + "".join(items))


def measure_commands(accounts: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "mail.yml"
        write_settings(file, accounts)
        for name, command in COMMANDS.items():
            yaml_reader.parse_document.cache_clear()
            parse_settings.cache_clear()
            start = time.process_time()
            command(file)
            print(f"{name:8s} {time.process_time() - start:5.2f} s  ({accounts:,} accounts)")


if __name__ == "__main__":
    measure_commands(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
