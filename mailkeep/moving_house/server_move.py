"""`mailkeep move` and `mailkeep rebuild --from`: a whole server goes from one live machine to another."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mailkeep.dns.client import Client, Question, make_resolver
from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost
from mailkeep.inventory import hosts, secrets
from mailkeep.inventory.edit_hosts_file import set_ssh_hostname
from mailkeep.moving_house import forwarding
from mailkeep.moving_house.machine import Machine, ShowProgress
from mailkeep.moving_house.move import move_mail
from mailkeep.moving_house.staged_inventory import stage_inventory
from mailkeep.parts import mail_server
from mailkeep.settings.edit_host import set_addresses
from mailkeep.settings.fields import Address, parse_public_address
from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings

HostData = Mapping[str, object]

INSTALL_RSYNC = """\
command -v rsync > /dev/null || {
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update && apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends rsync > /dev/null
}
"""


@dataclass(frozen=True)
class ServerMove:
    """`directory` is the inventory's, and `name` the host's in it. `old` and `new` are the data for SSH of both
    machines, `old_addresses` and `addresses` their public ones. Without `renames`, the inventory's way by SSH stays."""

    directory: Path
    name: str
    old: HostData
    new: HostData
    addresses: Sequence[Address]
    old_addresses: Sequence[Address]
    renames: bool = True
    old_name: str = ""
    labels: tuple[str, str] = ("the old machine", "the new machine")
    """What the operator calls them."""

    @cached_property
    def settings(self) -> Settings:
        return load_settings(self.directory / hosts.SETTINGS_FILE)

    @property
    def label(self) -> str:
        return hosts.inventory_label(self.directory)

    @contextmanager
    def stage_inventory(self) -> Iterator[Path]:
        """The inventory of the new machine, which takes what the old one forwards."""
        with stage_inventory(self.directory, self.name, self.new, self.addresses, self.old_addresses) as staged:
            yield staged

    def connect_old(self) -> Machine:
        name = self.old_name or self.name
        return Machine(RemoteHost(name, self.old), f"{self.labels[0]} ({_find_way(name, self.old)})")

    def connect_new(self) -> Machine:
        return Machine(RemoteHost(self.name, self.new), f"{self.labels[1]} ({_find_way(self.name, self.new)})")

    def prepare(self) -> None:
        """Packages for the copy on both machines, and what forwards on the old one. Nothing stops. Raises UserError."""
        old, new = self.connect_old(), self.connect_new()
        for machine in (old, new):
            machine.run(INSTALL_RSYNC)
        old.read_status()
        forwarding.prepare_forwarding(old.remote, self._old_settings(), self.addresses)
        if ports := forwarding.find_unreachable_ports(old.remote):
            raise UserError(
                f"{old.label}: it cannot reach the new machine's ports {', '.join(map(str, ports))}, to which it would "
                "forward. A firewall between them must let it. Nothing has changed on it."
            )

    def run(self, show_progress: ShowProgress) -> int:
        """Moves the mail; returns the number of messages. Raises UserError."""
        kept = self._list_kept()
        return move_mail(self.connect_old(), self.connect_new(), kept, show_progress, forwards=True)

    def undo(self, show_progress: ShowProgress) -> int:
        """The way back: `old` is the machine that serves now. Raises UserError."""
        return move_mail(self.connect_old(), self.connect_new(), self._list_kept(), show_progress, forwards=False)

    def write_inventory(self, addresses: Sequence[object], forwarded_from: Sequence[object], way: str) -> list[str]:
        """Writes the addresses into mail.yml, and `way`, if there is one, into inventory.py. Returns what is left to do
        by hand."""
        set_addresses(self.directory / hosts.SETTINGS_FILE, addresses, forwarded_from)
        if not self.renames or set_ssh_hostname(self.directory, self.name, way):
            return []
        return [f"In {self.directory / hosts.HOSTS_FILE}, have SSH reach {self.name} at {way or 'its name'}."]

    def _list_kept(self) -> list[str]:
        parts = mail_server.build_parts(self.settings, secrets.load_secrets(self.settings, self.directory))
        return [path for part in parts for path in part.kept]

    def _old_settings(self) -> Settings:
        host = self.settings.host.model_copy(update={"addresses": tuple(self.old_addresses), "forwarded_from": ()})
        return self.settings.model_copy(update={"host": host})


def _find_way(name: str, data: HostData) -> str:
    return hosts.ssh_words(name, data)[-1]


def parse_addresses(texts: Sequence[str], settings: Settings) -> list[Address]:
    """UserError for what is no public address, or is the server's own already."""
    addresses = []
    for text in texts:
        try:
            address = parse_public_address(text)
        except ValueError:
            raise UserError(f"--to {text}: give a public IP address, such as 203.0.113.25.") from None
        if address in settings.host.addresses:
            raise UserError(f"--to {text}: mail.yml has this address already. Give those of the new machine.")
        addresses.append(address)
    return addresses


def read_public_addresses(machine: Machine) -> list[Address]:
    """The public addresses that a machine has itself. Raises UserError."""
    interfaces = json.loads(machine.run("ip -json address show scope global"))
    addresses = []
    for entry in (entry for interface in interfaces for entry in interface.get("addr_info", ())):
        with suppress(ValueError):
            addresses.append(parse_public_address(entry.get("local")))  # a tunnel may have none
    return addresses


def find_published_addresses(settings: Settings, resolver: str) -> list[str]:
    """The addresses of the host in the DNS. Raises UserError if the resolver does not answer."""
    questions = [Question(settings.host.name, record_type) for record_type in ("A", "AAAA")]
    answers = asyncio.run(Client(make_resolver(resolver)).ask_resolver(questions))
    errors = [answer.error for answer in answers.values() if answer.error]
    if errors:
        raise UserError(f"The DNS does not tell where {settings.host.name} is: {errors[0]}. Try --resolver.")
    return [value for answer in answers.values() for value in answer.values]
