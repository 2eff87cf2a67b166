"""The attacking machine of a lab, with as many source addresses as an attack needs."""

from __future__ import annotations

import shlex
import subprocess
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from mailkeep.lab.addresses import ATTACKER_HOST, FIRST_SOURCE_HOST
from mailkeep.lab.container import Container

SOURCES = 15  # source addresses within the lab's network
DISTANT_BLOCK = IPv6Network("2001:db8:b000::/36")  # overlaps no lab's network
DISTANT_NETWORKS, DISTANT_HOSTS = 200, 7

# Binds every connection of a script to one address, whichever library opens it (smtplib, imaplib, ssl).
_BIND_TO_SOURCE = """\
import socket
def _connect(self, address, connect=socket.socket.connect):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        self.bind(({source!r}, 0))
    return connect(self, address)
socket.socket.connect = _connect
"""


class Attacker(Container):
    """`sources` and `sources6` are its source addresses; `ip` and `ip6` are not among them."""

    @property
    def sources(self) -> tuple[IPv4Address, ...]:
        """Fifteen addresses, from host number 16 of the lab's network on."""
        return tuple(self.ip - ATTACKER_HOST + FIRST_SOURCE_HOST + n for n in range(SOURCES))

    @property
    def sources6(self) -> tuple[IPv6Address, ...]:
        return tuple(self.ip6 + 0x1000 + n for n in range(SOURCES))

    def run_python(
        self,
        script: str,
        *arguments: str,
        source_ip: IPv4Address | IPv6Address | str | None = None,
        check: bool = True,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python script (standard library only); its connections leave from `source_ip`."""
        prelude = _BIND_TO_SOURCE.format(source=str(source_ip)) if source_ip else ""
        command = shlex.join(["python3", "-", *arguments])
        return self.run(command, stdin=prelude + script, check=check, timeout=timeout)

    def add_source_addresses(self, prefix_length: int) -> None:
        """Put `sources` and `sources6` on the network interface."""
        lines = [f"addr replace {ip}/{prefix_length} dev eth0" for ip in self.sources]
        lines += [f"addr replace {ip}/64 dev eth0 nodad" for ip in self.sources6]
        self.run("ip -batch -", stdin="\n".join(lines) + "\n")

    def allow_many_sessions(self) -> None:
        """Let sshd accept the sessions of attacks that all begin at once (sshd_config(5), MaxStartups)."""
        self.write("/etc/ssh/sshd_config.d/00-sessions.conf", "MaxStartups 200\n")
        self.run("systemctl reload ssh")

    def add_distant_addresses(self, server: Container) -> None:
        """Take all addresses of `distant_address`, and route them from `server` to this machine."""
        addresses = (
            self.distant_address(network, host)
            for network in range(DISTANT_NETWORKS)
            for host in range(1, DISTANT_HOSTS + 1)
        )
        self.run("ip -batch -", stdin="".join(f"addr replace {ip}/128 dev eth0 nodad\n" for ip in addresses))
        server.run(f"ip -6 route replace {DISTANT_BLOCK} via {self.ip6}")

    @staticmethod
    def distant_address(network: int, host: int = 1) -> IPv6Address:
        """An address of another site. `network` (0 to 199) is a /48, as a site is assigned one (RFC 6177).

        `host` (1 to 7) is in a /64 of its own within it. Postfix counts clients by /64
        (smtpd_client_ipv6_prefix_length), so each host is another client.
        """
        return DISTANT_BLOCK[(network << 80) + (host << 64) + 1]
