"""How the operator's machine and the server speak during an import: lines of JSON, some of them followed by bytes.

A line has messages as lists: their values in the order of the fields here.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from mailkeep_server.common.message_bytes import CHUNK, MAX_IN_MEMORY, Content, read_chunks

MAX_LINE = 2**26  # bytes


class CutError(Exception):
    """The other side has ended, or sends nonsense."""


class Arrival(NamedTuple):
    """A message of the source that is in a folder of the server. `key` is unique in the source; `size` is IMAP's."""

    key: str
    digest: str
    size: int
    message_id: str
    flags: list[str]
    uid_validity: int
    uid: int
    nul_bytes: int


class FolderMessage(NamedTuple):
    """A message that is in a folder of the server, with the hash of its bytes. `flags` are flags and keywords, `date`
    is its INTERNALDATE."""

    uid: int
    flags: list[str]
    date: int
    size: int
    digest: str
    message_id: str


def write_line(writer: IO[bytes], values: dict[str, Any]) -> None:
    """Raises OSError."""
    writer.write(json.dumps(values, separators=(",", ":")).encode() + b"\n")


def write_content(writer: IO[bytes], values: dict[str, Any], content: Content, size: int) -> None:
    """A line with `size`, and so many bytes. Raises OSError, and CutError when the content is shorter."""
    write_line(writer, {**values, "size": size})
    for chunk in read_chunks(content):
        writer.write(chunk[:size])
        size -= len(chunk[:size])
    if size:
        raise CutError("a message became shorter while it was read")


def read_line(reader: IO[bytes]) -> dict[str, Any]:
    """Raises CutError at the end of the stream."""
    line = reader.readline(MAX_LINE)
    if not line.endswith(b"\n"):
        raise CutError("the connection has ended")
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise CutError(f"not a line of an import: {line[:200].decode(errors='replace').strip()}")
    return values


def read_content(reader: IO[bytes], size: int, directory: str) -> Content:
    """The bytes that follow a line: in memory, or if they are many in a new file in `directory`. Raises CutError and
    OSError."""
    if size <= MAX_IN_MEMORY:
        content = reader.read(size)
        if len(content) != size:
            raise CutError("the connection has ended within a message")
        return content
    with tempfile.NamedTemporaryFile(dir=directory, delete=False) as file:
        while size and (chunk := reader.read(min(CHUNK, size))):
            file.write(chunk)
            size -= len(chunk)
    if size:
        Path(file.name).unlink()
        raise CutError("the connection has ended within a message")
    return Path(file.name)


def discard_content(content: Content) -> None:
    if isinstance(content, Path):
        content.unlink(missing_ok=True)


def hash_text(text: str) -> str:
    """A short name for a file about `text`."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def iterate_lines(reader: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Lines until `{"end": true}`. Raises CutError if that does not come."""
    while not (values := read_line(reader)).get("end"):
        yield values
