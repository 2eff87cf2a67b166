"""Breaks lines that SMTP does not carry, before a message is signed.

A line has at most 998 bytes (RFC 5321 section 4.5.3.1.6). Postfix breaks longer ones on the way out, by a line end and
a space (smtp_line_length_limit), and so breaks the signature. Sent unbroken, they are refused by other servers.
"""

import re

MAX_LINE = 990
"""Bytes of a line. Below Postfix's limit, which then finds nothing to break."""
MIN_LINE = 700
"""A line is broken at a blank from here on. Without one, it is broken at MAX_LINE."""
BREAK = b"\r\n "
_LONG_LINE = re.compile(rb"[^\n]{%d}" % (MAX_LINE + 2))


def has_long_line(data: bytes) -> bool:
    return _LONG_LINE.search(data) is not None


def break_body(body: bytes) -> bytes:
    """Each long line in pieces. All pieces after the first begin with a blank, as Postfix's do."""
    return b"\n".join(_break_line(line) for line in body.split(b"\n"))


def _break_line(line: bytes) -> bytes:
    end = b"\r" if line.endswith(b"\r") else b""
    rest = line.removesuffix(b"\r")
    pieces: list[bytes] = []
    while len(rest) > MAX_LINE:
        piece, rest = _split_line(rest, MAX_LINE - 1 if pieces else MAX_LINE)
        pieces.append(piece)
    return BREAK.join([*pieces, rest]) + end


def _split_line(line: bytes, length: int) -> tuple[bytes, bytes]:
    """The beginning, and the rest. The blank between them is the one with which the next line begins."""
    if (blank := line.rfind(b" ", MIN_LINE, length)) > 0:
        return line[:blank], line[blank + 1 :]
    return line[:length], line[length:]


def fold_header(name: bytes, value: bytes) -> bytes:
    """The value of a header with its lines folded (RFC 5322 section 2.2.3), or as it is if they are short enough. It is
    folded at blanks only, so a word that is too long stays."""
    first, *others = value.split(b"\n")
    room = MAX_LINE - len(name) - len(b": ")
    return b"\n".join([_fold_line(first, room), *(_fold_line(line, MAX_LINE) for line in others)])


def _fold_line(line: bytes, room: int) -> bytes:
    pieces: list[bytes] = []
    while len(line) > room and (blank := _find_fold(line, room)) > 0:
        pieces.append(line[:blank])
        line, room = line[blank:], MAX_LINE
    return b"\n".join([*pieces, line])


def _find_fold(line: bytes, room: int) -> int:
    """The last blank within the room, else the first one after it. Not one that would leave a line of blanks."""
    start = len(line) - len(line.lstrip(b" \t"))
    before = line.rfind(b" ", start, room)
    place = before if before > 0 else line.find(b" ", max(room, start))
    return place if place > 0 and line[place:].strip(b" \t") and line[:place].strip(b" \t") else -1
