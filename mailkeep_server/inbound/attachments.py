"""The names of a message's attachments, read while it arrives. Nothing of their content is kept.

A part begins after a delimiter, a line with a boundary that a header has declared (RFC 2046 section 5.1.1). How deep
parts nest does not matter: all boundaries that were declared so far count.
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from mailkeep_server.common.mime_fields import find_boundary, unfold_lines
from mailkeep_server.guard.encoded_words import list_readings

MAX_BLOCK = 16_384
"""Bytes of a part's headers that are read. Mail programs read no names beyond."""
MAX_BOUNDARIES = 200
MAX_LINE = 2100
"""Bytes of the beginning of a line that wait for its end. Postfix breaks longer lines (line_length_limit)."""
_END_OF_HEADERS = re.compile(rb"\n\r?\n")
"""Headers begin with the line end before them."""
_NAME = re.compile(rb'(?:file)?name(?:\*(\d{1,3}))?(\*)?\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]+))', re.IGNORECASE)
_CHARSET = re.compile(rb"\A[\w.:-]*'[\w-]*'")


class AttachmentScan:
    """Takes a body in pieces. `extensions` are those of the attachments so far: lower case, without the dot."""

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.extensions: set[str] = set()
        self._boundaries: set[bytes] = set()
        self._delimiter: re.Pattern[bytes] | None = None
        self._held = b"\n"
        self._is_in_headers = self._read_block(b"\n".join(b": ".join(header) for header in headers))

    def update(self, data: bytes) -> None:
        data = self._held + data
        at: int | None = 0
        while at is not None:
            step = self._pass_headers if self._is_in_headers else self._pass_content
            at = step(data, at)

    def _pass_headers(self, data: bytes, at: int) -> int | None:
        """Where the content begins, by the line end before it; None if the headers are not complete."""
        end = _END_OF_HEADERS.search(data, at)
        if not end and len(data) - at < MAX_BLOCK:
            self._held = data[at:]
            return None
        stop = end.start() if end else at + MAX_BLOCK
        self._is_in_headers = self._read_block(data[at : min(stop, at + MAX_BLOCK)])
        return end.end() - 1 if end else stop

    def _pass_content(self, data: bytes, at: int) -> int | None:
        """Where the next part begins, by the line end before it; None if it has not begun."""
        if self._delimiter and (delimiter := self._delimiter.search(data, at)):
            self._is_in_headers = True
            return delimiter.end() - 1
        line = data[max(at, data.rfind(b"\n")) :]
        self._held = line if len(line) <= MAX_LINE else b""
        return None

    def _read_block(self, block: bytes) -> bool:
        """Whether the content is a message, which begins with headers."""
        is_message = False
        for field in unfold_lines(block):
            name, _, value = field.partition(b":")
            match name.strip().lower():
                case b"content-type":
                    is_message |= value.strip()[:8].lower() == b"message/"
                    if boundary := find_boundary(value):
                        self._add_boundary(boundary.rstrip())
                case b"content-disposition":
                    pass
                case _:
                    continue
            self.extensions.update(_find_extension(reading) for reading in _read_names(value))
        return is_message

    def _add_boundary(self, boundary: bytes) -> None:
        if len(self._boundaries) < MAX_BOUNDARIES:
            self._boundaries.add(re.escape(boundary))
            self._delimiter = re.compile(rb"\n--(?:%s)[ \t]*\r?\n" % b"|".join(self._boundaries))


def _read_names(value: bytes) -> Iterator[str]:
    """The names in a field, in all readings. One in several pieces (RFC 2231 section 3) is put together."""
    pieces: dict[int, bytes] = {}
    for number, starred, quoted, plain in _NAME.findall(value):
        text = re.sub(rb"\\(.)", rb"\1", quoted) or plain
        if starred:
            text = unquote_to_bytes(_CHARSET.sub(b"", text))
        yield from list_readings(text.decode("utf-8", "replace"))
        if number:
            pieces[int(number)] = text
    if pieces:
        yield b"".join(pieces[number] for number in sorted(pieces)).decode("utf-8", "replace")


def _find_extension(name: str) -> str:
    """Windows ignores dots and blanks at the end."""
    return name.rstrip(". \t\0").rpartition(".")[2].strip().lower()
