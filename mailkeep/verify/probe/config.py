"""What the probe has to know of the server: names, numbers and paths, no secrets."""

import json
import random
import socket
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class ProbeConfig:
    host: str
    addresses: list[str]
    domains: list[str]
    catch_all: list[str]
    accounts: list[str]
    ssh_port: int
    jails: dict[str, list[int] | None]  # with the ports that each closes to a banned address; None: all
    units: list[str]
    secret_paths: list[str]
    sockets: list[str]
    dkim: list[list[str]]  # (domain, selector)
    outbound_target: list[str]  # what posttls-finger(1) is to connect to, with its options; empty: nothing to try
    local_resolver: bool
    alert_socket: str  # the socket that takes alerts
    admins: list[str]
    web: list[list[str]]  # (name, path, method) of each text that is served over HTTPS

    @classmethod
    def parse(cls, text: str) -> "ProbeConfig":
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)

    @cached_property
    def address(self) -> str:
        """Where clients from outside arrive: the public address, or behind NAT the one that packets leave from."""
        here = [address for address in self.addresses if ":" not in address and is_local_address(address)]
        return here[0] if here else source_address()

    @cached_property
    def address6(self) -> str | None:
        return next((address for address in self.addresses if ":" in address and is_local_address(address)), None)


def is_local_address(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as tried:
        try:
            tried.bind((address, 0))
        except OSError:
            return False
    return True


def source_address() -> str:
    with socket.socket(type=socket.SOCK_DGRAM) as towards:
        towards.connect(("192.0.2.1", 9))  # UDP: finds the route, sends nothing
        return str(towards.getsockname()[0])


def unused_client_address() -> str:
    """A client address that no counter of Postfix, Dovecot or sshd has seen yet, so that what an earlier run did
    slows nothing down. fail2ban bans none of 127.0.0.0/8."""
    return ".".join(("127", *(str(random.randint(1, 254)) for _ in range(3))))  # noqa: S311
