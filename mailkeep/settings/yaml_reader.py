"""Reads a YAML file as plain data that remembers its line numbers.

Every scalar is the text as written, or None if nothing is written. The models decide what `no`, `0022` or `10:30`
means, so none of YAML 1.1's guesses changes a value. Anchors, aliases and tags are refused: the settings need none, and
an alias inside an alias grows without bound.
"""

from __future__ import annotations

import gc
import json
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from mailkeep.errors import UserError

MAX_FILE_BYTES = 10 * 2**20
MAX_NESTING = 16
MAX_VALUES = 400_000  # keys included; 10,000 accounts with every setting have about 200,000
MAX_SHOWN_PROBLEMS = 12

Loc = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""

_NOTHING = ("", "~", "null")
# What git leaves at the beginning of lines (git-merge(1), "how conflicts are presented").
_CONFLICT = re.compile(r"^(?:<{7}|\|{7}|={7}|>{7})(?=\s|$)[^\r\n]*", re.MULTILINE)
# libyaml misses the end of these only lines later; the mistake is where they begin.
_LEFT_OPEN = ("while parsing a flow sequence", "while parsing a flow mapping", "while scanning a quoted scalar")


class Problem(NamedTuple):
    """One thing to mend. `line` counts from 1; 0 is the file as a whole."""

    line: int
    field: str
    actual: str
    expected: str


class SettingsError(UserError):
    """All problems of one file, in the order of its lines."""

    def __init__(self, path: Path, problems: Sequence[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems))
        blocks = [_format_problem(path, problem) for problem in self.problems[:MAX_SHOWN_PROBLEMS]]
        if hidden := len(self.problems) - len(blocks):
            blocks.append(f"… and {hidden} more")
        super().__init__("\n".join(blocks))


def _format_problem(path: Path, problem: Problem) -> str:
    line = f":{problem.line}" if problem.line else ""
    return f"{path}{line}: {problem.field}\n  found  {problem.actual}\n  want   {problem.expected}"


@dataclass(frozen=True)
class Document:
    """A file's data, and the line of each value by its path of keys and indexes."""

    # Not compared, so that equal settings are equal wherever they were read.
    path: Path = field(compare=False)
    data: dict[str, Any] = field(compare=False)
    content: str = field(compare=False, repr=False)

    @cached_property
    def lines(self) -> dict[Loc, int]:
        """Read only when a message needs one: of 10,000 accounts they take as long as the data."""
        builder = _Builder()
        builder.build_document(yaml.parse(self.content, Loader=yaml.CSafeLoader))
        return builder.lines

    def line(self, loc: Loc) -> int:
        """The line of the value at `loc`, or of the nearest value around it; 0 without any."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 0)


def format_value(value: object) -> str:
    """`value` as an error message shows it: one short line without control characters."""
    if value is None or value == "":
        return "nothing"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    return _escape(json.dumps(_shorten_text(value), ensure_ascii=False) if isinstance(value, str) else str(value))


def format_kind(value: object) -> str:
    """The kind of `value`, for messages that must not repeat it."""
    return "text" if isinstance(value, str) else format_value(value)


def format_path(loc: Loc) -> str:
    """`loc` as documentation and messages write it: accounts[1].quota, aliases[info@example.org]."""
    if "password" in loc:  # the rest may be a clear text password that happens to be YAML
        loc = loc[: loc.index("password") + 1]
    steps = (f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step}]" for step in loc)
    return _escape("".join(_shorten_text(step, 80) for step in steps)).removeprefix(".")


def _shorten_text(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _escape(text: str) -> str:
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)


def read_text(path: Path) -> str:
    """The file's text, line ends as they are. SettingsError unless it is at most 10 MB of UTF-8."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "something that is not a regular file"
            raise SettingsError(path, [Problem(0, "cannot be read", kind, "the path of a mail.yml")])
        if status.st_size > MAX_FILE_BYTES:
            size = f"{status.st_size / 2**20:.0f} MB"
            raise SettingsError(path, [Problem(0, "is too large", size, "a file of at most 10 MB")])
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SettingsError(path, [Problem(0, "cannot be read", reason, "a readable mail.yml")]) from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        actual = f"byte 0x{data[error.start]:02x}, which is not UTF-8"
        raise SettingsError(path, [Problem(line, "encoding", actual, "the file saved as UTF-8")]) from None


