"""Reads an mbox (RFC 4155) piece by piece, as programs write it and as crashes leave it.

The lines that mail programs keep in an mbox for themselves (Status, X-UID and their kind) become flags and UIDs. They
are not the message's own, and Dovecot hides them too. `>From ` stays as it is: nobody can tell whether it was quoted.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MAX_LINE = 2**20  # bytes; a longer line is read in pieces
SEPARATOR = re.compile(
    rb"""From\ (?:.*\ )?(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),?\ +
    (?P<day>\d{1,2}\ +)?(?P<month>[A-Z][a-z]{2})\ +(?P<day2>\d{1,2}\ +)?
    (?P<time>\d{1,2}:\d\d(?::\d\d)?)(?P<zone>\ +[A-Z]{2,5}|\ +[+-]\d{4})?\ +
    (?P<year>\d{4})(?P<zone2>\ +[+-]\d{4})?""",
    re.VERBOSE,
)
_HEADER = re.compile(rb"[!-9;-~]+[ \t]*:")
_OWN_HEADERS = (b"status", b"x-status", b"x-keywords", b"x-uid", b"x-imap", b"x-imapbase", b"content-length")
_INTERNAL = b"DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STATUS = {"R": "\\Seen", "A": "\\Answered", "F": "\\Flagged", "D": "\\Deleted", "T": "\\Draft"}


class LineReader(Protocol):
    """A file."""

    def readline(self, limit: int, /) -> bytes: ...


@dataclass
class MboxMessage:
    """A message. `date` is 0 if its From line has none that can be read."""

    content: bytes
    flags: list[str]
    date: int
    uid: int


@dataclass
class MboxReader:
    """The messages of an mbox, and what was odd in it. `zone` is the time zone of the machine that wrote it.

    `uid_validity` is known after the first message. `leading` counts bytes before the first message, `nul_bytes` those
    between messages, as a crash leaves them.
    """

    zone: str = ""
    uid_validity: int = 0
    leading: int = 0
    nul_bytes: int = 0
    messages: int = field(default=0, init=False)

    def read_messages(self, file: LineReader) -> Iterator[MboxMessage]:
        """Each message is in memory while it is read. Raises OSError."""
        separator, lines, was_blank = b"", list[bytes](), True
        for line, following in _read_pairs(file):
            bare = line.lstrip(b"\0")
            if SEPARATOR.match(bare) and (was_blank or line != bare or _HEADER.match(following)):
                self.nul_bytes += len(line) - len(bare)
                if separator:
                    yield from self._make_message(separator, lines)
                separator, lines = bare, []
            elif separator:
                lines.append(line)
            else:
                self.leading += len(line.strip(b"\r\n\0"))
            was_blank = line in (b"\n", b"\r\n")
        if separator:
            yield from self._make_message(separator, lines)

    def _make_message(self, separator: bytes, lines: list[bytes]) -> Iterator[MboxMessage]:
        if len(lines) > 1 and lines[-1] in (b"\n", b"\r\n"):
            lines.pop()  # belongs to the next From line
        kept, headers = split_header(lines)
        if "x-imapbase" in headers or "x-imap" in headers:
            base = (headers.get("x-imapbase") or headers["x-imap"]).split()
            self.uid_validity = int(base[0]) if base and base[0].isdigit() else 0
        content = b"".join(kept)
        if "x-imap" in headers and _INTERNAL in content[:4096]:
            return  # UW-IMAP's own record
        self.messages += 1
        flags = [_STATUS[letter] for letter in headers.get("status", "").upper() if letter == "R"]
        flags += [_STATUS[letter] for letter in headers.get("x-status", "").upper() if letter in "AFDT"]
        flags += headers.get("x-keywords", "").split()
        uid = headers.get("x-uid", "").strip()
        yield MboxMessage(content, sorted(set(flags)), self._read_date(separator), int(uid) if uid.isdigit() else 0)

    def _read_date(self, separator: bytes) -> int:
        match = SEPARATOR.match(separator)
        if not match:
            return 0
        parts = {key: (value or b"").decode().strip() for key, value in match.groupdict().items()}
        clock = parts["time"] if parts["time"].count(":") == 2 else f"{parts['time']}:00"
        if parts["month"] not in _MONTHS:
            return 0
        text = f"{parts['day'] or parts['day2']} {_MONTHS.index(parts['month']) + 1} {parts['year']} {clock}"
        try:
            moment = datetime.strptime(text, "%d %m %Y %H:%M:%S")
        except ValueError:
            return 0
        offset = next((value for value in (parts["zone"], parts["zone2"]) if value[:1] in ("+", "-")), "")
        if offset:
            seconds = int(offset[1:3]) * 3600 + int(offset[3:5]) * 60
            return int(moment.replace(tzinfo=UTC).timestamp()) - (seconds if offset[0] == "+" else -seconds)
        return max(int(moment.replace(tzinfo=_find_zone(parts["zone"] or self.zone)).timestamp()), 0)


def split_header(lines: list[bytes]) -> tuple[list[bytes], dict[str, str]]:
    """The lines without those that mail programs keep in an mbox for themselves, and these by their names in lower
    case."""
    headers: dict[str, str] = {}
    end = next((number for number, line in enumerate(lines) if line in (b"\n", b"\r\n")), len(lines))
    kept, name = list[bytes](), ""
    for line in lines[:end]:
        if line[:1] in (b" ", b"\t"):
            if name:
                headers[name] += " " + line.decode(errors="replace").strip()
                continue
        else:
            key, _, value = line.partition(b":")
            name = key.strip().lower().decode(errors="replace") if key.strip().lower() in _OWN_HEADERS else ""
            if name:
                headers[name] = value.decode(errors="replace").strip()
                continue
        kept.append(line)
    return kept + lines[end:], headers


def _read_pairs(file: LineReader) -> Iterator[tuple[bytes, bytes]]:
    """Each line, and the next."""
    line = file.readline(MAX_LINE)
    while line:
        following = file.readline(MAX_LINE)
        yield line, following
        line = following


def _find_zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")
