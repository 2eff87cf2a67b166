"""Lines as RFC 5424 section 6 has them, made into lines as syslog writes them elsewhere.

FreeBSD's `syslogd -O rfc5424` writes them, and rsyslog's template RSYSLOG_SyslogProtocol23Format.
"""

import re
from collections.abc import Iterator
from typing import IO

MAX_LINE = 1 << 16  # bytes; longer ones are cut
BATCH = 2000  # lines
_BEGINNING = re.compile(rb"<\d{1,3}>1 \d{4}-\d\d-\d\dT")
_LINE = re.compile(
    rb"<\d{1,3}>1 (?P<time>\d\S+) (?P<host>\S+) (?P<program>\S+) (?P<process>\S+) \S+ "
    rb"(?:-|(?:\[(?:[^\]\\]|\\.)*\])+) (?:\xef\xbb\xbf)?(?P<text>.*)"
)
_NOTHING = b"-"


def is_rfc5424(beginning: bytes) -> bool:
    return bool(_BEGINNING.match(beginning))


def convert_rfc5424(file: IO[bytes]) -> Iterator[bytes]:
    """As chunks of lines. What has another form stays as it is."""
    lines: list[bytes] = []
    while line := file.readline(MAX_LINE):
        lines.append(_convert_line(line.rstrip(b"\n")))
        if len(lines) >= BATCH:
            yield b"".join(lines)
            lines.clear()
    yield b"".join(lines)


def _convert_line(line: bytes) -> bytes:
    if not (match := _LINE.fullmatch(line)):
        return line + b"\n"
    host = b"" if match["host"] == _NOTHING else match["host"] + b" "
    process = b"" if match["process"] == _NOTHING else b"[%b]" % match["process"]
    return b"%b %b%b%b: %b\n" % (match["time"], host, match["program"], process, match["text"])
