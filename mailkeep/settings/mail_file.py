"""A `mail.yml` that is edited as text, so that comments and layout stay as they were.

A change is made only if the new file is valid and holds the old data but for that change. The new file replaces the old
one in one step, with its mode and owner. Two changes at once are made one after the other, and what an editor saves in
between stays.

Not by ruamel.yaml's round trip: it ties a comment to the value before it. Removing the last account then removes the
heading comment of the next section, and a new account lands below that heading (seen with version 0.19.1).
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from mailkeep.atomic_file import write_atomically
from mailkeep.errors import UserError
from mailkeep.settings import account_rename, yaml_reader
from mailkeep.settings.load import parse_edited_settings, parse_settings
from mailkeep.settings.yaml_reader import Problem, SettingsError

LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # YAML 1.1 §5.4
LINE = re.compile("[^\n\r\x85\u2028\u2029]*(?:\r\n|[\n\r\x85\u2028\u2029]|$)")
BYTE_ORDER_MARK = "\ufeff"


@contextmanager
def open_mail_file(path: Path) -> Iterator[MailFile]:
    """Locks out other edits by Mailkeep. The lock is on the directory, because each edit replaces the file."""
    directory = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without such locks; then only `save` notices another edit
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield MailFile(path)
    finally:
        os.close(directory)


class _NodeLoader(yaml.CBaseLoader):
    """Composes nodes without tags: for those, PyYAML takes as long as for the nodes."""

    def resolve(self, *_: object) -> str:
        return ""

    def descend_resolver(self, *_: object) -> None: ...

    def ascend_resolver(self) -> None: ...


class MailFile:
    """A mail.yml as lines to cut, and as YAML nodes whose marks say where."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = yaml_reader.read_text(path)
        self.data = yaml_reader.parse_document(path, self.content).data  # refuses what is unsafe to compose
        text = self.content.removeprefix(BYTE_ORDER_MARK)
        self.lines = [line for line in LINE.findall(text) if line]
        self.line_break = next((match[0] for match in LINE_BREAK.finditer(text)), "\n")
        self.accounts: list[dict[str, Any]] = self.data.get("accounts") or []
        if not isinstance(self.accounts, list) or not all(isinstance(account, dict) for account in self.accounts):
            parse_settings(path, self.content)  # raises: such accounts are not valid
        self.addresses = [account.get("address") for account in self.accounts]
        self.root: Any = self.compose()
        pairs: dict[str, tuple[Any, Any]] = {key.value: (key, value) for key, value in self.root.value}
        self.key, self.value = pairs.get("accounts", (None, None))
        self.layout = (self.key.start_mark.line + 1 if self.key else 0, "accounts")
        self.expected = "accounts as a list of `- address: …` lines, or the change made by hand"

    def compose(self) -> Any:
        """The node of the whole file, as the lines are now."""
        with yaml_reader.paused_collection():
            return yaml.compose("".join(self.lines), Loader=_NodeLoader)

    def append_item(self, fields: list[str]) -> None:
        """Adds an item with these lines at the end of the accounts."""
        if self.key is None:
            indent, end = self.root.start_mark.column, self.root.end_mark
            position = len(self.lines) if end.column else end.line
            self.insert_lines(position, [" " * indent + "accounts:", *_format_item(indent + 2, fields)])
        elif self.accounts:
            self.insert_lines(self._span_of(-1)[1], _format_item(self.value.start_mark.column, fields))
        else:
            self.replace_node(self.value, "")
            self.insert_lines(self.key.start_mark.line + 1, _format_item(self.key.start_mark.column + 2, fields))

    def set_field(self, index: int, field: str, text: str) -> None:
        """Writes another value of a field that the account has."""
        for key, value in self.value.value[index].value:
            if key.value == field:
                self.replace_node(value, text if value.value else f" {text}")

    def apply_edits(self, edits: Iterable[account_rename.Edit]) -> None:
        """The last one first: the marks of the others stay right."""
        for edit in sorted(edits, key=lambda edit: (edit.line, edit.column), reverse=True):
            if edit.node is None:
                self.insert_lines(edit.line, edit.text.split("\n"))
            else:
                self.replace_node(edit.node, edit.text)

    def remove_item(self, index: int) -> None:
        """Removes an item's lines."""
        start, end = self._span_of(index)
        if end == len(self.lines) and not LINE_BREAK.search(self.lines[-1]):
            self.lines[start - 1] = LINE_BREAK.sub("", self.lines[start - 1])
        del self.lines[start:end]
        if len(self.accounts) == 1:
            mark = self.key.end_mark
            line = self.lines[mark.line]
            colon = line.find(":", mark.column) + 1
            self.lines[mark.line] = f"{line[:colon]} []{line[colon:]}"

    def save(self, accounts: list[dict[str, Any]], failure: str) -> None:
        """Replaces the file if the new one is valid and differs from the old one in these accounts only."""
        self.save_data({**self.data, "accounts": accounts}, failure, parse_edited_settings)

    def save_data(
        self, data: dict[str, Any], failure: str, parse: Callable[[Path, str, str], object] | None = None
    ) -> None:
        """Replaces the file if the new one is valid and holds these data."""
        new = self.content[: self.content.startswith(BYTE_ORDER_MARK)] + "".join(self.lines)
        if not self._has_data(new, data):
            layout = Problem(*self.layout, "a layout that cannot be edited in place", self.expected)
            raise UserError(f"{failure}, the file is as it was.\n{SettingsError(self.path, [layout])}")
        try:
            parse(self.path, new, self.content) if parse else parse_settings(self.path, new)
        except SettingsError as error:
            raise UserError(f"{failure}, the file is as it was.\n{self._new_problems(error)}") from None
        if yaml_reader.read_text(self.path) != self.content:
            raise UserError(
                f"{failure}: somebody else has just changed {self.path}. Their version stays; run this again."
            )
        _replace_file(self.path, new.encode())

    def _has_data(self, new: str, data: dict[str, Any]) -> bool:
        try:
            return bool(yaml_reader.parse_document(self.path, new).data == data)
        except SettingsError:
            return False

    def _new_problems(self, error: SettingsError) -> SettingsError:
        """The problems that the change would add; if it adds none, those of the file as it is."""
        old: tuple[Problem, ...] = ()
        try:
            parse_settings(self.path, self.content)
        except SettingsError as old_error:
            old = old_error.problems
        known = {problem[1:] for problem in old}
        # Their lines are those of the new file, which the operator does not have.
        new = [problem._replace(line=0) for problem in error.problems if problem[1:] not in known]
        return SettingsError(self.path, new or old)

    def replace_node(self, node: Any, text: str) -> None:
        start, end = node.start_mark, node.end_mark
        lines = self.lines[start.line : end.line + 1]
        if len(lines) > 1 and any("#" in line for line in lines):
            return  # `save` then refuses the change, rather than losing a comment
        before = lines[0][: start.column]
        after = lines[-1][end.column :] if end.line < len(self.lines) else ""
        self.lines[start.line : end.line + 1] = [(before if text else before.rstrip(" ")) + text + after]

    def insert_lines(self, position: int, block: list[str]) -> None:
        ends_with_break = position < len(self.lines) or bool(LINE_BREAK.search(self.lines[-1]))
        if not ends_with_break:
            self.lines[-1] += self.line_break
        self.lines[position:position] = [line + self.line_break for line in block]
        if not ends_with_break:
            self.lines[-1] = self.lines[-1].removesuffix(self.line_break)

    def _span_of(self, index: int) -> tuple[int, int]:
        """The lines of an item, from its dash to its last value and the comments indented below it."""
        column = self.value.start_mark.column
        item = self.value.value[index]
        start = item.start_mark.line
        while start > 0 and self.lines[start][: column + 1].strip() != "-":
            start -= 1
        end = account_rename.line_after(item)
        comment = re.compile(rf"[ \t]{{{column + 1},}}#")
        while end < len(self.lines) and comment.match(self.lines[end]):
            end += 1
        return start, end


def _format_item(column: int, fields: list[str]) -> list[str]:
    return [" " * column + ("  " if number else "- ") + field for number, field in enumerate(fields)]


def _replace_file(path: Path, content: bytes) -> None:
    target = path.resolve()  # a symbolic link stays one
    try:
        write_atomically(target, content, status=target.stat())
    except OSError as error:
        raise UserError(f"{path} cannot be written, and is as it was: {error.strerror}") from None
