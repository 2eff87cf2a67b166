"""Single lines of the log, for readers that need few of them: a search runs over whole chunks first."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mailkeep_server.mail_log.line_forms import TimeReader, split_line
from mailkeep_server.mail_log.sources import Chunk

MAX_HEAD, MAX_TAIL = 3000, 1000  # bytes of a longer line
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class LogLine(NamedTuple):
    """`time` as the log has it, `2026-11-29T02:00:00`; in Mailkeep's own logs, UTC. `program` as syslog names it, such
    as `postfix/submission/smtpd` or `dovecot`. `text` is safe to show: control characters are `?`."""

    time: str
    program: str
    process: str
    text: str


def search_lines(chunks: Iterable[Chunk], pattern: re.Pattern[bytes]) -> Iterator[LogLine]:
    """The lines in which `pattern` matches, in the order of the log. It should begin with a literal, for speed, and
    must not match the end of a line."""
    for chunk in chunks:
        reader = TimeReader(chunk.last_day)
        text, end = chunk.text, 0
        while match := pattern.search(text, end):
            begin = text.rfind(b"\n", 0, match.start()) + 1
            end = text.find(b"\n", match.end()) + 1 or len(text)
            if fields := split_line(text[begin : end - 1], reader.read):
                yield LogLine(*map(clean_text, fields))


def clean_text(data: bytes) -> str:
    """Text that can be shown: no control characters, no change of writing direction. A long one lacks its middle, which
    a stranger has written: both ends are the service's own."""
    if len(data) > MAX_HEAD + MAX_TAIL:
        data = b"%b ... %b" % (data[:MAX_HEAD], data[-MAX_TAIL:])
    return _UNSAFE.sub("?", data.decode("utf-8", "replace"))