@contextmanager
def paused_collection() -> Iterator[None]:
    """Without garbage collection: among 100,000 values that are all kept, it takes twice as long as reading them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@lru_cache(maxsize=2)  # a command reads the settings, then edits the same file, and compares both
def parse_document(path: Path, content: str) -> Document:
    """The one YAML mapping in `content`; `path` is for the messages. Its data must not be changed. Raises
    SettingsError."""
    with paused_collection():
        data = _build_plainly(content)
        if data is None:
            data = _build_with_lines(path, content)
    return Document(path, data, content)


def _build_with_lines(path: Path, content: str) -> dict[str, Any]:
    """The data; or a SettingsError that says in which line something is wrong."""
    builder = _Builder()
    try:
        data = builder.build_document(yaml.parse(content, Loader=yaml.CSafeLoader))
    except _RefusedError as refused:
        raise SettingsError(path, [*builder.problems, refused.problem]) from None
    except yaml.YAMLError as error:
        raise SettingsError(path, [_describe_syntax_error(error, content)]) from None
    if not isinstance(data, dict):
        actual = "an empty file" if data is None else f"{format_kind(data)} at the top"
        expected = "`key: value` lines, as in inventories/example/mail.yml; `mailkeep init` writes them"
        raise SettingsError(path, [Problem(0, "holds no settings", actual, expected)])
    if builder.problems:
        raise SettingsError(path, builder.problems)
    return data


class _UnclearError(Exception):
    """Something that `_Builder` refuses, and can say where."""


def _build_plainly(content: str) -> dict[str, Any] | None:
    """The data of a file without any mistake, in half the time; else None."""
    events = yaml.parse(content, Loader=yaml.CSafeLoader)
    try:
        next(events), next(events)  # of the stream and the document
        data = _PlainBuilder(events).build_value(next(events), 0)
        next(events)
        is_whole = isinstance(next(events, None), yaml.StreamEndEvent)
    except (_UnclearError, yaml.YAMLError, StopIteration):
        return None
    return data if is_whole and isinstance(data, dict) else None


class _PlainBuilder:
    """As `_Builder`, without lines."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self.events, self.values = events, 0

    def build_value(self, event: Any, depth: int) -> object:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            text = self.read_scalar(event)
            return None if text in _NOTHING and event.implicit[0] else text
        if kind not in (yaml.MappingStartEvent, yaml.SequenceStartEvent) or event.anchor or event.tag:
            raise _UnclearError
        self.values += 1
        if depth >= MAX_NESTING:  # `_Builder` knows exactly
            raise _UnclearError
        return self.build_mapping(depth + 1) if kind is yaml.MappingStartEvent else self.build_sequence(depth + 1)

    def read_scalar(self, event: Any) -> str:
        self.values += 1
        if event.anchor is not None or event.tag is not None or self.values > MAX_VALUES:
            raise _UnclearError
        return str(event.value)

    def build_mapping(self, depth: int) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for event in self.events:
            kind = type(event)
            if kind is yaml.MappingEndEvent:
                break
            if kind is not yaml.ScalarEvent:
                raise _UnclearError
            key = self.read_scalar(event)
            if key in mapping:
                raise _UnclearError
            mapping[key] = self.build_value(next(self.events), depth)
        return mapping

    def build_sequence(self, depth: int) -> list[object]:
        items = []
        for event in self.events:
            if type(event) is yaml.SequenceEndEvent:
                break
            items.append(self.build_value(event, depth))
        return items


class _RefusedError(Exception):
    def __init__(self, problem: Problem) -> None:
        self.problem = problem


