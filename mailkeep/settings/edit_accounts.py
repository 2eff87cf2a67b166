"""Adds, changes and removes accounts in `mail.yml` as text, so that comments and layout stay as they were.

A change is made only when the file that it leaves is valid and says what it said before but for that change.
The new file replaces the old one in one step, with its mode and owner. Two changes at once are made one after the
other, and what an editor has saved in between stays.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mailkeep.errors import UserError
from mailkeep.settings import yaml_reader
from mailkeep.settings.load import parse_settings
from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import format_size
from mailkeep.settings.yaml_reader import Problem, SettingsError

LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # YAML 1.1 section 5.4
LINE = re.compile("[^\n\r\x85\u2028\u2029]*(?:\r\n|[\n\r\x85\u2028\u2029]|$)")


class AccountRow(NamedTuple):
    """One account as `mailkeep account list` shows it; an empty `quota` is none."""

    address: str
    name: str
    quota: str
    send_as: tuple[str, ...]
    aliases: tuple[str, ...]


def list_accounts(declared: Settings) -> list[AccountRow]:
    """The accounts by address, each with the aliases that lead straight to it."""
    aliases: dict[str, list[str]] = {}
    for alias, targets in declared.aliases.items():
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
        for account in declared.accounts
    )


def add_account(path: Path, address: str, password_hash: str, name: str = "", quota: str | None = None) -> None:
    """Adds an account after the last; `quota` as in `mail.yml` (`2G`). Raises UserError, changing nothing."""
    fields = {"address": address, "password": password_hash, "name": name, "quota": quota}
    account: dict[str, Any] = {key: value for key, value in fields.items() if value}
    with _opened(path) as file:
        if address in file.addresses:
            raise UserError(f"{address} is already an account in {path}. A new password: mailkeep account passwd")
        file.append([f"{key}: {_scalar(key, value)}" for key, value in account.items()])
        file.save([*file.accounts, account], f"{address} is not added")


def set_password(path: Path, address: str, password_hash: str) -> None:
    """Puts a new hash in place of the account's old one. Raises UserError, changing nothing."""
    with _opened(path) as file:
        index = file.index(address)
        file.put(index, "password", _scalar("password", password_hash))
        changed = {**file.accounts[index], "password": password_hash}
        accounts = [*file.accounts[:index], changed, *file.accounts[index + 1 :]]
        file.save(accounts, f"The password of {address} is not changed")


def remove_account(path: Path, address: str) -> None:
    """Removes an account; its mail on the server stays. Raises UserError, changing nothing."""
    with _opened(path) as file:
        index = file.index(address)
        file.delete(index)
        file.save([*file.accounts[:index], *file.accounts[index + 1 :]], f"{address} is not removed")


def _scalar(key: str, value: str) -> str:
    if not value.isprintable():
        raise UserError(f"The {key} must be one line of printable characters.")
    if key == "password":  # begins with a brace
        return "'" + value.replace("'", "''") + "'"
    return str(yaml.safe_dump([value], allow_unicode=True, width=10**6))[2:].rstrip("\n")


@contextmanager
def _opened(path: Path) -> Iterator[_File]:
    """Read, changed and replaced while nobody else here does: the directory is locked, as the file itself is another
    one each time."""
    directory = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without such locks; then it is `save` alone that notices the other
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield _File(path)
    finally:
        os.close(directory)


