"""Lets OpenDKIM sign a message that is never sent, over the milter protocol, as Postfix asks it.

A packet (libmilter's mfdef.h) has a length of 4 bytes, a command of one byte, and data. OpenDKIM's answers: `c`
continue, `i` insert a header, `h` add a header, `a` accept, `t` refuse for now, `r` refuse for good, `y` another reply.
"""

import socket
import struct
import time
from dataclasses import dataclass

from mailkeep_server.common.deadlines import limit_next_step, receive_bytes

SOCKET = "/run/opendkim/opendkim.sock"
_ALL_ACTIONS = 0x1FF
_HEADERS = (("Subject", "signed"), ("Date", "Thu, 01 Jan 2026 00:00:00 +0000"), ("To", "you@example.net"))
_BODY = "Hello.\r\n"
_STAGES = {
    b"M": "the sender",
    b"R": "the recipient",
    b"L": "a header",
    b"N": "the headers: it cannot use its keys or tables",
    b"B": "the text",
    b"E": "the message",
}
"""By command, what OpenDKIM has seen then."""
_VERDICTS = {"t": "refuses it for now", "r": "refuses it", "y": "refuses it", "a": "lets it pass without a signature"}


@dataclass(frozen=True)
class SignedMessage:
    """The `message`, its `signature` (the DKIM-Signature header, empty without one), and OpenDKIM's `verdict`."""

    message: str
    signature: str
    verdict: str


def request_signature(author: str, queue_id: str, timeout: float, path: str = SOCKET) -> SignedMessage:
    """`queue_id` marks the message in OpenDKIM's log; `timeout` is that of the whole exchange, in seconds. Raises
    OSError, and RuntimeError when OpenDKIM ends the message early."""
    headers = (("From", author), *_HEADERS)
    message = "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n" + _BODY
    with socket.socket(socket.AF_UNIX) as client:
        milter = _Milter(client, time.monotonic() + timeout)
        limit_next_step(client, milter.deadline)
        client.connect(path)
        milter.ask(b"O", struct.pack("!III", 6, _ALL_ACTIONS, 0))
        # The client of sendmail(1) on this host: OpenDKIM signs mail of 127.0.0.1.
        milter.ask(b"C", b"localhost\x004" + struct.pack("!H", 25) + b"127.0.0.1\x00")
        milter.ask(b"H", b"localhost\x00")
        milter.send_packet(b"D", f"Mi\0{queue_id}\0".encode())
        milter.ask(b"M", f"<{author}>\0".encode())
        milter.ask(b"R", b"<you@example.net>\x00")
        for name, value in headers:
            milter.ask(b"L", f"{name}\0{value}\0".encode())
        milter.ask(b"N")
        milter.ask(b"B", _BODY.encode())
        inserted, verdict = milter.ask(b"E")
        milter.send_packet(b"Q")
    signature = inserted.get("DKIM-Signature", "")
    return SignedMessage(message, signature.replace("\r\n", "\n").replace("\n", "\r\n"), verdict)


def find_signing_fault(domain: str, signed: SignedMessage) -> str:
    """What is wrong with the signature of a message of this domain, to follow "OpenDKIM"; empty if nothing is."""
    if not signed.signature:
        return _VERDICTS.get(signed.verdict, f"answers {signed.verdict!r}")
    return "" if f"d={domain};" in signed.signature else "signs it for another domain"


class _Milter:
    """OpenDKIM at the other end of a socket, until a deadline."""

    def __init__(self, client: socket.socket, deadline: float) -> None:
        self.client, self.deadline = client, deadline

    def send_packet(self, command: bytes, data: bytes = b"") -> None:
        limit_next_step(self.client, self.deadline)
        self.client.sendall(struct.pack("!I", 1 + len(data)) + command + data)

    def ask(self, command: bytes, data: bytes = b"") -> tuple[dict[str, str], str]:
        """The inserted headers, and the final answer."""
        self.send_packet(command, data)
        inserted: dict[str, str] = {}
        while True:
            packet = self._receive(struct.unpack("!I", self._receive(4))[0])
            answer, rest = packet[:1].decode(), packet[1:]
            if answer in "hi":  # an inserted header has an index before its name
                name, value = rest[4 if answer == "i" else 0 :].split(b"\0")[:2]
                inserted[name.decode()] = value.decode()
            elif answer in "carty" or command == b"O":
                if command not in (b"O", b"E") and answer != "c":
                    stage = _STAGES.get(command, "its address")
                    raise RuntimeError(f"OpenDKIM {_VERDICTS.get(answer, answer)} after {stage}")
                return inserted, answer

    def _receive(self, length: int) -> bytes:
        data = receive_bytes(self.client, length, self.deadline)
        if len(data) < length:
            raise RuntimeError("OpenDKIM closed the connection")
        return data
