"""A lab: containers that stand in for a server, for the internet around it, and for an attacker.

    lab = Lab("mailkeep")
    server = lab.server("mail", hostname="mail.example.test")
    server.run("apt-get update")
    lab.destroy()

Everything a lab makes carries its prefix and podman's label `mailkeep.lab=PREFIX`; `destroy` removes just
that. Labs of different prefixes run side by side, each on its own slice of the documentation networks
(RFC 5737, RFC 3849).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import astuple
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import TypeVar

from mailkeep.lab import images
from mailkeep.lab.attacker import ATTACKER, FIRST_SOURCE, Attacker
from mailkeep.lab.container import Container, containers
from mailkeep.lab.internet import Internet, Received
from mailkeep.lab.podman import LABEL, LabError, podman, poll

__all__ = [
    "DEMO_NETWORK",
    "Attacker",
    "Container",
    "Internet",
    "Lab",
    "LabError",
    "Received",
    "Server",
    "poll",
]

STATE = Path(__file__).resolve().parents[2] / ".lab"
DEMO_NETWORK = IPv4Network("198.51.100.0/26")  # fixed: the demo has the same addresses everywhere
NETWORKS = [
    network
    for block in ("198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/24")
    for network in IPv4Network(block).subnets(new_prefix=27)
    if not network.overlaps(DEMO_NETWORK)
]
INTERNET, FIRST_SERVER = 2, 10  # host numbers within the network; 1 is this machine, its gateway

Server = Container
C = TypeVar("C", bound=Container)


class Lab:
    """The lab of this prefix (environment: MAILKEEP_LAB). What already runs under it belongs to it."""

    def __init__(self, prefix: str | None = None, *, network: IPv4Network | None = None, state: Path = STATE) -> None:
        self.prefix = prefix or os.environ.get("MAILKEEP_LAB", "mailkeep")
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", self.prefix):
            raise LabError(f"lab: MAILKEEP_LAB is {self.prefix!r}; lower-case letters, digits, hyphens do")
        self._wanted = [network] if network else NETWORKS
        self._shared = state
        self.state = state / self.prefix

    @cached_property
    def network(self) -> IPv4Network:
        """The addresses of this lab: those asked for, or the first documentation network that is free."""
        if podman("network", "ls", "--quiet", "--filter", f"label={LABEL}={self.prefix}"):
            made = podman("network", "inspect", "--format", "{{range .Subnets}}{{.Subnet}} {{end}}", self.prefix)
            return IPv4Network(next(subnet for subnet in made.split() if ":" not in subnet))
        mirrors = images.mirror_addresses()
        for network in self._wanted:
            if not any(address in network for address in mirrors) and self._made(network):
                return network
        raise LabError(f"lab: in use: {', '.join(map(str, self._wanted))}; `podman network ls` shows by what")

    def address(self, number: int) -> IPv4Address:
        """Host `number` of the lab's network."""
        return self.network[number]

    def address6(self, number: int) -> IPv6Address:
        """The same host's IPv6 address: it ends in the decimal digits of `number`."""
        return _ipv6(self.network)[int(str(number), 16)]

    def server(
        self,
        name: str = "mail",
        *,
        hostname: str | None = None,
        ip: IPv4Address | str | None = None,
        image: str | None = None,
        fresh: bool = True,
    ) -> Server:
        """A booted Debian 13 server with SSH; `image` is one that `Server.bake` made, or the base image.

        One that exists under this name is replaced; with `fresh` False it is kept, and booted if need be.
        """
        address = IPv4Address(ip) if ip else self._free_address()
        image = image or images.base(self._shared)
        return self._machine(Server, name, hostname or name, address, image, fresh)

    def reset(self, server: Server, image: str) -> Server:
        """Boot `server` anew from `image`: same name and address, the disk as it was baked."""
        return self._machine(Server, server.name, server.hostname, server.ip, image, fresh=True)

    def internet(self, *, fresh: bool = True) -> Internet:
        """The outside world: a signed DNS root with all names of the lab, a mail exchanger, a relay host."""
        image, address = images.internet(self._shared), self.address(INTERNET)
        internet = self._machine(Internet, "internet", "mx.outside.test", address, image, fresh)
        internet.open()
        return internet

    def attacker(self, *, fresh: bool = True) -> Attacker:
        """A machine with many source addresses."""
        image, address = images.internet(self._shared), self.address(ATTACKER)
        attacker = self._machine(Attacker, "attacker", "attacker", address, image, fresh)
        attacker.take_addresses(self.network.prefixlen)
        attacker.take_crowds()
        return attacker

    def machines(self) -> list[Container]:
        """What runs, or is stopped, in this lab."""
        return containers(self.prefix, self.state)

    def destroy(self) -> None:
        """Remove all that carries this lab's label, whoever left it. The images that labs share stay."""
        label = f"label={LABEL}={self.prefix}"
        for machine in podman("ps", "--all", "--quiet", "--filter", label).split():
            podman("rm", "--force", "--volumes", "--time", "0", machine)
        for network in podman("network", "ls", "--quiet", "--filter", label).split():
            podman("network", "rm", network)
        for image in podman("images", "--filter", label, "--format", "{{.Repository}}:{{.Tag}}").split():
            podman("rmi", image)
        if self.state.exists():
            shutil.rmtree(self.state)
        vars(self).pop("network", None)

    def _machine(self, kind: type[C], name: str, hostname: str, ip: IPv4Address, image: str, fresh: bool) -> C:
        for found in [] if fresh else self.machines():
            if found.name == name:
                machine = kind(*astuple(found))
                machine.start()
                return machine
        self._make_key()
        number = int(ip) - int(self.network[0])
        machine = kind(self.prefix, name, hostname, ip, self.address6(number), self.state)
        machine.boot(image, self.prefix, _nameservers(self.address(1)))
        return machine

    def _made(self, network: IPv4Network) -> bool:
        label = f"{LABEL}={self.prefix}"
        subnets = ("--subnet", str(network), "--ipv6", "--subnet", str(_ipv6(network)))
        try:
            podman("network", "create", "--label", label, *subnets, self.prefix)
        except LabError as error:
            if "already used" in str(error):
                return False
            raise
        return True

    def _make_key(self) -> None:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = self.state / "id"
        if not key.exists():
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {self.prefix}", "-f", str(key)]
            subprocess.run(make, check=True, capture_output=True)

    def _free_address(self) -> IPv4Address:
        taken = {machine.ip for machine in self.machines()}
        free = [ip for ip in list(self.network)[FIRST_SERVER:FIRST_SOURCE] if ip not in taken]
        if not free:
            raise LabError(f"lab: no address is left for one more server; {', '.join(map(str, taken))} are taken")
        return free[0]


def _ipv6(network: IPv4Network) -> IPv6Network:
    """The documentation network (RFC 3849) that goes with an IPv4 one: 198.51.100.64/27 has 2001:db8:100:64::/64."""
    third, fourth = str(network.network_address).split(".")[2:]
    return IPv6Network(f"2001:db8:{third}:{fourth}::/64")


def _nameservers(gateway: IPv4Address) -> list[str]:
    """This machine's own resolvers, as a container can reach them: of a loopback one, the upstreams that
    systemd-resolved writes down; where there are none, podman's forwarder on the lab's gateway."""
    for path in map(Path, ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")):
        words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        servers = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
        reachable = [server for server in servers if not ip_address(server.split("%")[0]).is_loopback]
        if reachable:
            return reachable[:3]
    return [str(gateway)]
