"""Breaks lines that SMTP does not carry, before a message is signed.

A line has at most 998 bytes (RFC 5321 section 4.5.3.1.6). Postfix breaks longer ones on the way out, by a line end and
a space (smtp_line_length_limit), and so breaks the signature. Sent unbroken, they are refused by other servers.
"""

from collections.abc import Iterator
from io import BufferedIOBase

MAX_LINE = 990
"""Bytes of a line. Below Postfix's limit, which then finds nothing to break."""
MIN_LINE = 700
"""A line is broken at a blank from here on. Without one, it is broken at MAX_LINE."""
BLOCK = 60_000
"""Bytes of a body that are read together. With the breaks in them, they fit into one packet of a milter's protocol."""
_LONG = MAX_LINE + len(b"\r\n")


def has_long_line(data: bytes) -> bool:
    """Whether _LONG bytes stand without a line feed among them. The work grows with the bytes, not with their lines."""
    start = 0
    while len(data) - start >= _LONG:
        line_feed = data.rfind(b"\n", start, start + _LONG)
        if line_feed < 0:
            return True
        start = line_feed + 1
    return False


def break_body(body: BufferedIOBase) -> Iterator[bytes]:
    """The body in blocks, each long line in pieces. All pieces after the first begin with a blank, as Postfix's do.

    Nothing but a block is in memory: a body may have as many bytes as a message, in lines of any length.
    """
    rest = b""
    while block := body.read(BLOCK):
        text = rest + block
        end = text.rfind(b"\n") + 1
        lines, (*pieces, rest) = text[:end], _break_line(text[end:])
        if has_long_line(lines):
            lines = b"\n".join(b"\r\n".join(_break_line(line)) for line in lines.split(b"\n"))
        if changed := b"".join([lines, *(piece + b"\r\n" for piece in pieces)]):
            yield changed
    if rest:
        yield rest


def _break_line(line: bytes) -> list[bytes]:
    """The line in pieces that fit. It may be the beginning of a line: a carriage return at its end is not counted."""
    pieces: list[bytes] = []
    room = MAX_LINE + line.endswith(b"\r")
    while len(line) > room:
        if (blank := line.rfind(b" ", MIN_LINE, MAX_LINE)) > 0:
            piece, line = line[:blank], line[blank:]
        else:
            piece, line = line[:MAX_LINE], b" " + line[MAX_LINE:]
        pieces.append(piece)
    return [*pieces, line]


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
