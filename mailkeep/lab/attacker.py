"""A machine of the lab that tries things, from as many addresses as it needs."""

from __future__ import annotations

import shlex
import subprocess
from ipaddress import IPv4Address, IPv6Address

from mailkeep.lab.container import Container

ATTACKER, FIRST_SOURCE, SOURCES = 3, 16, 15  # two host numbers within the lab's network; how many sources

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
