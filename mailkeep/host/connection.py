"""pyinfra's connection to one host, without its output: warnings and errors are collected instead."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyinfra.api import Config, Host, Inventory, State
from pyinfra.api.exceptions import PyinfraError

from mailkeep.host.ssh_connector import use_ssh_program
from mailkeep.host.ssh_failure import explain_ssh_failure

CONNECTION_ERRORS = (PyinfraError, OSError, EOFError)


@dataclass
class PyinfraLog:
    """What pyinfra warned of."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class _Collector(logging.Handler):
    def __init__(self, host: str, log: PyinfraLog) -> None:
        super().__init__(logging.WARNING)
        self.prefix, self.log = f"[{host}]", log

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().removeprefix(self.prefix).strip()
        (self.log.errors if record.levelno >= logging.ERROR else self.log.warnings).append(message)


@contextmanager
def collect_log(name: str) -> Iterator[PyinfraLog]:
    """What pyinfra warns of while it works on this host; nothing of it is printed."""
    logger, log = logging.getLogger("pyinfra"), PyinfraLog()
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [_Collector(name, log)], False
    try:
        yield log
    finally:
        logger.handlers, logger.propagate = before


@contextmanager
def connect_host(name: str, data: dict[str, object], *, check_for_changes: bool = True) -> Iterator[Host]:
    """A connected host in a state of its own. Raises one of CONNECTION_ERRORS."""
    use_ssh_program()
    inventory = Inventory(([(name, data)], {}))  # type: ignore[no-untyped-call]
    State(inventory, Config(), check_for_changes)  # type: ignore[no-untyped-call]  # ties itself to the hosts
    host = inventory.get_host(name)
    try:
        host.connect(show_errors=False, raise_exceptions=True)
        yield host
    finally:
        if host.connected:
            host.disconnect()


def describe_failure(error: Exception, name: str, data: dict[str, object]) -> str:
    """In one line: why the host cannot be reached, and what to do."""
    message = " ".join((str(error) or type(error).__name__).split()).removesuffix(".")
    return f"{message}. {explain_ssh_failure(message, name, data)}"
