"""The milter that breaks long lines: Postfix asks it before the one that signs. It refuses nothing.

A message is kept until its end, because a milter can only replace a body as a whole. Its body is in a file, and is read
and answered in blocks. `mailkeep_server.common.milter_server` has the protocol.
"""

import struct
from collections.abc import Iterator
from io import BufferedIOBase, BytesIO

from mailkeep_server.common.milter_server import CONTINUE, ProtocolError, answer_negotiation, serve_systemd_socket
from mailkeep_server.lines.line_breaks import MAX_LINE, break_body, fold_header, has_long_line

MAX_CONNECTIONS = 200
MAX_HEADERS = 2000
MAX_HEADER_BYTES = 1 << 20  # of all headers; those after them stay as they are
MAX_IN_MEMORY = 1 << 16  # bytes of a body; a longer one is in a file

_CHANGE_BODY, _CHANGE_HEADERS = 0x2, 0x10
_SKIPPED = 0x1 | 0x2 | 0x4 | 0x8 | 0x40 | 0x100 | 0x200  # connect, helo, mail, rcpt, end of headers, unknown, data
_NO_REPLIES = 0x80 | 0x80000  # to headers and to pieces of the body
_PROTOCOL = _SKIPPED | _NO_REPLIES


class _Message:
    """The message in transfer."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.header_bytes = 0
        self.body: BufferedIOBase = BytesIO()
        self.tail = b""
        """The end of the last piece, which may be the beginning of a long line."""
        self.is_long = False

    def write_body(self, data: bytes) -> None:
        self.body.write(data)
        if isinstance(self.body, BytesIO) and self.body.tell() > MAX_IN_MEMORY:
            self.body = _move_to_file(self.body)


def _move_to_file(body: BytesIO) -> BufferedIOBase:
    from tempfile import TemporaryFile  # until then, it takes no memory

    file = TemporaryFile()  # noqa: SIM115 - `_forget_message` closes it
    file.write(body.getbuffer())
    return file


class LineSession:
    """One connection of Postfix's, for one message after another."""

    def __init__(self) -> None:
        self._message = _Message()

    def answer_packet(self, packet: bytes) -> Iterator[bytes]:
        """The packets to answer with; none where Postfix waits for none. Raises ProtocolError."""
        command, data = packet[:1], packet[1:]
        if command == b"O":
            yield answer_negotiation(data, _CHANGE_BODY | _CHANGE_HEADERS, _PROTOCOL)
        elif command == b"L":
            self._take_header(data)
        elif command == b"B":
            self._take_body(data)
        elif command == b"E":
            self._take_body(data)
            yield from self._end_message()
            self._forget_message()
        elif command in (b"A", b"K", b"Q"):
            self._forget_message()
        elif command != b"D":  # macros
            raise ProtocolError(f"command {command!r}")

    def _take_header(self, data: bytes) -> None:
        name, _, value = data.removesuffix(b"\0").partition(b"\0")
        message = self._message
        message.header_bytes += len(data)
        if len(message.headers) < MAX_HEADERS and message.header_bytes <= MAX_HEADER_BYTES:
            message.headers.append((name, value))

    def _take_body(self, data: bytes) -> None:
        message = self._message
        message.write_body(data)
        message.is_long = message.is_long or has_long_line(message.tail + data)
        message.tail = (message.tail + data)[-2 * MAX_LINE :]

    def _end_message(self) -> Iterator[bytes]:
        message = self._message
        counts: dict[bytes, int] = {}
        for name, value in message.headers:
            counts[name.lower()] = index = counts.get(name.lower(), 0) + 1
            if (folded := fold_header(name, value)) != value:
                yield b"m" + struct.pack("!I", index) + name + b"\0" + folded + b"\0"
        if message.is_long:
            message.body.seek(0)
            yield from (b"b" + block for block in break_body(message.body))
        yield CONTINUE

    def _forget_message(self) -> None:
        self._message.body.close()
        self._message = _Message()


def main(_arguments: list[str]) -> int:
    return serve_systemd_socket(lambda: LineSession().answer_packet, "lines", MAX_CONNECTIONS)
