"""Entries of the journal, as journalctl(1) exports them, made into lines as the log keeper writes them.

https://systemd.io/JOURNAL_EXPORT_FORMATS/ has both forms. Whoever may write into the journal chooses all fields of an
entry but those that begin with an underscore. So an entry whose program claims to be Postfix, but which comes from
another unit, is left out.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import IO

MAX_FIELD = 1 << 16  # bytes; longer ones are cut
MAX_ENTRY = 1 << 24  # bytes; an entry in JSON that is longer is left out
BATCH = 2000  # lines
FIELDS = frozenset(
    (b"__REALTIME_TIMESTAMP", b"MESSAGE", b"SYSLOG_IDENTIFIER", b"_PID", b"SYSLOG_PID", b"_SYSTEMD_UNIT", b"_UID")
)
MAIL_UNITS = (b"postfix", b"dovecot", b"mailkeep-", b"opendkim")
Entry = Mapping[bytes, bytes]


def is_export(beginning: bytes) -> bool:
    return beginning.startswith((b"__CURSOR=", b"__REALTIME_TIMESTAMP="))


def is_json(beginning: bytes) -> bool:
    return beginning.startswith(b"{") and b'"__REALTIME_TIMESTAMP"' in beginning


def convert_export(file: IO[bytes]) -> Iterator[bytes]:
    """`journalctl --output export`, as chunks of lines."""
    return _join_lines(_read_export(file))


def convert_json(file: IO[bytes]) -> Iterator[bytes]:
    """`journalctl --output json`, as chunks of lines. What is no entry in JSON is left out."""
    return _join_lines(_read_json(file))


def _read_export(file: IO[bytes]) -> Iterator[Entry]:
    entry: dict[bytes, bytes] = {}
    while line := file.readline(MAX_ENTRY):
        if line == b"\n":
            yield entry
            entry = {}
            continue
        name, equals, value = line.partition(b"=")
        if not equals:  # a length in 64 bits, then as many bytes
            name, value = line.rstrip(b"\n"), _read_binary(file)
        if name in FIELDS:
            entry[name] = value[:MAX_FIELD]
    yield entry


def _read_binary(file: IO[bytes]) -> bytes:
    length = int.from_bytes(file.read(8), "little")
    value = file.read(min(length, MAX_FIELD))
    left = length - len(value)
    while left > 0 and (skipped := len(file.read(min(left, 1 << 20)))):
        left -= skipped
    file.read(1)  # the end of the line
    return value


def _read_json(file: IO[bytes]) -> Iterator[Entry]:
    while line := file.readline(MAX_ENTRY):
        try:
            values = json.loads(line)
            yield {name.encode(): _to_bytes(value) for name, value in values.items() if name.encode() in FIELDS}
        except (ValueError, AttributeError, TypeError, RecursionError):
            continue


def _to_bytes(value: object) -> bytes:
    """A field is text, or a list of bytes if it has bytes that are no UTF-8; of several values, the first."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        value = value[0]
    return value.encode("utf-8", "replace") if isinstance(value, str) else bytes(value)  # type: ignore[call-overload]


def _join_lines(entries: Iterable[Entry]) -> Iterator[bytes]:
    lines: list[bytes] = []
    for entry in entries:
        if line := _format_line(entry):
            lines.append(line)
        if len(lines) >= BATCH:
            yield b"".join(lines)
            lines.clear()
    yield b"".join(lines)


def _format_line(entry: Entry) -> bytes:
    try:
        micros = int(entry[b"__REALTIME_TIMESTAMP"])
        moment = datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="microseconds")
        text, program = b" ".join(entry[b"MESSAGE"].split()), entry.get(b"SYSLOG_IDENTIFIER", b"").strip()
    except (KeyError, ValueError, OverflowError, OSError):
        return b""
    if not _is_trusted(entry):
        return b""
    process = (entry.get(b"_PID") or entry.get(b"SYSLOG_PID", b"")).strip()
    return b"%b %b[%b]: %b\n" % (moment.encode(), program, process, text)


def _is_trusted(entry: Entry) -> bool:
    """By its unit, if the export has units."""
    unit = entry.get(b"_SYSTEMD_UNIT", b"").strip()
    return not unit or unit.startswith(MAIL_UNITS) or entry.get(b"_UID", b"").strip() == b"0"
