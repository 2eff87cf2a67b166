"""Logins that a service refuses, from an address that nobody has: the beginning of the proof that a jail bans.

A local route makes the address reachable for this machine alone, without giving it to an interface (ip-route(8), type
`local`). So fail2ban does not take it for one of the server's own. The connection goes over loopback, through the same
rules of nft as any other. Its `destination` is an address of this machine, of the same family.
"""

import base64
import os
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from mailkeep_server.common.canary import NAME
from mailkeep_server.common.commands import run

SMTP, IMAPS, SIEVE = 25, 993, 4190
IP_FREEBIND, IPV6_FREEBIND = 15, 78  # ip(7), and linux/in6.h: bind to an address that no interface has
ANSWER_TIMEOUT = 12.0  # seconds; Dovecot answers a failure after two, and later the busier the machine is
SSH_TIMEOUT = 10.0
SSH_CONNECT = (
    "import socket, sys; source, destination, port = sys.argv[1:]; is_v6 = ':' in source; "
    "client = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET); client.settimeout(5); "
    f"freebind = (socket.IPPROTO_IPV6, {IPV6_FREEBIND}, 1) if is_v6 else (socket.IPPROTO_IP, {IP_FREEBIND}, 1); "
    "client.setsockopt(*freebind); "
    "client.bind((source, 0)); client.connect((destination, int(port))); client.settimeout(None); "
    "socket.send_fds(socket.socket(fileno=1), [bytes(1)], [client.fileno()])"
)
"""Connects for ssh (ssh_config(5), ProxyUseFdpass): its BindAddress needs an IPv6 address that an interface has."""
MAX_SSH_TRIES = 5
DROP_TIMEOUT = 1.0  # seconds without an answer on loopback: the packet was dropped


def has_ipv6() -> bool:
    """Whether the kernel has IPv6, at least on loopback, and this program may use it."""
    with suppress(OSError), socket.socket(socket.AF_INET6), open("/proc/net/if_inet6") as file:  # noqa: PTH123 - /proc
        return bool(file.read(1))
    return False


@contextmanager
def route_address(address: str) -> Iterator[None]:
    """While it lasts, this machine can bind to the address, and reach it over loopback. Raises as `run` does."""
    family, length = ("-6", 128) if ":" in address else ("-4", 32)
    route = ("local", f"{address}/{length}", "dev", "lo")
    run("ip", family, "route", "replace", *route)
    try:
        yield
    finally:
        run("ip", family, "route", "del", *route, check=False)


def refuse_imap_login(source: str, destination: str, port: int = IMAPS) -> None:
    """Dovecot's auth process logs a login of an unknown user."""
    with connect_from(source, destination, port) as plain, _begin_tls(plain) as client:
        client.recv(1024)
        client.sendall(f"a LOGIN {NAME} {os.urandom(8).hex()}\r\n".encode())
        client.recv(1024)


def refuse_sieve_login(source: str, destination: str, port: int = SIEVE) -> None:
    """As by IMAP, after STARTTLS (RFC 5804 section 2.2): Dovecot takes no password before. Raises ConnectionError if
    it does not begin with TLS."""
    with connect_from(source, destination, port) as plain:
        _read_sieve_answer(plain)
        plain.sendall(b"STARTTLS\r\n")
        if not (answer := _read_sieve_answer(plain)).startswith(b"OK"):
            raise ConnectionError(f"port {port} answers STARTTLS with: {answer.decode(errors='replace')}")
        with _begin_tls(plain) as client:
            _read_sieve_answer(client)
            response = base64.b64encode(f"\0{NAME}\0{os.urandom(8).hex()}".encode()).decode()
            client.sendall(f'AUTHENTICATE "PLAIN" "{response}"\r\n'.encode())
            client.recv(1024)


def _begin_tls(plain: socket.socket) -> socket.socket:
    """Without a look at the certificate: over loopback; judged elsewhere."""
    import ssl  # the watch needs none: it takes 1 MB

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain)


def _read_sieve_answer(client: socket.socket) -> bytes:
    """The last line of an answer: OK, NO or BYE (RFC 5804 section 1.2). Byte by byte: TLS may begin after it."""
    line = b""
    while byte := client.recv(1):
        line += byte
        if byte == b"\n":
            if line.startswith((b"OK", b"NO", b"BYE")):
                break
            line = b""
    return line.strip()


def send_early(source: str, destination: str, port: int = SMTP) -> None:
    """Postfix logs a client that sends its next command before it has the answer to EHLO (RFC 2920)."""
    with connect_from(source, destination, port) as client, client.makefile("rb") as lines:
        lines.readline()
        client.sendall(b"EHLO canary.example.org\r\nMAIL FROM:<>\r\n")
        lines.readline()


def refuse_ssh_login(source: str, destination: str, port: int = 22) -> None:
    """sshd logs a login of an invalid user. When many clients connect, sshd hangs up on some at once (sshd_config(5),
    MaxStartups). Then it is tried again. Raises ConnectionError if sshd cannot be reached."""
    options = {
        "BatchMode": "yes",
        "ProxyCommand": shlex.join(["python3", "-Ic", SSH_CONNECT, source, destination, str(port)]),
        "ProxyUseFdpass": "yes",
        "LogLevel": "ERROR",
        "PreferredAuthentications": "none",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
    }
    flags = [f"-o{name}={value}" for name, value in options.items()]
    command = ["ssh", "-F", "none", *flags, "-p", str(port), f"{NAME}@{destination}", "true"]
    for _ in range(MAX_SSH_TRIES):
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=SSH_TIMEOUT,
        )
        if "proxy dialer" in done.stderr:
            errors = [line for line in done.stderr.splitlines() if "Error" in line]
            raise ConnectionError(f"no connection to sshd: {(errors or [done.stderr.strip()])[-1]}")
        if "kex_exchange_identification" not in done.stderr:
            return


REFUSALS: Mapping[str, Callable[[str, str, int], None]] = {
    "sshd": refuse_ssh_login,
    "postfix": send_early,
    "dovecot": refuse_imap_login,
    "managesieve": refuse_sieve_login,
}
"""By jail. recidive reads no service's log, but the bans of fail2ban itself."""
PORTS: Mapping[str, int] = {"postfix": SMTP, "dovecot": IMAPS, "managesieve": SIEVE}
"""By jail, the port of its service; that of sshd is declared."""


def connect_from(source: str, destination: str, port: int, timeout: float = ANSWER_TIMEOUT) -> socket.socket:
    """A connection over loopback from a routed address. Raises OSError."""
    is_v6 = ":" in source
    client = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET)
    try:
        client.settimeout(timeout)
        level, option = (socket.IPPROTO_IPV6, IPV6_FREEBIND) if is_v6 else (socket.IPPROTO_IP, IP_FREEBIND)
        client.setsockopt(level, option, 1)
        client.bind((source, 0))
        client.connect((destination, port))
    except BaseException as error:
        client.close()
        if isinstance(error, OSError):
            error.filename = f"{destination} port {port}"
        raise
    return client


def is_dropped(source: str, destination: str, port: int) -> bool:
    """Whether a packet from a routed address to this port gets no answer."""
    try:
        connect_from(source, destination, port, DROP_TIMEOUT).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
    return False


def can_connect(source: str, destination: str, port: int) -> bool:
    """Whether a connection from a routed address to this port comes about: it is neither dropped nor rejected."""
    try:
        connect_from(source, destination, port, DROP_TIMEOUT).close()
    except OSError:
        return False
    return True
