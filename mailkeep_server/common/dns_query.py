"""A minimal DNS client (RFC 1035 section 4)."""

import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mailkeep_server.common.deadlines import limit_next_step, receive_bytes

RESOLV_CONF = Path("/etc/resolv.conf")
PORT = 53
TYPES = {"A": 1, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28}
MAX_LABELS = 255  # of a name, with its pointers
MAX_NAME, MAX_LABEL = 254, 64  # bytes, with a dot at the end (section 3.1)
MAX_DATAGRAM = 1232  # bytes: larger ones are fragmented on the way, and lost
TRUNCATED = 0x0200
RECURSION_DESIRED, AUTHENTIC = 0x0100, 0x0020  # the AD bit in a query asks for it in the answer (RFC 6840 section 5.7)


@dataclass(frozen=True)
class DnsReply:
    """`data` is as in the reply, but the name in an MX or PTR record is written out, in text."""

    code: int  # 0: no error; 2: the resolver failed, or DNSSEC validation did; 3: no such name
    authentic: bool
    data: list[bytes]


def is_name(name: str) -> bool:
    """Whether the DNS can be asked for it."""
    labels = name.removesuffix(".").split(".")
    return len(name) < MAX_NAME and name.isascii() and all(0 < len(label) < MAX_LABEL for label in labels)


def query_server(server: str, name: str, record_type: str, timeout: float) -> DnsReply:
    """Over TCP, since a DKIM key does not fit into a datagram. The answer must come within `timeout` seconds.

    Raises OSError, and ValueError for an answer that is none.
    """
    query, type_number = _build_query(name, record_type), TYPES[record_type]
    deadline = time.monotonic() + timeout
    with socket.create_connection((server, PORT), timeout) as tcp:
        tcp.sendall(struct.pack("!H", len(query)) + query)
        length = receive_bytes(tcp, 2, deadline)
        reply = receive_bytes(tcp, int.from_bytes(length), deadline) if len(length) == 2 else b""
    return _parse_whole(server, reply, type_number)


def query_quickly(server: str, name: str, record_type: str, timeout: float) -> DnsReply:
    """As `query_server`, but over UDP first: a resolver serves few connections of TCP at a time."""
    query, type_number = _build_query(name, record_type, MAX_DATAGRAM), TYPES[record_type]
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect((server, PORT))
        udp.send(query)
        reply, questions = b"", (b"", _find_question(query))
        while reply[:2] != query[:2] or _find_question(reply) not in questions:  # somebody else's answer
            limit_next_step(udp, deadline)
            reply = udp.recv(65_535)
    if len(reply) > 3 and int.from_bytes(reply[2:4]) & TRUNCATED:
        return query_server(server, name, record_type, max(0.1, deadline - time.monotonic()))
    return _parse_whole(server, reply, type_number)


def _build_query(name: str, record_type: str, datagram: int = 0) -> bytes:
    """With `datagram`, it says how many bytes an answer over UDP may have (EDNS, RFC 6891 section 6.1.2)."""
    labels = [label.encode() for label in name.split(".") if label]
    question = b"".join(bytes([len(label)]) + label for label in labels)
    question += struct.pack("!BHH", 0, TYPES[record_type], 1)
    header = os.urandom(2) + struct.pack("!HHHHH", RECURSION_DESIRED | AUTHENTIC, 1, 0, 0, bool(datagram))
    return header + question + (struct.pack("!BHHIH", 0, 41, datagram, 0, 0) if datagram else b"")


def _find_question(message: bytes) -> bytes:
    """The first question, in lower case. A server that refuses may leave it out."""
    try:
        return message[12 : _skip_name(message, 12) + 4].lower() if message[4:6] != b"\0\0" else b""
    except IndexError:
        return b""


def _parse_whole(server: str, reply: bytes, type_number: int) -> DnsReply:
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
            data.append(_read_data(reply, at, length, type_number))
        at += length
    return DnsReply(flags & 0xF, bool(flags & AUTHENTIC), data)


def _read_data(reply: bytes, at: int, length: int, type_number: int) -> bytes:
    if type_number == TYPES["PTR"]:
        return read_name(reply, at).encode()
    if type_number == TYPES["MX"]:
        return reply[at : at + 2] + (read_name(reply, at + 2).encode() or reply[at + 2 : at + length])
    return reply[at : at + length]


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


def split_strings(data: bytes) -> Iterator[bytes]:
    """The strings of a TXT record, which have at most 255 bytes each."""
    at = 0
    while at < len(data):
        yield data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]


def join_strings(data: bytes) -> str:
    """The text of a TXT record."""
    return b"".join(split_strings(data)).decode(errors="replace")


def read_nameservers(file: Path = RESOLV_CONF) -> list[str]:
    """The resolvers of this machine, as resolv.conf(5) names them. Without any, the C library asks 127.0.0.1."""
    lines = [line.split() for line in file.read_text(errors="replace").splitlines()]
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"] or ["127.0.0.1"]


def trusts_ad(file: Path = RESOLV_CONF) -> bool:
    """Whether the C library passes the AD bit on (resolv.conf(5), `trust-ad`). Without it, Postfix does no DANE."""
    lines = [line.split() for line in file.read_text(errors="replace").splitlines()]
    return any(words[:1] == ["options"] and "trust-ad" in words for words in lines)