class _File:
    """A mail.yml as lines to cut, and as YAML nodes whose marks say where."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = yaml_reader.read_text(path)
        self.data = yaml_reader.parse_document(path, self.content).data  # refuses what is unsafe to compose
        text = self.content.removeprefix("\ufeff")
        self.lines = [line for line in LINE.findall(text) if line]
        self.line_break = next((found[0] for found in LINE_BREAK.finditer(text)), "\n")
        self.accounts: list[dict[str, Any]] = self.data.get("accounts") or []
        if not isinstance(self.accounts, list) or not all(isinstance(each, dict) for each in self.accounts):
            parse_settings(path, self.content)  # raises: no account is like that
        self.addresses = [account.get("address") for account in self.accounts]
        root: Any = yaml.compose(text, Loader=yaml.CSafeLoader)
        self.root = root
        pairs: dict[str, tuple[Any, Any]] = {key.value: (key, value) for key, value in root.value}
        self.key, self.value = pairs.get("accounts", (None, None))

    def index(self, address: str) -> int:
        """Which account has this address."""
        if address not in self.addresses:
            near = get_close_matches(address, [str(known) for known in self.addresses], n=1)
            hint = f"Did you mean {near[0]}?" if near else "To see those there are: mailkeep account list"
            raise UserError(f"{address} is no account in {self.path}. {hint}")
        return self.addresses.index(address)

    def append(self, fields: list[str]) -> None:
        """Adds an item with these lines at the end of the accounts."""
        if self.key is None:
            indent, end = self.root.start_mark.column, self.root.end_mark
            at = len(self.lines) if end.column else end.line
            self._insert(at, [" " * indent + "accounts:", *_item(indent + 2, fields)])
        elif self.accounts:
            self._insert(self._span(-1)[1], _item(self.value.start_mark.column, fields))
        else:
            self._rewrite(self.value, "")
            self._insert(self.key.start_mark.line + 1, _item(self.key.start_mark.column + 2, fields))

    def put(self, index: int, field: str, written: str) -> None:
        """Writes another value of a field that the account has."""
        for key, value in self.value.value[index].value:
            if key.value == field:
                self._rewrite(value, written if value.value else f" {written}")

    def delete(self, index: int) -> None:
        """Removes an item's lines."""
        start, end = self._span(index)
        if end == len(self.lines) and not LINE_BREAK.search(self.lines[-1]):
            self.lines[start - 1] = LINE_BREAK.sub("", self.lines[start - 1])
        del self.lines[start:end]
        if len(self.accounts) == 1:
            mark = self.key.end_mark
            line = self.lines[mark.line]
            colon = line.find(":", mark.column) + 1
            self.lines[mark.line] = f"{line[:colon]} []{line[colon:]}"

    def save(self, accounts: list[dict[str, Any]], failed: str) -> None:
        """Replaces the file if the new one is valid and says what the old one did but for these accounts."""
        new = self.content[: self.content.startswith("\ufeff")] + "".join(self.lines)
        try:
            same = yaml_reader.parse_document(self.path, new).data == {**self.data, "accounts": accounts}
        except SettingsError:
            same = False
        if not same:
            line = self.key.start_mark.line + 1 if self.key else 0
            want = "accounts as a list of `- address: …` lines, or the change made by hand"
            layout = Problem(line, "accounts", "a layout that cannot be edited in place", want)
            raise UserError(f"{failed}, the file is as it was.\n{SettingsError(self.path, [layout])}")
        try:
            parse_settings(self.path, new)
        except SettingsError as error:
            raise UserError(f"{failed}, the file is as it was.\n{self._cause(error)}") from None
        if yaml_reader.read_text(self.path) != self.content:
            raise UserError(
                f"{failed}: somebody else has just changed {self.path}, which is as they left it. Run again."
            )
        _replace(self.path, new.encode())

    def _cause(self, error: SettingsError) -> SettingsError:
        """What is wrong with the file as it is, if that is all; else what the change would make wrong."""
        old: tuple[Problem, ...] = ()
        try:
            parse_settings(self.path, self.content)
        except SettingsError as before:
            old = before.problems
        known = {problem[1:] for problem in old}
        # These are on lines that the reader does not have.
        new = [problem._replace(line=0) for problem in error.problems if problem[1:] not in known]
        return SettingsError(self.path, new or old)

    def _rewrite(self, node: Any, written: str) -> None:
        start, end = node.start_mark, node.end_mark
        lines = self.lines[start.line : end.line + 1]
        if len(lines) > 1 and any("#" in line for line in lines):
            return  # rather refused by `save` than a comment lost
        before = lines[0][: start.column]
        after = lines[-1][end.column :] if end.line < len(self.lines) else ""
        self.lines[start.line : end.line + 1] = [(before if written else before.rstrip(" ")) + written + after]

    def _insert(self, at: int, block: list[str]) -> None:
        whole = at < len(self.lines) or bool(LINE_BREAK.search(self.lines[-1]))
        if not whole:
            self.lines[-1] += self.line_break
        self.lines[at:at] = [line + self.line_break for line in block]
        if not whole:
            self.lines[-1] = self.lines[-1].removesuffix(self.line_break)

    def _span(self, index: int) -> tuple[int, int]:
        """The lines of an item, from its dash to its last value and the comments indented below."""
        column = self.value.start_mark.column
        item = self.value.value[index]
        start = item.start_mark.line
        while start > 0 and self.lines[start][: column + 1].strip() != "-":
            start -= 1
        end = _end(item)
        comment = re.compile(rf"[ \t]{{{column + 1},}}#")
        while end < len(self.lines) and comment.match(self.lines[end]):
            end += 1
        return start, end


def _end(node: Any) -> int:
    """The line after the last that a node is written on; the end of a block includes what follows it."""
    while not getattr(node, "flow_style", True) and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    line: int = node.end_mark.line
    return line + 1 if node.end_mark.column else line


def _item(column: int, fields: list[str]) -> list[str]:
    return [" " * column + ("  " if number else "- ") + field for number, field in enumerate(fields)]


def _replace(path: Path, content: bytes) -> None:
    target = path.resolve()
    try:
        status = target.stat()
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".mail.yml.", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
                os.fchmod(file.fileno(), status.st_mode & 0o7777)
                Path(file.name).replace(target)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise UserError(f"{path} cannot be written, and is as it was: {error.strerror}") from None
