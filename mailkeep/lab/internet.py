"""The outside world of a lab, in a single container: DNS, a mail exchanger, a relay host, a certificate authority.

Its names: `outside.test` (MX `mx.outside.test`, with SPF, DMARC and TLSA) takes mail for anyone;
`relay.outside.test` is a relay host with STARTTLS and AUTH on port 587; `bogus.test` has a broken DNSSEC chain;
`dynamic.test` accepts updates (RFC 2136) signed with the key `dynamic`.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from mailkeep.lab.container import Container
from mailkeep.lab.podman import poll

OUTSIDE_FILES = Path(__file__).parent / "outside"
DIRECTORY = "https://acme.outside.test:14000/dir"
SENDER_PORT = 2526  # outside-sender.service
TSIG_SECRET = "bWFpbGtlZXAtbGFiLWR5bmFtaWMtdXBkYXRlcy1vbmU="  # noqa: S105 - of dynamic.test (knot.conf)
RELAY_USER, RELAY_PASSWORD = "mailkeep", "relay-password"

# Unbound answers these zones by itself (RFC 6303, RFC 6761) unless they are declared `nodefault`.
_UNBOUND_CONF = """\
server:
    local-zone: "test." nodefault
    local-zone: "2.0.192.in-addr.arpa." nodefault
    local-zone: "100.51.198.in-addr.arpa." nodefault
    local-zone: "113.0.203.in-addr.arpa." nodefault
    local-zone: "8.b.d.0.1.0.0.2.ip6.arpa." nodefault
stub-zone:
    name: "."
    stub-addr: {ip}
