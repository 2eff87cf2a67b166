"""The facts about the server that the probe needs: names, numbers and paths, but no secrets."""

import json
import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mailkeep_server.common.own_addresses import find_source_address, is_local_address


@dataclass(frozen=True)
class ProbeConfig:
    host: str
    addresses: list[str]
    domains: list[str]
    catch_all: list[str]
    accounts: list[str]  # those that are tried
    mailboxes: list[str]  # of all accounts
    ssh_port: int
    jails: dict[str, dict[str, Any]]  # each jail's mailkeep_server.common.ban_proof.JailRules
    never_ban: list[str]
    firewall_rules: str  # of nft, as mail.yml declares them
    open_ports: list[int]
    units: list[str]
    on_demand: dict[str, str]  # the milters that end when idle, by unit: the socket that starts each
    secret_paths: list[str]
    sockets: list[str]
    socket_directories: list[str]  # whose sockets other users must not reach
    dkim: list[list[str]]  # (domain, selector)
    outbound_domain: str  # of a correspondent elsewhere; empty: none is known
    relay: list[str]  # host and port of the relay host; empty: there is none
    relay_password_file: str
    local_resolver: bool
    alert_sockets: list[str]  # paths of Postfix's sockets for alerts
    admins: list[str]
    files: dict[str, list[Any]]  # each declared file: owner, group and mode
    directories: dict[str, list[Any]]  # each declared directory, likewise
    reads: dict[str, list[list[str]]]  # by unit, the path prefixes that it reads at a start, and at a reload
    backup_targets: list[str]  # their names in mail.yml
    spam_filter: str  # as in mail.yml
    web: list[list[str]]  # (name, path, method) of each text served over HTTPS

    @classmethod
    def parse(cls, text: str) -> "ProbeConfig":
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)

    @cached_property
    def address(self) -> str:
        """The IPv4 address that clients reach: the public one, or behind NAT the source address of packets."""
        local = [address for address in self.addresses if ":" not in address and is_local_address(address)]
        return local[0] if local else find_source_address(4) or "127.0.0.1"

    @cached_property
    def address6(self) -> str | None:
        return next((address for address in self.addresses if ":" in address and is_local_address(address)), None)


def unused_client_address() -> str:
    """A random address of 127.0.0.0/8, which fail2ban never bans.

    Postfix, Dovecot and sshd have counted no failures of it, so earlier attacks do not slow this one down.
    """
    return ".".join(("127", *(str(random.randint(1, 254)) for _ in range(3))))  # noqa: S311
