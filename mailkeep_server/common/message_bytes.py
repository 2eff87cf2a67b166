"""What makes two messages the same: their bytes, whatever their line ends. Read in pieces, so of any size."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

Content: TypeAlias = bytes | Path
"""The bytes of a message, or a file with them."""
CHUNK = 2**18
MAX_IN_MEMORY = 2**22  # bytes of a message; a larger one is a file
LARGE_FILES = "/var/tmp"  # noqa: S108 - for directories of mkdtemp; /tmp is memory on Debian 13
MAX_HEADER = 2**16  # bytes in which the Message-ID is looked for
_MESSAGE_ID = re.compile(rb"^Message-ID[ \t]*:[ \t]*((?:\n[ \t]+|[^\n])*)", re.IGNORECASE | re.MULTILINE)


class MessageDigest:
    """SHA-256 of a message with LF as its line ends, and facts that are counted on the way.

    A Maildir has LF and IMAP has CRLF for the same line end, so neither is a difference. A CR elsewhere is kept. NUL
    counts as 0x80: IMAP has no NUL (RFC 3501, 4.3), and Dovecot, which keeps it, shows 0x80 to clients.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._header = b""
        self._pending_cr = False
        self.lines = self.nul_bytes = self._size = 0

    def update(self, chunk: bytes) -> None:
        data = (b"\r" if self._pending_cr else b"") + chunk
        self._pending_cr = data.endswith(b"\r")
        if self._pending_cr:
            data = data[:-1]
        self._take(data.replace(b"\r\n", b"\n"))

    def finish(self) -> str:
        """The hash, in hexadecimal digits. The facts are complete from now on."""
        if self._pending_cr:
            self._pending_cr = False
            self._take(b"\r")
        return self._sha256.hexdigest()

    @property
    def imap_size(self) -> int:
        """The message's size in IMAP (RFC822.SIZE): each line end counts two bytes."""
        return self._size + self.lines

    @property
    def message_id(self) -> str:
        header = self._header.partition(b"\n\n")[0]
        match = _MESSAGE_ID.search(header)
        return b" ".join(match.group(1).split()).decode(errors="backslashreplace") if match else ""

    def _take(self, data: bytes) -> None:
        self._size += len(data)
        self.lines += data.count(b"\n")
        if nul_bytes := data.count(b"\0"):
            self.nul_bytes += nul_bytes
            data = data.replace(b"\0", b"\x80")
        self._sha256.update(data)
        if len(self._header) < MAX_HEADER:
            self._header += data[: MAX_HEADER - len(self._header)]


def read_chunks(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def digest_content(content: Content) -> tuple[str, MessageDigest]:
    """The hash of a whole message, and the facts. Raises OSError."""
    digest = MessageDigest()
    for chunk in read_chunks(content):
        digest.update(chunk)
    return digest.finish(), digest
