"""A DNS client as small as the questions asked here (RFC 1035 section 4)."""

import secrets
import socket
import struct
from dataclasses import dataclass

from .config import ProbeConfig

TYPES = {"SOA": 6, "TXT": 16}
RECURSION_DESIRED, AUTHENTIC = 0x0100, 0x0020  # the AD bit in a query asks for it in the answer (RFC 6840 section 5.7)


@dataclass(frozen=True)
class Answer:
    code: int  # 0: no error; 2: the resolver could not, or it is bogus; 3: no such name
    authentic: bool
    data: list[bytes]


def ask(server: str, name: str, kind: str) -> Answer:
    """Over TCP: a DKIM key does not fit a datagram."""
    labels = [label.encode() for label in name.split(".") if label]
    question = b"".join(bytes([len(label)]) + label for label in labels) + struct.pack("!BHH", 0, TYPES[kind], 1)
    query = struct.pack("!HHHHHH", secrets.randbits(16), RECURSION_DESIRED | AUTHENTIC, 1, 0, 0, 0) + question
    with socket.create_connection((server, 53), 10) as tcp, tcp.makefile("rb") as stream:
        tcp.sendall(struct.pack("!H", len(query)) + query)
        reply = stream.read(*struct.unpack("!H", stream.read(2)))
    _, flags, _, answers, _, _ = struct.unpack_from("!HHHHHH", reply)
    return Answer(flags & 0xF, bool(flags & AUTHENTIC), _data(reply, 12 + len(question), answers, TYPES[kind]))


def _data(reply: bytes, at: int, count: int, wanted: int) -> list[bytes]:
    """The data of those `count` records from `at` on that are of the type `wanted`."""
    found = []
    for _ in range(count):
        while reply[at] not in range(0xC0, 0x100) and reply[at]:
            at += 1 + reply[at]
        at += 2 if reply[at] else 1  # a pointer (section 4.1.4), or the root
        kind, _, _, length = struct.unpack_from("!HHIH", reply, at)
        at += 10
        if kind == wanted:
            found.append(reply[at : at + length])
        at += length
    return found


def text(data: bytes) -> str:
    """The strings of a TXT record in one piece."""
    pieces, at = [], 0
    while at < len(data):
        pieces.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return b"".join(pieces).decode(errors="replace")


def servers() -> list[str]:
    """The resolvers of this machine."""
    with open("/etc/resolv.conf") as file:  # noqa: PTH123
        words = [line.split() for line in file]
    found = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
    if not found:
        raise RuntimeError("/etc/resolv.conf names no server")
    return found


def resolver(given: ProbeConfig) -> dict[str, object]:
    """Who is asked, whether they validate, and whether our own would answer others."""
    asked = servers()
    return {
        "servers": asked,
        "validated": given.local_resolver and ask(asked[0], ".", "SOA").authentic,
        "open": [address for address in {given.address, given.address6} if address and _answers(address)],
    }


def _answers(address: str) -> bool:
    try:
        ask(address, ".", "SOA")
    except (OSError, struct.error):
        return False
    return True


def keys(given: ProbeConfig) -> dict[str, str]:
    """The DKIM record of each domain, as the world sees it; empty when there is none."""
    names = {domain: f"{selector}._domainkey.{domain}" for domain, selector in given.dkim}
    server = servers()[0]
    return {domain: "".join(text(data) for data in ask(server, name, "TXT").data[:1]) for domain, name in names.items()}
