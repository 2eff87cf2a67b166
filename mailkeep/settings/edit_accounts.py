"""Adds, changes and removes accounts in `mail.yml`."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from mailkeep.errors import UserError
from mailkeep.settings import account_rename
from mailkeep.settings.mail_file import MailFile, open_mail_file
from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import format_size


class AccountRow(NamedTuple):
    """One account as `mailkeep account list` shows it; an empty `quota` is the default."""

    address: str
    name: str
    quota: str
    send_as: tuple[str, ...]
    aliases: tuple[str, ...]


def list_accounts(settings: Settings) -> list[AccountRow]:
    """The accounts by address, each with the aliases that lead straight to it."""
    aliases: dict[str, list[str]] = {}
    for alias, targets in settings.aliases.items():
        for target in targets:
            aliases.setdefault(target, []).append(alias)
    return sorted(
        AccountRow(
            account.address,
            account.name,
            "" if account.quota is None else format_size(account.quota),
            account.send_as,
            tuple(aliases.get(account.address, ())),
        )
        for account in settings.accounts
    )


def check_account_is_new(path: Path, addresses: Collection[object], address: str) -> None:
    """Raises UserError if `addresses`, those of mail.yml's accounts, have it."""
    if address in addresses:
        raise UserError(f"{address} is already an account in {path}. `mailkeep account passwd` sets a new password.")


def check_account_exists(path: Path, addresses: Collection[object], address: str) -> None:
    """Raises UserError if `addresses`, those of mail.yml's accounts, do not have it."""
    if address not in addresses:
        similar = get_close_matches(address, map(str, addresses), n=1)
        hint = f"Did you mean {similar[0]}?" if similar else "`mailkeep account list` lists them."
        raise UserError(f"{address} is no account in {path}. {hint}")


def add_account(path: Path, address: str, password_hash: str, name: str = "", quota: str | None = None) -> None:
    """Adds an account after the last; `quota` as in `mail.yml` (`2G`). Raises UserError, changing nothing."""
    fields = {"address": address, "password": password_hash, "name": name, "quota": quota}
    account: dict[str, Any] = {key: value for key, value in fields.items() if value}
    with open_mail_file(path) as file:
        check_account_is_new(path, file.addresses, address)
        file.append_item([f"{key}: {_quote_scalar(key, value)}" for key, value in account.items()])
        file.save([*file.accounts, account], f"{address} is not added")


def set_password(path: Path, address: str, password_hash: str) -> None:
    """Replaces the account's hash. Raises UserError, changing nothing."""
    with open_mail_file(path) as file:
        index = _find_account(file, address)
        file.set_field(index, "password", _quote_scalar("password", password_hash))
        changed = {**file.accounts[index], "password": password_hash}
        accounts = [*file.accounts[:index], changed, *file.accounts[index + 1 :]]
        file.save(accounts, f"The password of {address} is not changed")


def rename_account(path: Path, old: str, new: str) -> None:
    """Gives an account another address, also where aliases and others name it. The old one becomes an alias of it, and
    one of its `send_as`. Raises UserError, changing nothing."""
    with open_mail_file(path) as file:
        _find_account(file, old)
        check_account_is_new(path, file.addresses, new)
        file.apply_edits(account_rename.list_edits(file.root, old, new))
        file.save_data(account_rename.rename_in_data(file.data, old, new), f"{old} is not renamed")


def remove_account(path: Path, address: str) -> None:
    """Removes an account; its mail on the server stays. Raises UserError, changing nothing."""
    with open_mail_file(path) as file:
        index = _find_account(file, address)
        file.remove_item(index)
        file.save([*file.accounts[:index], *file.accounts[index + 1 :]], f"{address} is not removed")


def _find_account(file: MailFile, address: str) -> int:
    """The index of the account with this address."""
    check_account_exists(file.path, file.addresses, address)
    return file.addresses.index(address)


def _quote_scalar(key: str, value: str) -> str:
    if not value.isprintable():
        raise UserError(f"The {key} must be one line of printable characters.")
    if key == "password":  # begins with a brace
        return "'" + value.replace("'", "''") + "'"
    return account_rename.quote_scalar(value)
