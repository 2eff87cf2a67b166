"""Forgeries of a stranger on port 25: what readers see of a message, rather than its envelope."""

import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from mailkeep_server.common.deadlines import limit_next_step
from mailkeep_server.common.dns_query import join_strings, query_server, read_nameservers
from mailkeep_server.common.milter_server import OFFER, split_packets
from mailkeep_server.common.paths import INBOUND_MILTER_SOCKET

from .config import ProbeConfig, unused_client_address
from .dns_client import DNS_TIMEOUT
from .mail import MAX_DOMAINS, find_accepted_rcpt
from .smtp_imap import HELO, LineClient, Reply

STRICT_DOMAIN = "example.com"
"""A reserved name (RFC 2606), which asks all servers to refuse mail that claims to be from it."""
SECONDS = 30.0
"""The milter itself gives up on the DNS before that."""
JUDGING_SECONDS = 60.0


def try_forged_authors(config: ProbeConfig) -> list[Reply]:
    """Own addresses in From:, behind an envelope that says nothing."""
    domains = [*config.domains[:MAX_DOMAINS], config.host, f"news.{config.domains[0]}"]
    return [_send_as(config, f"postmaster@{domain}") for domain in domains]


def try_strict_author(config: ProbeConfig) -> dict[str, Any]:
    """The DMARC records of a domain that wants forgeries refused, and the reply to one."""
    answer = query_server(read_nameservers()[0], f"_dmarc.{STRICT_DOMAIN}", "TXT", DNS_TIMEOUT)
    records = [join_strings(data) for data in answer.data]
    return {"domain": STRICT_DOMAIN, "records": records, "reply": _send_as(config, f"probe@{STRICT_DOMAIN}")}


def _send_as(config: ProbeConfig, author: str) -> Reply:
    """To the host's postmaster, who gets it if the server accepts it."""
    accepted_rcpt = find_accepted_rcpt(config)
    with LineClient(config.address, 25, unused_client_address()) as client:
        client.greet()
        for command in ("MAIL FROM:<>", accepted_rcpt, "DATA"):
            client.smtp(command)
        client.send(
            f"From: <{author}>\r\nSubject: this server accepts forged mail\r\n\r\n"
            "`mailkeep verify` sent this message; see its output.\r\n"
        )
        client.socket.settimeout(JUDGING_SECONDS)
        code, text = client.smtp(".")
    return {"command": f"a message with From: <{author}>", "code": code, "text": text}


def try_claims(config: ProbeConfig) -> dict[str, Any]:
    """The milter's answer to a message that has results in the name of this host. No such message is delivered: the
    probe asks the milter as Postfix does."""
    host = config.host
    claims = [
        host,
        host.upper(),
        f'"{host}" 1',
        f"(a comment) {host} (another)",
        f"\n\t{host}\n\t",
        f"=?utf-8?q?{host.replace('.', '=2E')}?=",
    ]
    others = [f"other.{host}"]
    headers = [("Authentication-Results", f" {claim}; dmarc=pass") for claim in [*claims, *others]]
    headers.append(("X-Mailkeep-Junk", " no"))
    removed, inserted = _ask_milter([*headers, ("From", " probe@example.net")])
    kept = [value.strip() for at, (name, value) in enumerate(headers[: len(claims)], 1) if (name, at) not in removed]
    if ("X-Mailkeep-Junk", 1) not in removed:
        kept.append("X-Mailkeep-Junk: no")
    return {"kept": kept, "result": inserted.get("Authentication-Results", "").strip()}


def _ask_milter(headers: list[tuple[str, str]]) -> tuple[set[tuple[str, int]], dict[str, str]]:
    """The headers that it removes, by name and number, and those that it inserts."""
    packets = [
        OFFER[4:],
        f"H{HELO}\0".encode(),
        b"DM{client_addr}\x00192.0.2.1\0i\0VERIFY\0",
        b"M<>\0",
        *(f"L{name}\0{value}\0".encode() for name, value in headers),
        b"E",
    ]
    with socket.socket(socket.AF_UNIX) as client:
        deadline = time.monotonic() + SECONDS
        limit_next_step(client, deadline)
        client.connect(INBOUND_MILTER_SOCKET)
        client.sendall(b"".join(struct.pack("!I", len(packet)) + packet for packet in packets))
        replies = [*_read_changes(client, deadline)]
    removed = {(name, number) for kind, number, name, _ in replies if kind == "m"}
    return removed, {name: value for kind, _, name, value in replies if kind == "i"}


def _read_changes(client: socket.socket, deadline: float) -> Iterator[tuple[str, int, str, str]]:
    """Until the milter's verdict. Raises OSError, and RuntimeError for another verdict than to go on."""
    buffer, verdicts = b"", 0
    while verdicts < 2:  # to MAIL, and to the message
        limit_next_step(client, deadline)
        if not (data := client.recv(65_536)):
            raise RuntimeError("the milter closed the connection")
        packets, buffer = split_packets(buffer + data)
        for packet in packets:
            kind = packet[:1].decode()
            if kind in "im":
                name, value = packet[5:].decode(errors="replace").split("\0")[:2]
                yield kind, int.from_bytes(packet[1:5]), name, value
            elif kind == "c":
                verdicts += 1
            elif kind != "O":
                raise RuntimeError(f"the milter answers {packet[:200].decode(errors='replace')!r}")
