"""A lab: its network, and the machines on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import astuple
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import TypeVar

from mailkeep.lab.addresses import (
    ATTACKER_HOST,
    FIRST_SERVER_HOST,
    FIRST_SOURCE_HOST,
    INTERNET_HOST,
    NETWORKS,
    find_nameservers,
    ipv6_network,
)
from mailkeep.lab.attacker import Attacker
from mailkeep.lab.container import Container, list_containers
from mailkeep.lab.images import SUITE, base_image, internet_image, mirror_addresses
from mailkeep.lab.internet import Internet
from mailkeep.lab.podman import LABEL, LabError, podman
from mailkeep.locations import state_directory

STATE = state_directory()

Server = Container
C = TypeVar("C", bound=Container)


class Lab:
    """The lab with this prefix (default: the environment's MAILKEEP_LAB), including machines that run already.

    Everything that a lab creates carries its prefix and podman's label `mailkeep.lab=PREFIX`. Labs with different
    prefixes run side by side, each on a network of its own.
    """

    def __init__(self, prefix: str | None = None, *, network: IPv4Network | None = None, state: Path = STATE) -> None:
        self.prefix = prefix or os.environ.get("MAILKEEP_LAB", "mailkeep")
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", self.prefix):
            raise LabError(f"lab: MAILKEEP_LAB is {self.prefix!r}; lower-case letters, digits, hyphens do")
        self._candidates = [network] if network else NETWORKS
        self._shared_state = state
        self.state = state / self.prefix

    @cached_property
    def network(self) -> IPv4Network:
        """The network of this lab. If there is none yet, the first candidate that is free is created."""
        if podman("network", "ls", "--quiet", "--filter", f"label={LABEL}={self.prefix}"):
            subnets = podman("network", "inspect", "--format", "{{range .Subnets}}{{.Subnet}} {{end}}", self.prefix)
            return IPv4Network(next(subnet for subnet in subnets.split() if ":" not in subnet))
        mirrors = mirror_addresses()
        for network in self._candidates:
            if not any(address in network for address in mirrors) and self._create_network(network):
                return network
        candidates = ", ".join(map(str, self._candidates))
        raise LabError(f"lab: all networks are in use: {candidates}. `podman network ls` shows by which lab.")

    def ipv4_address(self, number: int) -> IPv4Address:
        """Host `number` of the lab's network."""
        return self.network[number]

    def ipv6_address(self, number: int) -> IPv6Address:
        """The same host's IPv6 address: it ends in the decimal digits of `number`."""
        return ipv6_network(self.network)[int(str(number), 16)]

    def boot_server(
        self,
        name: str = "mail",
        *,
        hostname: str | None = None,
        ip: IPv4Address | str | None = None,
        image: str | None = None,
        suite: str = SUITE,
        fresh: bool = True,
    ) -> Server:
        """A booted Debian server with SSH. `image`: one that `Server.bake` returned, by default the base image of
        `suite`.

        An existing server of this name is replaced. With `fresh` False it is kept, and booted if it is stopped.
        """
        address = IPv4Address(ip) if ip else self._free_address()
        image = image or base_image(self._shared_state, suite)
        return self._boot_machine(Server, name, hostname or name, address, image, fresh)

    def reset_server(self, server: Server, image: str) -> Server:
        """Boot `server` anew from `image`: same name and address, the disk as it was baked."""
        return self._boot_machine(Server, server.name, server.hostname, server.ip, image, fresh=True)

    def boot_internet(self, *, fresh: bool = True) -> Internet:
        """The outside world: a signed DNS root with all names of the lab, a mail exchanger, a relay host."""
        image, address = internet_image(self._shared_state), self.ipv4_address(INTERNET_HOST)
        internet = self._boot_machine(Internet, "internet", "mx.outside.test", address, image, fresh)
        internet.start_servers()
        return internet

    def boot_attacker(self, *, fresh: bool = True) -> Attacker:
        """A machine with many source addresses."""
        image, address = internet_image(self._shared_state), self.ipv4_address(ATTACKER_HOST)
        attacker = self._boot_machine(Attacker, "attacker", "attacker", address, image, fresh)
        attacker.add_source_addresses(self.network.prefixlen)
        attacker.allow_many_sessions()
        return attacker

    def list_machines(self) -> list[Container]:
        """The machines of this lab, running or stopped."""
        return list_containers(self.prefix, self.state)

    def destroy(self) -> None:
        """Remove all that carries this lab's label. The images that labs share stay."""
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

    def _boot_machine(self, kind: type[C], name: str, hostname: str, ip: IPv4Address, image: str, fresh: bool) -> C:
        for existing in [] if fresh else self.list_machines():
            if existing.name == name:
                machine = kind(*astuple(existing))
                machine.start()
                return machine
        self._create_ssh_key()
        number = int(ip) - int(self.network[0])
        machine = kind(self.prefix, name, hostname, ip, self.ipv6_address(number), self.state)
        try:
            machine.boot(image, self.prefix, find_nameservers(self.ipv4_address(1)))
        except BaseException:
            machine.remove()  # else it keeps its address and its inotify instances from all that boot later
            raise
        return machine

    def _create_network(self, network: IPv4Network) -> bool:
        """Returns False when its addresses are in use."""
        label = f"{LABEL}={self.prefix}"
        subnets = ("--subnet", str(network), "--ipv6", "--subnet", str(ipv6_network(network)))
        try:
            podman("network", "create", "--label", label, *subnets, self.prefix)
        except LabError as error:
            if "already used" in str(error):
                return False
            raise
        return True

    def _create_ssh_key(self) -> None:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = self.state / "id"
        if not key.exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {self.prefix}", "-f", str(key)]
            subprocess.run(command, check=True, capture_output=True)

    def _free_address(self) -> IPv4Address:
        used = {machine.ip for machine in self.list_machines()}
        free = [ip for ip in list(self.network)[FIRST_SERVER_HOST:FIRST_SOURCE_HOST] if ip not in used]
        if not free:
            raise LabError(f"lab: no address is left for another server; in use: {', '.join(map(str, used))}")
        return free[0]
