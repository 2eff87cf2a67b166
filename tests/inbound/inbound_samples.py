"""A DNS in a dictionary, messages signed by dkimpy with keys made here, and Postfix's side of the milter protocol."""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address

import dkim
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mailkeep_server.common.dns_query import DnsReply
from mailkeep_server.inbound.config import InboundConfig
from mailkeep_server.inbound.lookups import NO_SUCH_NAME, Lookups
from mailkeep_server.inbound.milter import InboundSession

HOST = "mail.example.org"
OURS, BANK, LIST = "example.org", "bank.example", "lists.example"
BANK_CLIENT, LIST_CLIENT, STRANGER = "192.0.2.10", "198.51.100.20", "203.0.113.30"
BANK_CLIENT6 = "2001:db8:10::10"
SELECTOR = "s1"
ALL = 0xFFFFFFFF
CONFIG = InboundConfig(HOST, (OURS, "example.net"))


@dataclass
class SampleDns:
    """Answers from `zone`: by name and type, a list of texts, addresses or names. `dead` names get no answer."""

    zone: dict[tuple[str, str], list[str]]
    dead: set[str] = field(default_factory=set)
    questions: list[tuple[str, str]] = field(default_factory=list)

    def query(self, _server: str, name: str, record_type: str, _timeout: float) -> DnsReply:
        self.questions.append((name, record_type))
        if name in self.dead:
            raise TimeoutError("no answer")
        values = self.zone.get((name, record_type), [])
        exists = any(key == name or key.endswith(f".{name}") for key, _ in self.zone)
        return DnsReply(0 if exists else NO_SUCH_NAME, False, [_encode(value, record_type) for value in values])

    def make_lookups(self) -> Lookups:
        return Lookups(self.query, lambda: ["192.0.2.53"])


def _encode(value: str, record_type: str) -> bytes:
    if record_type in ("A", "AAAA"):
        return ip_address(value).packed
    if record_type == "MX":
        return b"\0\x0a" + value.encode()
    if record_type == "PTR":
        return value.encode()
    data = value.encode()
    return b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))


@cache
def make_key(name: str) -> tuple[bytes, str]:  # noqa: ARG001 - a key for each name
    """A private key in PEM, and the record with the public one."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - made fast
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return pem, f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"


def build_zone() -> dict[tuple[str, str], list[str]]:
    """A bank that wants forgeries refused, a shop that calls them suspicious, a list, and somebody without anything."""
    zone = {
        (BANK, "TXT"): [f"v=spf1 ip4:{BANK_CLIENT} ip6:{BANK_CLIENT6} -all"],
        (f"_dmarc.{BANK}", "TXT"): ["v=DMARC1; p=reject"],
        ("shop.example", "TXT"): ["v=spf1 -all"],
        ("_dmarc.shop.example", "TXT"): ["v=DMARC1; p=quarantine"],
        ("test.example", "TXT"): ["v=spf1 -all"],
        ("_dmarc.test.example", "TXT"): ["v=DMARC1; p=reject; t=y"],
        (LIST, "TXT"): [f"v=spf1 ip4:{LIST_CLIENT} -all"],
        ("quiet.example", "A"): ["192.0.2.99"],
        (OURS, "TXT"): ["v=spf1 ip4:192.0.2.25 -all"],
        (f"_dmarc.{OURS}", "TXT"): ["v=DMARC1; p=none"],
    }
    for domain in (BANK, LIST, OURS, "shop.example"):
        zone[f"{SELECTOR}._domainkey.{domain}", "TXT"] = [make_key(domain)[1]]
    return zone


def sign(
    data: bytes, domain: str, canonicalize: tuple[bytes, bytes] = (b"relaxed", b"relaxed"), **options: object
) -> bytes:
    signature = dkim.sign(
        data, SELECTOR.encode(), domain.encode(), make_key(domain)[0], canonicalize=canonicalize, **options
    )
    return bytes(signature) + data


def seal(data: bytes, domain: str, results: str) -> bytes:
    """With the next ARC set, by a host whose results are these."""
    data = f"Authentication-Results: {domain}; {results}\r\n".encode() + data
    lines = dkim.ARC(data).sign(SELECTOR.encode(), domain.encode(), make_key(domain)[0], domain.encode())
    return b"".join(lines) + data


def compose(author: str, *headers: str, body: str = "Hello.\r\n") -> bytes:
    lines = [*headers, f"From: {author}", "To: anna@example.org", "Subject: Hello", f"Date: {time.strftime('%c')}", ""]
    return "\r\n".join([*lines, body]).encode()


@dataclass
class Answer:
    """What the milter wants. `inserted` are headers, `removed` names and numbers."""

    verdict: str
    text: str = ""
    inserted: dict[str, str] = field(default_factory=dict)
    removed: list[tuple[str, int]] = field(default_factory=list)


def list_packets(data: bytes, client: str, sender: str, helo: str) -> Iterator[bytes]:
    """A message as Postfix passes it on."""
    head, _, body = data.partition(b"\r\n\r\n")
    yield b"H" + helo.encode() + b"\0"
    address = f"IPv6:{client}" if ":" in client else client
    yield b"DM{client_addr}\0" + address.encode() + b"\0i\0004ABC\0"
    yield b"M<" + sender.encode("utf-8", "surrogateescape") + b">\0"
    lines: list[bytes] = []
    for line in head.split(b"\r\n"):
        if lines and line[:1] in (b" ", b"\t"):
            lines[-1] += b"\n" + line
        else:
            lines.append(line)
    for line in lines:
        name, _, value = line.partition(b":")
        yield b"L" + name + b"\0" + value + b"\0"
    yield from (b"B" + body[at : at + 65535] for at in range(0, len(body), 65535))
    yield b"E"


def pass_message(
    data: bytes,
    dns: SampleDns,
    *,
    client: str = STRANGER,
    sender: str = "",
    helo: str = "mx.example",
    config: InboundConfig = CONFIG,
    session: InboundSession | None = None,
) -> Answer:
    """The answer to a message on port 25."""
    if not session:
        session = InboundSession(config, dns.make_lookups)
        assert next(session.answer_packet(b"O" + struct.pack("!III", 6, ALL, ALL)))[:1] == b"O"
    replies = [reply for packet in list_packets(data, client, sender, helo) for reply in session.answer_packet(packet)]
    assert replies[0] == b"c"
    return _read_answer(replies[1:])


def _read_answer(replies: list[bytes]) -> Answer:
    answer = Answer(replies[-1][:1].decode())
    if answer.verdict == "y":
        answer.text = replies[-1][1:-1].decode().replace("%%", "%")
    for reply in replies[:-1]:
        index, (name, value) = struct.unpack("!I", reply[1:5])[0], reply[5:].split(b"\0")[:2]
        if reply[:1] == b"i":
            answer.inserted[name.decode()] = value.decode()
        else:
            assert (reply[:1], value) == (b"m", b"")
            answer.removed.append((name.decode(), index))
    return answer
