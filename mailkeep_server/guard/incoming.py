"""The milter of port 25: refuses too much mail for an account, and marks a mail bomb's messages for their folder.

Postfix passes mail on without it (default_action=accept). It reads no bodies. It must be the last in smtpd_milters, so
that only accepted messages count.
"""

import struct
from collections.abc import Callable

from mailkeep_server.common.bulk_folders import BULK_HEADER
from mailkeep_server.common.milter_server import (
    CLIENT,
    CONTINUE,
    ProtocolError,
    answer_negotiation,
    first_address,
    format_refusal,
    read_macros,
)
from mailkeep_server.guard.correspondents import IncomingMessage, read_author
from mailkeep_server.guard.receiving import ReceivingJudge

_NO_CONNECT, _NO_HELO, _NO_BODY, _NO_END_OF_HEADER, _NO_UNKNOWN, _NO_DATA = 0x1, 0x2, 0x10, 0x40, 0x100, 0x200
_NO_HEADER_REPLY = 0x80
_PROTOCOL = _NO_CONNECT | _NO_HELO | _NO_BODY | _NO_END_OF_HEADER | _NO_UNKNOWN | _NO_DATA | _NO_HEADER_REPLY
_ADD_HEADERS = 0x1
_ADD_HEADER = b"h"


class IncomingSession:
    """One connection of Postfix's, for one message after another."""

    def __init__(self, judge: ReceivingJudge, read_clock: Callable[[], int]) -> None:
        self._judge, self._read_clock = judge, read_clock
        self._client = ""
        self._message = IncomingMessage()

    def answer_packet(self, packet: bytes) -> bytes:
        """The packets to answer with; empty where Postfix waits for none. Raises ProtocolError."""
        handler = _COMMANDS.get(packet[:1])
        if handler is None:
            raise ProtocolError(f"command {packet[:1]!r}")
        return b"".join(struct.pack("!I", len(reply)) + reply for reply in handler(self, packet[1:]))

    def _negotiate(self, data: bytes) -> list[bytes]:
        return [answer_negotiation(data, _ADD_HEADERS, _PROTOCOL)]

    def _take_macros(self, data: bytes) -> list[bytes]:
        self._client = read_macros(data).get(CLIENT, self._client)
        return []

    def _take_sender(self, data: bytes) -> list[bytes]:
        self._message = IncomingMessage(self._client, first_address(data).lower())
        return [CONTINUE]

    def _take_recipient(self, data: bytes) -> list[bytes]:
        recipient = first_address(data)
        if refusal := self._judge.judge_recipient(self._read_clock(), self._message, recipient):
            return [format_refusal(refusal)]
        self._message.recipients.append(recipient)
        return [CONTINUE]

    def _take_header(self, data: bytes) -> list[bytes]:
        name, _, value = data.removesuffix(b"\0").decode(errors="replace").partition("\0")
        name = name.strip().lower()
        if name == "from" and not self._message.author:
            self._message.author = read_author(value)
        elif name == "list-id":
            self._message.is_list_mail = True
        return []

    def _end_message(self, _data: bytes) -> list[bytes]:
        message, self._message = self._message, IncomingMessage()
        day = self._judge.judge_message(self._read_clock(), message)
        return [*([_ADD_HEADER + f"{BULK_HEADER}\0{day}\0".encode()] if day else []), CONTINUE]

    def _abort_message(self, _data: bytes) -> list[bytes]:
        self._message = IncomingMessage()
        return []


_COMMANDS: dict[bytes, Callable[[IncomingSession, bytes], list[bytes]]] = {
    b"O": IncomingSession._negotiate,
    b"D": IncomingSession._take_macros,
    b"M": IncomingSession._take_sender,
    b"R": IncomingSession._take_recipient,
    b"L": IncomingSession._take_header,
    b"E": IncomingSession._end_message,
    b"A": IncomingSession._abort_message,
    b"Q": IncomingSession._abort_message,
    b"K": IncomingSession._abort_message,
}
