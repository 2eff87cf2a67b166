"""Hashes a message's body as DKIM does, while it arrives (RFC 6376 section 3.4). Nothing of it is kept."""

import hashlib
import re
from bisect import bisect_left

SIMPLE, RELAXED = "simple", "relaxed"

_CRLF = b"\r\n"
_MAX_HELD = 2000
"""Bytes of blanks at the end of a piece that wait for the next. Postfix sends no more: it turns a stray <CR> to a
blank, and blanks in a row become a single one here."""
_PAIRS = 30_000  # of <CR><LF> that are hashed at a time


class BodyHash:
    """The SHA-256 of a body, and its length, in one of the two canonical forms."""

    def __init__(self, form: str) -> None:
        self._is_relaxed = form == RELAXED
        self._hash = hashlib.sha256()
        self._held = b""
        """The end of the last piece, whose form depends on what follows."""
        self._empty_lines = 0
        """Line ends that count only if something follows them."""
        self.length = 0

    def update(self, data: bytes) -> None:
        data = self._held + data
        content = data.rstrip(b" \t\r") if self._is_relaxed else data.removesuffix(b"\r")
        held = data[len(content) :]
        self._held = self._compress(held) if self._is_relaxed else held
        if len(self._held) > _MAX_HELD:
            content, self._held = content + self._held, b""
        self._hash_content(self._compress(content) if self._is_relaxed else content)

    def finish(self) -> bytes:
        """The hash of the whole body."""
        if self._held:
            self._hash_content(self._held)
        self._held = b""
        if self.length or not self._is_relaxed:
            self._count(_CRLF)
        self._empty_lines = 0
        return self._hash.digest()

    @staticmethod
    def _compress(content: bytes) -> bytes:
        if b" \r" in content or b"\t" in content or b"  " in content:
            content = re.sub(rb"[ \t]+", b" ", content).replace(b" \r\n", _CRLF)
        return content

    def _hash_content(self, content: bytes) -> None:
        pairs = _count_last_pairs(content)
        text = content[: len(content) - 2 * pairs]
        if text:
            while self._empty_lines:
                count = min(self._empty_lines, _PAIRS)
                self._count(_CRLF * count)
                self._empty_lines -= count
            self._count(text)
        self._empty_lines += pairs

    def _count(self, data: bytes) -> None:
        self._hash.update(data)
        self.length += len(data)


def _count_last_pairs(content: bytes) -> int:
    """How many <CR><LF> the content ends with. By halves, so that stray characters among many cost no more."""
    ends = content[len(content.rstrip(_CRLF)) :]
    counts = range(1, len(ends) // 2 + 1)
    return bisect_left(counts, True, key=lambda count: not ends.endswith(_CRLF * count))