"""


@dataclass(frozen=True)
class Received:
    """A message that the outside world accepted: its envelope, its connection, its bytes."""

    listener: str  # "mx" (port 25) or "relay" (port 587)
    time: float  # seconds since the epoch
    peer: str
    helo: str
    tls: str | None  # "TLSv1.3"; None: in clear
    user: str | None  # the user name of the login, at the relay
    sender: str  # "": the null sender
    recipients: tuple[str, ...]
    data: bytes
    results: Mapping[str, str] = field(default_factory=dict)  # to strict@…: of spf, dkim and dmarc; and the policy

    @property
    def message(self) -> EmailMessage:
        return message_from_bytes(self.data, policy=policy.default)


@dataclass(frozen=True)
class Reply:
    """A server's last reply to a delivery. `stage` is the command that it answers (CONNECT, MAIL, RCPT, DATA …).
    `refused` has the replies to the recipients that it refused; the others got the message."""

    stage: str
    code: int
    text: str
    refused: Mapping[str, str] = field(default_factory=dict)


class Internet(Container):
    """`publish` sets DNS records, `send` delivers mail from outside, `read_messages` returns what arrived."""

    def start_servers(self) -> None:
        """Publish the lab's own names and start the servers. Returns when they answer."""
        relay = json.dumps({"user": RELAY_USER, "password": RELAY_PASSWORD}).encode()
        files = {"relay.json": relay} | {
            path.name: path.read_bytes() for path in OUTSIDE_FILES.iterdir() if path.is_file()
        }
        for name in ("knot.conf", "unbound.conf"):
            text = files[name].replace(b"ADDRESS4", str(self.ip).encode())
            files[name] = text.replace(b"ADDRESS6", str(self.ip6).encode())
        files["unbound.conf"] += _UNBOUND_CONF.format(ip=self.ip).encode()
        self.unpack({f"opt/outside/{name}": (content, 0o755) for name, content in files.items()})
        zone = (OUTSIDE_FILES / "outside.zone").read_text().format(ip=self.ip, ip6=self.ip6)
        self.run("/opt/outside/open", stdin=zone)

    @property
    def resolver(self) -> str:
        """A validating resolver, in the form of `mailkeep dns --resolver`."""
        return f"{self.ip}@5353"

    @property
    def trust_anchor(self) -> str:
        """The DS record of the lab's root, in the form of unbound's trust anchor files and options."""
        records = self.run("keymgr . ds").stdout.splitlines()
        return next(record for record in records if record.split()[-2] == "2")  # SHA-256 (RFC 4509)

    def start_authority(self, *, seconds: int = 90 * 86400, refuses: Iterable[str] = ()) -> None:
        """Start a certificate authority that speaks ACME, at DIRECTORY; one that runs is replaced, with its state.

        Its certificates are valid for `seconds`. It issues none for the names in `refuses`.
        """
        self.run(shlex.join(["/opt/outside/authority", str(seconds), f"{self.ip}:5353", *refuses]))
        poll(lambda: self.run("ss -Hltn 'sport = :14000'").stdout, 30, "the certificate authority does not listen")

    def trust_authority(self, server: Container) -> None:
        """Let every program on `server` trust the certificate with which the authority serves DIRECTORY."""
        pem = self.run("cat /opt/outside/acme.pem").stdout
        server.write("/usr/local/share/ca-certificates/lab-acme.crt", pem)
        server.run("update-ca-certificates")

    def publish(self, zone: str, name: str = "test") -> None:
        """Serve these records (zone file text; origin is the root) in place of those published earlier as `name`."""
        self.run(shlex.join(["/opt/outside/publish", name]), stdin=zone)

    def resolve_for(self, server: Container) -> None:
        """Let unbound on `server`, installed or not yet, take the lab's root for the Internet's.

        Its configuration must include /etc/unbound/unbound.conf.d/*.conf and have Debian's auto-trust-anchor-file,
        /var/lib/unbound/root.key. Debian's start script replaces that file only by a newer key of dns-root-data.
        """
        # While it runs, unbound writes what it knows of the former root into that file.
        is_installed = server.run("systemctl stop unbound", check=False).returncode == 0
        server.unpack(
            {
                "etc/unbound/unbound.conf.d/lab.conf": (_UNBOUND_CONF.format(ip=self.ip).encode(), 0o644),
                "var/lib/unbound/root.key": (self.trust_anchor.encode() + b"\n", 0o644),
            }
        )
        if is_installed:
            server.run("chown unbound: /var/lib/unbound/root.key; systemctl start unbound")

    def send(
        self,
        sender: str,
        recipients: str | Iterable[str],
        to: IPv4Address | IPv6Address | str,
        data: bytes | EmailMessage,
        *,
        port: int = 25,
        helo: str = "mx.outside.test",
        tls: bool = True,
    ) -> Reply:
        """Deliver a message to the server at `to`, as a mail exchanger would. Bytes are sent unchanged."""
        raw = data.as_bytes(policy=policy.SMTP) if isinstance(data, EmailMessage) else data
        job = {
            "host": str(to),
            "port": port,
            "helo": helo,
            "tls": tls,
            "sender": sender,
            "recipients": [recipients] if isinstance(recipients, str) else list(recipients),
            "data": base64.b64encode(raw).decode(),
        }
        return Reply(**json.loads(self.ask_service(SENDER_PORT, json.dumps(job).encode() + b"\n")))

    def read_messages(self) -> list[Received]:
        """The messages since the start, or since `clear_messages`; oldest first."""
        lines = self.run("cat /opt/outside/messages").stdout.splitlines(keepends=True)
        return [_parse_message(json.loads(line)) for line in lines if line.endswith("\n")]  # the last: half written

    def clear_messages(self) -> None:
        self.run(": > /opt/outside/messages")

    def wait_for(self, matches: Callable[[Received], bool], timeout: float = 30) -> Received:
        """The first message that `matches`. Raises LabError when there is none after `timeout` seconds."""
        messages = poll(lambda: [m for m in self.read_messages() if matches(m)], timeout, "no such message outside")
        return messages[0]


def _parse_message(line: dict[str, Any]) -> Received:
    return Received(**line | {"recipients": tuple(line["recipients"]), "data": base64.b64decode(line["data"])})
