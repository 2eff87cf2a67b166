"""Has OpenDKIM sign a message without sending one: it is asked as Postfix asks it, over the milter protocol.

Packets (libmilter's mfdef.h): a length of 4 bytes, a command of one, its data. OpenDKIM answers the questions that
the MTA asks: `c` go on, `i` insert a header, `a` accept, `t` come back later, `r` refuse.
"""

import socket
import struct

from .config import ProbeConfig

SOCKET = "/run/opendkim/opendkim.sock"
ALL_ACTIONS = 0x1FF
HEADERS = (("Subject", "signed"), ("Date", "Thu, 01 Jan 2026 00:00:00 +0000"), ("To", "you@example.net"))
BODY = "Hello.\r\n"


def signatures(given: ProbeConfig) -> dict[str, dict[str, str]]:
    """Per signing domain, the message asked about and the DKIM-Signature header; or the word that was got instead."""
    return {domain: _sign(f"probe@{domain}") for domain, _ in given.dkim}


def _sign(author: str) -> dict[str, str]:
    headers = (("From", author), *HEADERS)
    message = "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n" + BODY
    with socket.socket(socket.AF_UNIX) as milter:
        milter.settimeout(10)
        milter.connect(SOCKET)
        _ask(milter, b"O", struct.pack("!III", 6, ALL_ACTIONS, 0))
        # As sendmail(1) on this host: a client at 127.0.0.1 is one whose mail is signed.
        _ask(milter, b"C", b"localhost\x004" + struct.pack("!H", 25) + b"127.0.0.1\x00")
        _ask(milter, b"H", b"localhost\x00")
        _send(milter, b"D", b"Mi\x00VERIFY\x00")  # the queue ID (macro i), for its log
        _ask(milter, b"M", f"<{author}>\0".encode())
        _ask(milter, b"R", b"<you@example.net>\x00")
        for name, value in headers:
            _ask(milter, b"L", f"{name}\0{value}\0".encode())
        _ask(milter, b"N")
        _ask(milter, b"B", BODY.encode())
        inserted, verdict = _ask(milter, b"E")
        _send(milter, b"Q")
    signature = inserted.get("DKIM-Signature", "")
    return {"message": message, "signature": signature.replace("\r\n", "\n").replace("\n", "\r\n"), "verdict": verdict}


def _send(milter: socket.socket, command: bytes, data: bytes = b"") -> None:
    milter.sendall(struct.pack("!I", 1 + len(data)) + command + data)


def _ask(milter: socket.socket, command: bytes, data: bytes = b"") -> tuple[dict[str, str], str]:
    """The headers inserted, and the final answer. An answer other than `go on` ends everything but the last stage."""
    _send(milter, command, data)
    inserted: dict[str, str] = {}
    while True:
        length = struct.unpack("!I", _read(milter, 4))[0]
        packet = _read(milter, length)
        answer, rest = packet[:1].decode(), packet[1:]
        if answer in "hi":  # add or insert: an index comes before the latter's name
            name, value = rest[4 if answer == "i" else 0 :].split(b"\0")[:2]
            inserted[name.decode()] = value.decode()
        elif answer in "carty" or command == b"O":
            if command not in (b"O", b"E") and answer != "c":
                raise RuntimeError(f"OpenDKIM answers {command.decode()} with {answer}")
            return inserted, answer


def _read(milter: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = milter.recv(length - len(data))
        if not more:
            raise RuntimeError("OpenDKIM hung up")
        data += more
    return data