class _Builder:
    """Builds the data from libyaml's events. They come without recursion, so nesting can be bounded here."""

    def __init__(self) -> None:
        self.lines: dict[Loc, int] = {}
        self.problems: list[Problem] = []
        self.values = 0

    def build_document(self, events: Iterator[yaml.Event]) -> object:
        self.events = events
        data: object = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    _refuse_event(event, (), "a second document (---)", "one document in the file")
                data = self._build_value(next(events), ())
        return data

    def _build_value(self, event: yaml.Event, loc: Loc) -> object:
        if isinstance(event, yaml.AliasEvent):
            _refuse_event(event, loc, "a YAML alias (*)", "the value itself, in quotes if it begins with *")
        assert isinstance(event, yaml.NodeEvent)
        if event.anchor is not None:
            _refuse_event(event, loc, "a YAML anchor (&)", "the value itself, in quotes if it begins with &")
        if getattr(event, "tag", None) is not None:
            _refuse_event(event, loc, "a YAML tag (!)", "the value itself, in quotes if it begins with !")
        self.values += 1
        if self.values > MAX_VALUES:
            _refuse_event(event, loc[:1], f"more than {MAX_VALUES:,} values", "fewer")
        if len(loc) > MAX_NESTING:
            _refuse_event(event, loc[:3], "deep nesting", f"at most {MAX_NESTING} levels")
        if isinstance(event, yaml.MappingStartEvent):
            return self._build_mapping(loc)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._build_sequence(loc)
        assert isinstance(event, yaml.ScalarEvent)
        is_plain = event.implicit[0]
        return None if is_plain and event.value in _NOTHING else event.value

    def _build_mapping(self, loc: Loc) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._read_key(event, loc)
            line = _line_of(event)
            below = (*loc, key)
            if key in mapping:
                actual = f"a second time; first on line {self.lines[below]}"
                self.problems.append(Problem(line, format_path(below), actual, "each key once"))
            self.lines[below] = line
            mapping[key] = self._build_value(next(self.events), below)
        return mapping

    def _read_key(self, event: yaml.Event, loc: Loc) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            _refuse_event(event, loc, "a key that is a list, a mapping or an alias", "text as the key")
        self._build_value(event, loc)
        return str(event.value)

    def _build_sequence(self, loc: Loc) -> list[object]:
        items: list[object] = []
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            below = (*loc, len(items))
            self.lines[below] = _line_of(event)
            items.append(self._build_value(event, below))
        return items


def _refuse_event(event: yaml.Event, loc: Loc, actual: str, expected: str) -> NoReturn:
    raise _RefusedError(Problem(_line_of(event), format_path(loc) or "YAML", actual, expected))


def _line_of(event: yaml.Event) -> int:
    return _line_of_mark(event.start_mark)


def _line_of_mark(mark: Any) -> int:  # of libyaml, or of PyYAML's own
    return mark.line + 1 if mark else 0


def _describe_syntax_error(error: yaml.YAMLError, content: str) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        line = content.encode().count(b"\n", 0, error.position) + 1
        actual = f"the control character 0x{ord(chr(error.character)):02x}"
        return Problem(line, "not text", actual, "the file without it")
    if conflict := _CONFLICT.search(content):
        line = content.count("\n", 0, conflict.start()) + 1
        actual = f"{format_value(conflict[0])}: a merge conflict is left in the file"
        return Problem(line, "not YAML", actual, "one side of the conflict, or both merged, without git's marks")
    assert isinstance(error, yaml.MarkedYAMLError)
    # The message begins with "found" itself.
    actual, line = (error.problem or "a syntax error").removeprefix("found "), _line_of_mark(error.problem_mark)
    start = _line_of_mark(error.context_mark)
    if error.context in _LEFT_OPEN and start < line:
        actual, line = f"{actual} up to line {line}", start
    return Problem(line, "not YAML", actual, _suggest_remedy(content, line))


def _suggest_remedy(content: str, line: int) -> str:
    """The mistake that this line suggests."""
    lines = content.splitlines()
    text = lines[line - 1] if 0 < line <= len(lines) else ""
    if text.lstrip(" ").startswith("\t"):
        return "spaces: YAML does not allow a tab in the indentation"
    if re.search(r"password: *\{[A-Z0-9-]+\}\$", text):
        return "quotes around the hash, which begins with a brace: password: '{ARGON2ID}$…'"
    return "a look at this line and the one above: indentation, a missing colon, an open quote or bracket"
