"""The milter protocol, version 6, as Postfix speaks it (MILTER_README, Sendmail's libmilter/mfdef.h).

A milter sees what a policy service does not: who a message says it is from, and whether it went in the end. This one
changes nothing in a message. It must be the last in smtpd_milters: a message that it has seen whole is then one that
no other milter refuses.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from mailkeep_server.guard import from_header
from mailkeep_server.guard.judge import Judge

LARGEST_PACKET = 1 << 17
"""Bytes. Postfix sends a header line in one packet; header_size_limit is 102,400."""

_VERSION = 6
_NO_CONNECT, _NO_HELO, _NO_BODY, _NO_END_OF_HEADER, _NO_UNKNOWN, _NO_DATA = 0x1, 0x2, 0x10, 0x40, 0x100, 0x200
_NOT_WANTED = _NO_CONNECT | _NO_HELO | _NO_BODY | _NO_END_OF_HEADER | _NO_UNKNOWN | _NO_DATA
_QUIET_HEADERS, _QUIET_RECIPIENTS, _LEADING_SPACE = 0x80, 0x8000, 0x100000
# Postfix waits for answers one after another: for as few as will do. Of a sender it must wait for one, as it sends what
# it waits for no answer to only with the next thing that it does.
_PROTOCOL = _NOT_WANTED | _QUIET_HEADERS | _QUIET_RECIPIENTS
_CONTINUE, _REPLY, _LATER = b"c", b"y", b"t"
_LOGIN, _QUEUE_ID = "{auth_authen}", "i"


class ProtocolError(Exception):
    """Not what Postfix says."""


@dataclass(slots=True)
class _Mail:
    """The message at hand."""

    login: str = ""
    queue_id: str = ""
    recipients: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)


class Milter:
    """One connection of Postfix's."""

    def __init__(self, judge: Judge, now: Callable[[], int]) -> None:
        self._judge, self._now = judge, now
        self._mail = _Mail()
        self._macros: dict[str, str] = {}

    def answer(self, packet: bytes) -> bytes:
        """The packet to answer with; empty where Postfix waits for none. Raises ProtocolError."""
        handler = _COMMANDS.get(packet[:1])
        if handler is None:
            raise ProtocolError(f"command {packet[:1]!r}")
        said = handler(self, packet[1:])
        return struct.pack("!I", len(said)) + said if said else b""

    def lost(self) -> None:
        """The connection is gone."""
        self._abort()

    def _negotiate(self, data: bytes) -> bytes:
        if len(data) < 12:
            raise ProtocolError("a short negotiation")
        version, _actions, offered = struct.unpack_from("!III", data)
        if version < _VERSION or _PROTOCOL & ~offered:
            raise ProtocolError(f"version {version} with protocol {offered:#x}")
        return b"O" + struct.pack("!III", _VERSION, 0, _PROTOCOL | (offered & _LEADING_SPACE))

    def _take_macros(self, data: bytes) -> None:
        """They come before the command whose letter they begin with; those of a sender begin a message."""
        words = _words(data[1:])
        told = dict(zip(words[::2], words[1::2], strict=False))
        before = {} if data[:1] == b"M" else self._macros
        self._macros = before | {name: told[name] for name in (_LOGIN, _QUEUE_ID) if name in told}

    def _sender(self, data: bytes) -> bytes:
        self._abort()
        self._mail = _Mail(login=self._macros.get(_LOGIN, "").lower())
        address = [*_words(data), ""][0].removeprefix("<").removesuffix(">")
        # The empty sender is that of a receipt (RFC 8098); Postfix refuses it in its own words.
        foreign = self._mail.login and address and not self._judge.owns(self._mail.login, address)
        return (self._refusal(address) if foreign else None) or _CONTINUE

    def _recipient(self, _data: bytes) -> None:
        self._mail.recipients += 1
        self._mail.queue_id = self._macros.get(_QUEUE_ID, "")

    def _header(self, data: bytes) -> None:
        name, _, value = data.removesuffix(b"\0").decode("utf-8", "surrogateescape").partition("\0")
        collected = self._mail.headers
        if name.strip().lower() in from_header.AUTHORS and from_header.length(collected) <= from_header.LONGEST:
            collected.append((name.strip(), value.strip(" \t\r\n")[: from_header.LONGEST + 1]))

    def _end_of_message(self, _data: bytes) -> bytes:
        self._mail.queue_id = self._macros.get(_QUEUE_ID, self._mail.queue_id)
        if objection := self._objection():
            self._abort()
            return objection
        self._judge.went(self._mail.queue_id)
        self._mail = _Mail()
        return _CONTINUE

    def _objection(self) -> bytes | None:
        mail, login = self._mail, self._mail.login
        if not login:
            return _LATER if self._judge.local_message(self._now(), mail.recipients, mail.queue_id) else None
        found = from_header.foreign(mail.headers, lambda one: self._judge.owns(login, one))
        return self._refusal(found) if found else None

    def _abort(self, _data: bytes = b"") -> None:
        if self._mail.queue_id:
            self._judge.did_not_go(self._mail.queue_id)
        self._mail = _Mail()

    def _refusal(self, whose: str) -> bytes | None:
        said = self._judge.foreign(self._now(), self._mail.login, whose)
        return _REPLY + said.replace("%", "%%").encode("ascii", "replace") + b"\0" if said else None

    def _quit(self, _data: bytes) -> None:
        self._abort()


_COMMANDS: dict[bytes, Callable[[Milter, bytes], bytes | None]] = {
    b"O": Milter._negotiate,
    b"D": Milter._take_macros,
    b"M": Milter._sender,
    b"R": Milter._recipient,
    b"L": Milter._header,
    b"E": Milter._end_of_message,
    b"A": Milter._abort,
    b"Q": Milter._quit,
    b"K": Milter._quit,
}


def split(buffer: bytes) -> tuple[list[bytes], bytes]:
    """The whole packets in what has come so far, and the rest. Raises ProtocolError."""
    packets, start = [], 0
    while len(buffer) >= start + 4:
        (length,) = struct.unpack_from("!I", buffer, start)
        if not 0 < length <= LARGEST_PACKET:
            raise ProtocolError(f"a packet of {length} bytes")
        if len(buffer) < start + 4 + length:
            break
        packets.append(buffer[start + 4 : start + 4 + length])
        start += 4 + length
    return packets, buffer[start:]


def _words(data: bytes) -> list[str]:
    return data.decode(errors="replace").split("\0")[:-1]
