"""Knocks at the public addresses from this machine, as a stranger would: a connection, and the service's greeting."""

import errno
import socket
import ssl
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mailkeep.host.preflight_facts import OutboundPeer

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


def knock_at(
    addresses: Iterable[str], ports: Iterable[int], peer: OutboundPeer | None, https_name: str = ""
) -> list[Knock]:
    """Knock at all ports of all addresses at once. `peer` is a mail server elsewhere: where port 25 gets no answer, it
    tells whether any port 25 can be reached from here. Our web server ends a handshake that names no site of it, as
    `https_name` is."""
    doors = [(address, port) for address in addresses for port in ports]
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        control = pool.submit(_is_port_25_blocked_here, peer)
        knocks = list(pool.map(lambda door: _knock(door[0], door[1], https_name), doors))
    if not any(knock.port == SMTP_PORT and knock.error == NO_ANSWER for knock in knocks):
        return knocks
    reason = control.result()
    return [
        Knock(knock.address, knock.port, untried=reason)
        if reason and knock.port == SMTP_PORT and knock.error == NO_ANSWER
        else knock
        for knock in knocks
    ]


NO_ANSWER = f"no answer within {CONNECT_TIMEOUT:.0f} seconds"


def _is_port_25_blocked_here(peer: OutboundPeer | None) -> str:
    """Why port 25 cannot be tried from this machine; empty if it can, by a mail server elsewhere that answers."""
    if peer is None or peer.is_relay:
        return "nothing elsewhere shows whether this machine's provider lets port 25 out"
    try:
        socket.create_connection((peer.address, SMTP_PORT), CONNECT_TIMEOUT).close()
    except OSError:
        return f"this machine's provider blocks port 25: {peer.name} does not answer it either"
    return ""


def _knock(address: str, port: int, https_name: str) -> Knock:
    try:
        with socket.create_connection((address, port), CONNECT_TIMEOUT) as plain:
            if port != HTTPS_PORT:
                return Knock(address, port, _read_greeting(plain, port))
            _encrypt(plain, https_name).close()
            return Knock(address, port)
    except OSError as error:
        if ":" in address and error.errno in NO_ROUTE:
            return Knock(address, port, untried="this machine has no IPv6")
        return Knock(address, port, NO_ANSWER if isinstance(error, TimeoutError) else (error.strerror or str(error)))


def _read_greeting(plain: socket.socket, port: int) -> str:
    """The error, if the service does not greet as its protocol says."""
    with _encrypt(plain) if port in IMPLICIT_TLS_PORTS else plain as client:
        greeting = client.recv(200)
    if greeting.startswith((b"220", b"* OK", b"* PREAUTH", b"SSH-")):
        return ""
    return (
        f"it greets with {greeting[:60].decode(errors='replace')!r}" if greeting else "it hangs up without a greeting"
    )


def _encrypt(plain: socket.socket, name: str | None = None) -> ssl.SSLSocket:
    """Accepts any certificate: other checks judge it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=name or None)
