"""The forms that syslog, journalctl(1) and the log keeper give to the beginning of a line, and its time in them.

A time is text here, as the log has it and without its zone: `2026-11-29T02:00:00`. So a day is the log's own day,
whatever zone the reader is in, and comparing is comparing text. Mailkeep's own logs are in UTC.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime

TIME_LENGTH = 19  # of `2026-11-29T02:00:00`
MAX_TIMES = 10_000  # kept in a cache
MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")

_ISO = rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"
_CLASSIC = rb"[A-Z][a-z]{2} [ \d]\d (?:\d{4} )?\d\d:\d\d:\d\d(?:\.\d+)?"  # RFC 3164 section 4.1.2; FreeBSD adds a year
_FULL = rb"[A-Z][a-z]{2} \d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? [A-Z][A-Za-z]*"  # journalctl --output short-full
_UNIX = rb"\d{9,11}\.\d{6}"  # journalctl --output short-unix
LINE = re.compile(
    rb"(?:<\d{1,3}>)?"  # RFC 3164 section 4.1.1, which few write into a file
    rb"(?P<time>%s|%s|%s|%s) "
    rb"(?:<[\w.]+> )?"  # facility and level, as FreeBSD's `syslogd -v` writes them
    rb"(?:(?P<host>[^\s\[\]]*[^\s\[\]:]) )?"
    rb"(?P<program>[A-Za-z_][\w./-]*)(?:\[(?P<pid>\d+)\])?: "
    rb"(?:\[ID \d+ [\w.]+\] )?" % (_ISO, _CLASSIC, _FULL, _UNIX)
)
"""The beginning of a line, up to the text of the program. A host ends in no colon, and has no brackets."""


class TimeReader:
    """Reads the times of one file. `last_day` is the day that its last line may have, for times without a year."""

    def __init__(self, last_day: date) -> None:
        self.last_day = last_day
        self._cache: dict[bytes, bytes] = {}

    def read(self, stamp: bytes) -> bytes:
        """`2026-11-29T02:00:00`. ValueError for what is no time."""
        if stamp[4:5] == b"-":
            return stamp[:TIME_LENGTH] if stamp[10:11] == b"T" else stamp[:10] + b"T" + stamp[11:TIME_LENGTH]
        if (time := self._cache.get(stamp)) is None:
            if len(self._cache) > MAX_TIMES:
                self._cache.clear()
            time = self._cache[stamp] = self._convert(stamp)
        return time

    def _convert(self, stamp: bytes) -> bytes:
        if stamp[:1].isdigit():
            return datetime.fromtimestamp(int(stamp.partition(b".")[0]), UTC).isoformat()[:TIME_LENGTH].encode()
        fields = stamp.split()
        if fields[1][4:5] == b"-":
            return fields[1] + b"T" + fields[2][:8]
        month, day = MONTHS.index(fields[0]) + 1, int(fields[1])
        year = int(fields[2]) if len(fields) == 4 else self._guess_year(month, day)
        return b"%04d-%02d-%02dT%b" % (year, month, day, fields[-1][:8])

    def _guess_year(self, month: int, day: int) -> int:
        return self.last_day.year - ((month, day) > (self.last_day.month, self.last_day.day))


def split_line(line: bytes, read_time: Callable[[bytes], bytes]) -> tuple[bytes, bytes, bytes, bytes] | None:
    """Time, program, process and text; nothing for what no syslog wrote."""
    if not (match := LINE.match(line)):
        return None
    try:
        time = read_time(match["time"])
    except ValueError:
        return None
    return time, match["program"], match["pid"] or b"", line[match.end() :]
