"""A minimal DNS client (RFC 1035 section 4), and the questions that the probe asks."""

import secrets
import socket
import struct
from dataclasses import dataclass

from .config import ProbeConfig

TYPES = {"SOA": 6, "TXT": 16}
RECURSION_DESIRED, AUTHENTIC = 0x0100, 0x0020  # the AD bit in a query asks for it in the answer (RFC 6840 section 5.7)
DNS_TIMEOUT = 10.0


@dataclass(frozen=True)
class DnsReply:
    code: int  # 0: no error; 2: the resolver failed, or DNSSEC validation did; 3: no such name
    authentic: bool
    data: list[bytes]


def query_server(server: str, name: str, record_type: str) -> DnsReply:
    """Over TCP, since a DKIM key does not fit into a datagram. Raises OSError, struct.error."""
    labels = [label.encode() for label in name.split(".") if label]
    type_number = TYPES[record_type]
    question = b"".join(bytes([len(label)]) + label for label in labels) + struct.pack("!BHH", 0, type_number, 1)
    query = struct.pack("!HHHHHH", secrets.randbits(16), RECURSION_DESIRED | AUTHENTIC, 1, 0, 0, 0) + question
    with socket.create_connection((server, 53), DNS_TIMEOUT) as tcp, tcp.makefile("rb") as stream:
        tcp.sendall(struct.pack("!H", len(query)) + query)
        reply = stream.read(*struct.unpack("!H", stream.read(2)))
    _, flags, _, answers, _, _ = struct.unpack_from("!HHHHHH", reply)
    data = _read_records(reply, 12 + len(question), answers, type_number)
    return DnsReply(flags & 0xF, bool(flags & AUTHENTIC), data)


def _read_records(reply: bytes, at: int, count: int, type_number: int) -> list[bytes]:
    """The data of the records of this type, among `count` records from offset `at` on."""
    data = []
    for _ in range(count):
        while reply[at] not in range(0xC0, 0x100) and reply[at]:
            at += 1 + reply[at]
        at += 2 if reply[at] else 1  # a compression pointer (section 4.1.4), or the root
        record_type, _, _, length = struct.unpack_from("!HHIH", reply, at)
        at += 10
        if record_type == type_number:
            data.append(reply[at : at + length])
        at += length
    return data


def join_strings(data: bytes) -> str:
    """The text of a TXT record, whose strings have at most 255 bytes each."""
    strings, at = [], 0
    while at < len(data):
        strings.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return b"".join(strings).decode(errors="replace")


def read_nameservers() -> list[str]:
    """The resolvers of this machine. Raises RuntimeError when there is none."""
    with open("/etc/resolv.conf") as file:  # noqa: PTH123
        lines = [line.split() for line in file]
    servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    if not servers:
        raise RuntimeError("/etc/resolv.conf names no server")
    return servers


def examine_resolver(config: ProbeConfig) -> dict[str, object]:
    """The resolvers in use, whether the first validates DNSSEC, and the public addresses on which ours answers."""
    servers = read_nameservers()
    return {
        "servers": servers,
        "validates": config.local_resolver and query_server(servers[0], ".", "SOA").authentic,
        "open": [address for address in {config.address, config.address6} if address and _answers_on(address)],
    }


def _answers_on(address: str) -> bool:
    try:
        query_server(address, ".", "SOA")
    except (OSError, struct.error):
        return False
    return True


def read_dkim_records(config: ProbeConfig) -> dict[str, str]:
    """The published DKIM record of each domain; empty when there is none."""
    server, records = read_nameservers()[0], {}
    for domain, selector in config.dkim:
        answer = query_server(server, f"{selector}._domainkey.{domain}", "TXT")
        records[domain] = "".join(join_strings(data) for data in answer.data[:1])
    return records
