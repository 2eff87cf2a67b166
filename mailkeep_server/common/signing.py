"""Lets OpenDKIM sign a message that is never sent, over the milter protocol, as Postfix asks it.

A packet (libmilter's mfdef.h) has a length of 4 bytes, a command of one byte, and data. OpenDKIM's answers: `c`
continue, `i` insert a header, `h` add a header, `a` accept, `t` refuse for now, `r` refuse for good, `y` another reply.
"""

import socket
import struct
from dataclasses import dataclass

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
    """`queue_id` marks the message in OpenDKIM's log. Raises OSError, and RuntimeError when OpenDKIM ends the message
    early."""
    headers = (("From", author), *_HEADERS)
    message = "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n" + _BODY
    with socket.socket(socket.AF_UNIX) as milter:
        milter.settimeout(timeout)
        milter.connect(path)
        _ask(milter, b"O", struct.pack("!III", 6, _ALL_ACTIONS, 0))
        # The client of sendmail(1) on this host: OpenDKIM signs mail of 127.0.0.1.
        _ask(milter, b"C", b"localhost\x004" + struct.pack("!H", 25) + b"127.0.0.1\x00")
        _ask(milter, b"H", b"localhost\x00")
        _send_packet(milter, b"D", f"Mi\0{queue_id}\0".encode())
        _ask(milter, b"M", f"<{author}>\0".encode())
        _ask(milter, b"R", b"<you@example.net>\x00")
        for name, value in headers:
            _ask(milter, b"L", f"{name}\0{value}\0".encode())
        _ask(milter, b"N")
        _ask(milter, b"B", _BODY.encode())
        inserted, verdict = _ask(milter, b"E")
        _send_packet(milter, b"Q")
    signature = inserted.get("DKIM-Signature", "")
    return SignedMessage(message, signature.replace("\r\n", "\n").replace("\n", "\r\n"), verdict)


def find_signing_fault(domain: str, signed: SignedMessage) -> str:
    """What is wrong with the signature of a message of this domain, to follow "OpenDKIM"; empty if nothing is."""
    if not signed.signature:
        return _VERDICTS.get(signed.verdict, f"answers {signed.verdict!r}")
    return "" if f"d={domain};" in signed.signature else "signs it for another domain"


def _send_packet(milter: socket.socket, command: bytes, data: bytes = b"") -> None:
    milter.sendall(struct.pack("!I", 1 + len(data)) + command + data)


def _ask(milter: socket.socket, command: bytes, data: bytes = b"") -> tuple[dict[str, str], str]:
    """The inserted headers, and the final answer."""
    _send_packet(milter, command, data)
    inserted: dict[str, str] = {}
    while True:
        length = struct.unpack("!I", _receive(milter, 4))[0]
        packet = _receive(milter, length)
        answer, rest = packet[:1].decode(), packet[1:]
        if answer in "hi":  # an inserted header has an index before its name
            name, value = rest[4 if answer == "i" else 0 :].split(b"\0")[:2]
            inserted[name.decode()] = value.decode()
        elif answer in "carty" or command == b"O":
            if command not in (b"O", b"E") and answer != "c":
                stage = _STAGES.get(command, "its address")
                raise RuntimeError(f"OpenDKIM {_VERDICTS.get(answer, answer)} after {stage}")
            return inserted, answer


def _receive(milter: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = milter.recv(length - len(data))
        if not more:
            raise RuntimeError("OpenDKIM closed the connection")
        data += more
    return data
