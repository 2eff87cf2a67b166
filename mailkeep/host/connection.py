"""pyinfra's connection to one host, without its output: warnings and errors are collected instead."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from paramiko import SSHException, Transport
from paramiko.ssh_exception import NoValidConnectionsError
from pyinfra.api import Config, Host, Inventory, State
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.connectors.ssh import SSHConnector

from mailkeep.host.ssh_failure import explain_ssh_failure

CONNECTION_ERRORS = (PyinfraError, SSHException, OSError, EOFError)
KEEPALIVE_SECONDS = 15  # a firewall on the way forgets silent connections; a dead host is noticed by the next line
DEAD_AFTER_SECONDS = 60  # without any sign of the host


@dataclass
class PyinfraLog:
    """`is_new` if the host's SSH key was unknown, and is now in known_hosts."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    is_new: bool = False


class _Collector(logging.Handler):
    def __init__(self, host: str, log: PyinfraLog) -> None:
        super().__init__(logging.WARNING)
        self.prefix, self.log = f"[{host}]", log

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().removeprefix(self.prefix).strip()
        if record.levelno >= logging.ERROR:
            self.log.errors.append(message)
        elif message.startswith(("No host key for ", "Added host key for ")):
            self.log.is_new = True
        elif not (message.startswith("Failed to load host keys") and "No such file" in message):
            self.log.warnings.append(message)


@contextmanager
def collect_log(name: str) -> Iterator[PyinfraLog]:
    """What pyinfra warns of while it works on this host; nothing of it is printed."""
    logger, paramiko, log = logging.getLogger("pyinfra"), logging.getLogger("paramiko"), PyinfraLog()
    before = logger.handlers, logger.propagate, paramiko.handlers
    # pyinfra says all that paramiko logs, and without tracebacks.
    logger.handlers, logger.propagate, paramiko.handlers = [_Collector(name, log)], False, [logging.NullHandler()]
    try:
        yield log
    finally:
        logger.handlers, logger.propagate, paramiko.handlers = before


@contextmanager
def connect_host(name: str, data: dict[str, object], *, check_for_changes: bool = True) -> Iterator[Host]:
    """A connected host in a state of its own. Raises one of CONNECTION_ERRORS."""
    inventory = Inventory(([(name, data)], {}))  # type: ignore[no-untyped-call]
    State(inventory, Config(), check_for_changes)  # type: ignore[no-untyped-call]  # ties itself to the hosts
    host = inventory.get_host(name)
    try:
        _connect(host)
        yield host
    finally:
        if host.connected:
            host.disconnect()


def describe_failure(error: Exception, name: str, data: dict[str, object]) -> str:
    """In one line: why the host cannot be reached, and what to do."""
    message = str(error) or type(error).__name__
    # pyinfra's message has paramiko's, which leaves out why there is no connection.
    if isinstance(error.__context__, NoValidConnectionsError):
        reasons = dict.fromkeys(
            getattr(reason, "strerror", None) or str(reason) for reason in error.__context__.errors.values()
        )
        message = f"Could not connect: {', '.join(reasons)}"
    message = " ".join(message.split()).removesuffix(".")
    return f"{message}. {explain_ssh_failure(message, name, data)}"


def _connect(host: Host) -> None:
    """Raises ConnectError. A command must not wait for ever for a machine that has gone while it ran."""
    try:
        host.connect(show_errors=False, raise_exceptions=True)
    except ConnectError:
        transport = _find_transport(host)
        if transport and not transport.remote_version:  # paramiko says "No existing session", among others
            raise ConnectError("no SSH banner came") from None
        raise
    if transport := _find_transport(host):
        transport.set_keepalive(KEEPALIVE_SECONDS)
        if isinstance(transport.sock, socket.socket):
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_SECONDS * 1000)


def _find_transport(host: Host) -> Transport | None:
    client = host.connector.client if isinstance(host.connector, SSHConnector) else None
    return client.get_transport() if client else None
