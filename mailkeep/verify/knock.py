"""Knocks at the public addresses from this machine, as a stranger would: a connection, and the service's greeting."""

import errno
import socket
import ssl
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address

from mailkeep.host.preflight_facts import OutboundPeer
from mailkeep_server.common.own_addresses import find_source_address, is_private

CONNECT_TIMEOUT = 5.0  # seconds
IMPLICIT_TLS_PORTS = (465, 993)
HTTPS_PORT = 443
"""Here the client speaks first."""
SMTP_PORT = 25
MAX_THREADS = 30
NO_ROUTE = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@dataclass(frozen=True)
class Knock:
    """`error` is empty if the service greets. `untried` is the reason why this machine cannot knock at all."""

    address: str
    port: int
    error: str = ""
    untried: str = ""


@dataclass(frozen=True)
class Control:
    """Why port 25 cannot be tried from this machine; empty if it can. `was_tried`: by a mail server elsewhere."""

    reason: str = ""
    was_tried: bool = True


def knock_at(
    addresses: Iterable[str], ports: Iterable[int], peer: OutboundPeer | None, https_name: str = ""
) -> list[Knock]:
    """Knock at all ports of all addresses at once. `peer` is a mail server elsewhere: where port 25 fails, it tells
    whether any port 25 can be reached from here. Our web server ends a handshake that names no site of it, as
    `https_name` is."""
    doors = [(address, port) for address in addresses for port in ports]
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        versions = {_version_of(address) for address, port in doors if port == SMTP_PORT}
        controls = {version: pool.submit(_try_port_25_elsewhere, peer, version) for version in versions}
        knocks = list(pool.map(lambda door: _knock(door[0], door[1], https_name), doors))
        return [
            _excuse(knock, controls[_version_of(knock.address)].result())
            if knock.port == SMTP_PORT and knock.error
            else knock
            for knock in knocks
        ]


NO_ANSWER = f"no answer within {CONNECT_TIMEOUT:.0f} seconds"


def _version_of(address: str) -> int:
    return ip_address(address).version


def _excuse(knock: Knock, control: Control) -> Knock:
    """Networks that let no port 25 out drop the packets, or refuse them. Without a control, only silence may be
    theirs."""
    if control.reason and (control.was_tried or knock.error == NO_ANSWER):
        return Knock(knock.address, knock.port, untried=control.reason)
    return knock


def _try_port_25_elsewhere(peer: OutboundPeer | None, version: int) -> Control:
    """Each IP version has its own way out of a network."""
    address = None if peer is None or peer.is_relay else _find_peer_address(peer, version)
    if peer is None or address is None:
        return Control(
            f"nothing elsewhere shows whether this machine's provider lets port 25 out by IPv{version}", False
        )
    try:
        socket.create_connection((address, SMTP_PORT), CONNECT_TIMEOUT).close()
    except OSError:
        return Control(f"this machine's provider blocks port 25: {peer.name} does not answer it either")
    return Control()


def _find_peer_address(peer: OutboundPeer, version: int) -> str | None:
    if version == _version_of(peer.address):
        return peer.address
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    try:
        answers = socket.getaddrinfo(peer.name, SMTP_PORT, family, socket.SOCK_STREAM)
    except OSError:
        return None
    return str(answers[0][4][0])


def _knock(address: str, port: int, https_name: str) -> Knock:
    try:
        with socket.create_connection((address, port), CONNECT_TIMEOUT) as plain:
            if port != HTTPS_PORT:
                return Knock(address, port, _read_greeting(plain, port))
            _encrypt(plain, https_name).close()
            return Knock(address, port)
    except OSError as error:
        version = _version_of(address)
        if error.errno in NO_ROUTE and not _has_internet(version):
            return Knock(address, port, untried=f"this machine has no IPv{version}")
        return Knock(address, port, NO_ANSWER if isinstance(error, TimeoutError) else (error.strerror or str(error)))


def _has_internet(version: int) -> bool:
    """A router far away may say the same as this machine: that it has no route. Private addresses of IPv6 leave no
    network (RFC 4193)."""
    source = find_source_address(version)
    return source is not None and not (version == 6 and is_private(source))


def _read_greeting(plain: socket.socket, port: int) -> str:
    """The error, if the service does not greet as its protocol says."""
    with _encrypt(plain) if port in IMPLICIT_TLS_PORTS else plain as client:
        greeting = client.recv(200)
    if greeting.startswith((b"220", b"* OK", b"* PREAUTH", b"SSH-", b'"IMPLEMENTATION"')):
        return ""
    return (
        f"it greets with {greeting[:60].decode(errors='replace')!r}" if greeting else "it hangs up without a greeting"
    )


def _encrypt(plain: socket.socket, name: str | None = None) -> ssl.SSLSocket:
    """Accepts any certificate: other checks judge it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=name or None)
