"""A machine of the lab that tries things, from as many addresses as it needs."""

from __future__ import annotations

import shlex
import subprocess
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from mailkeep.lab.container import Container

ATTACKER, FIRST_SOURCE, SOURCES = 3, 16, 15  # two host numbers within the lab's network; how many sources
FAR = IPv6Network("2001:db8:b000::/36")  # no lab's own network is in it
FAR_NETWORKS, FAR_HOSTS = 200, 7

# Every connection of a script leaves from one address, whatever library opens it (smtplib, imaplib, ssl).
_FROM_SOURCE = """\
import socket
def _connect(self, address, connect=socket.socket.connect):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        self.bind(({source!r}, 0))
    return connect(self, address)
socket.socket.connect = _connect
"""


class Attacker(Container):
    """`run` and `run_python` on it; `sources` are its addresses, of which `ip` is none."""

    @property
    def sources(self) -> tuple[IPv4Address, ...]:
        """Fifteen, from host number 16 of the lab's network on."""
        return tuple(self.ip - ATTACKER + FIRST_SOURCE + n for n in range(SOURCES))

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
        """Run a Python script (standard library only), its connections leaving from `source_ip`."""
        prelude = _FROM_SOURCE.format(source=str(source_ip)) if source_ip else ""
        command = shlex.join(["python3", "-", *arguments])
        return self.run(command, stdin=prelude + script, check=check, timeout=timeout)

    def take_addresses(self, prefix_length: int) -> None:
        """Put `sources` and `sources6` on the network interface."""
        lines = [f"addr replace {ip}/{prefix_length} dev eth0" for ip in self.sources]
        lines += [f"addr replace {ip}/64 dev eth0 nodad" for ip in self.sources6]
        self.run("ip -batch -", stdin="\n".join(lines) + "\n")

    def take_crowds(self) -> None:
        """Attacks begin all at once, each with a session of its own: sshd would turn some away (sshd_config(5))."""
        self.write("/etc/ssh/sshd_config.d/00-crowds.conf", "MaxStartups 200\n")
        self.run("systemctl reload ssh")

    def come_from_afar(self, server: Container) -> None:
        """Have the addresses that `far` gives; `server` reaches them by way of this machine."""
        addresses = (self.far(network, host) for network in range(FAR_NETWORKS) for host in range(1, FAR_HOSTS + 1))
        self.run("ip -batch -", stdin="".join(f"addr replace {ip}/128 dev eth0 nodad\n" for ip in addresses))
        server.run(f"ip -6 route replace {FAR} via {self.ip6}")

    @staticmethod
    def far(network: int, host: int = 1) -> IPv6Address:
        """An address elsewhere: `network` (0 to 199) is one as a site gets it, a /48 (RFC 6177); `host` (1 to 7) is in
        a /64 of its own within it, and so a client of its own to Postfix (smtpd_client_ipv6_prefix_length)."""
        return FAR[(network << 80) + (host << 64) + 1]
