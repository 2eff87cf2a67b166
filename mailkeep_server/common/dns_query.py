"""A minimal DNS client (RFC 1035 section 4)."""

import secrets
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from mailkeep_server.common.deadlines import receive_bytes

RESOLV_CONF = Path("/etc/resolv.conf")
TYPES = {"A": 1, "SOA": 6, "MX": 15, "TXT": 16, "AAAA": 28}
MAX_LABELS = 255  # of a name, with its pointers
RECURSION_DESIRED, AUTHENTIC = 0x0100, 0x0020  # the AD bit in a query asks for it in the answer (RFC 6840 section 5.7)


@dataclass(frozen=True)
class DnsReply:
    """`data` is as in the reply, but the name in an MX record is written out, in text."""

    code: int  # 0: no error; 2: the resolver failed, or DNSSEC validation did; 3: no such name
    authentic: bool
    data: list[bytes]


def query_server(server: str, name: str, record_type: str, timeout: float) -> DnsReply:
    """Over TCP, since a DKIM key does not fit into a datagram. The answer must come within `timeout` seconds.

    Raises OSError, and ValueError for an answer that is none.
    """
    labels = [label.encode() for label in name.split(".") if label]
    type_number = TYPES[record_type]
    question = b"".join(bytes([len(label)]) + label for label in labels) + struct.pack("!BHH", 0, type_number, 1)
    query = struct.pack("!HHHHHH", secrets.randbits(16), RECURSION_DESIRED | AUTHENTIC, 1, 0, 0, 0) + question
    deadline = time.monotonic() + timeout
    with socket.create_connection((server, 53), timeout) as tcp:
        tcp.sendall(struct.pack("!H", len(query)) + query)
        length = receive_bytes(tcp, 2, deadline)
        reply = receive_bytes(tcp, int.from_bytes(length), deadline) if len(length) == 2 else b""
    try:
        return parse_reply(reply, type_number)
    except (IndexError, struct.error):
        raise ValueError(f"{server} gives an answer of {len(reply)} bytes, which is no DNS message") from None


def parse_reply(reply: bytes, type_number: int) -> DnsReply:
    """Raises IndexError and struct.error for bytes that are no DNS message."""
    _, flags, questions, answers, _, _ = struct.unpack_from("!HHHHHH", reply)
    at = 12
    for _ in range(questions):  # a server that refuses may leave the question out
        at = _skip_name(reply, at) + 4
    data = []
    for _ in range(answers):
        at = _skip_name(reply, at)
        record_type, _, _, length = struct.unpack_from("!HHIH", reply, at)
        at += 10
        if record_type == type_number:
            name = read_name(reply, at + 2).encode() if type_number == TYPES["MX"] else b""
            data.append(reply[at : at + 2] + name if name else reply[at : at + length])
        at += length
    return DnsReply(flags & 0xF, bool(flags & AUTHENTIC), data)


def read_name(reply: bytes, at: int) -> str:
    """The name at this offset, which may go on elsewhere by compression pointers (section 4.1.4). IndexError if they do
    not end."""
    labels: list[str] = []
    for _ in range(MAX_LABELS):
        length = reply[at]
        if length >= 0xC0:
            at = (length & 0x3F) << 8 | reply[at + 1]
        elif length:
            labels.append(reply[at + 1 : at + 1 + length].decode("ascii", "replace"))
            at += 1 + length
        else:
            return ".".join(labels)
    raise IndexError("a name without end")


def _skip_name(reply: bytes, at: int) -> int:
    """The offset after a name, which ends with the root or with a compression pointer (section 4.1.4)."""
    while 0 < reply[at] < 0xC0:
        at += 1 + reply[at]
    return at + (2 if reply[at] else 1)


def join_strings(data: bytes) -> str:
    """The text of a TXT record, whose strings have at most 255 bytes each."""
    strings, at = [], 0
    while at < len(data):
        strings.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return b"".join(strings).decode(errors="replace")


def read_nameservers(file: Path = RESOLV_CONF) -> list[str]:
    """The resolvers of this machine, as resolv.conf(5) names them. Without any, the C library asks 127.0.0.1."""
    lines = [line.split() for line in file.read_text(errors="replace").splitlines()]
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"] or ["127.0.0.1"]


def trusts_ad(file: Path = RESOLV_CONF) -> bool:
    """Whether the C library passes the AD bit on (resolv.conf(5), `trust-ad`). Without it, Postfix does no DANE."""
    lines = [line.split() for line in file.read_text(errors="replace").splitlines()]
    return any(words[:1] == ["options"] and "trust-ad" in words for words in lines)
