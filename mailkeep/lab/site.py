"""A server of the lab and its inventory: the demonstration's, with this lab's addresses."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mailkeep.dns.formats import format_zone_file
from mailkeep.dns.records import own_zone_records, reverse_records
from mailkeep.inventory import secrets
from mailkeep.inventory.hosts import DEPLOY, pyinfra_command
from mailkeep.inventory.secrets import Secrets
from mailkeep.lab.demo_inventory import create_demo_inventory
from mailkeep.lab.internet import Internet
from mailkeep.lab.lab import Lab, Server
from mailkeep.lab.podman import poll
from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings

DEMO = Path(__file__).resolve().parent / "demo"
"""A symbolic link to inventories/demo, whose files an installed wheel has here."""
HOSTS = """\
from pathlib import Path

here = Path(__file__).resolve().parent
hosts = [("{name}", {{"mailkeep": str(here / "mail.yml"), "ssh_config_file": "{ssh_config}"}})]
"""


@dataclass(frozen=True)
class DeployResult:
    """The result of a run of pyinfra: exit code, JSON report (empty when a host failed early), and all its output."""

    code: int
    report: dict[str, Any]
    output: str

    @property
    def changed(self) -> list[str]:
        """The names of the operations that changed something."""
        operations = self.report.get("results", {}).get("operations", [])
        return [operation["name"] for operation in operations if operation["success"]]


@dataclass(frozen=True)
class Site:
    """A server and its inventory. `passphrases` are those of its accounts, by address."""

    server: Server
    inventory: Path
    passphrases: Mapping[str, str]

    @property
    def settings_file(self) -> Path:
        return self.inventory / "mail.yml"

    @property
    def settings(self) -> Settings:
        return load_settings(self.settings_file)

    @cached_property
    def secrets(self) -> Secrets:
        return secrets.load_secrets(self.settings, self.inventory)

    def copy_for(self, server: Server) -> "Site":
        """A copy of the inventory for another machine: the same keys and accounts, and that machine's addresses."""
        target = self.inventory.with_name(f"{server.name}-inventory")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.inventory, target)
        (target / "inventory.py").write_text(_hosts_text(server))
        text = self.settings_file.read_text()
        for address, new in ((self.server.ip, server.ip), (self.server.ip6, server.ip6)):
            text = re.sub(rf"{re.escape(str(address))}(?![0-9a-f:.])", str(new), text)
        (target / "mail.yml").write_text(text)
        return Site(server, target, self.passphrases)

    @contextmanager
    def pause_proofs(self) -> Iterator[None]:
        """Lets a proof of the jails end, and no other begin: each copy of the disk would restore its bans."""
        self.server.run("systemctl stop mailkeep-jails.timer")
        try:
            state = "systemctl show --property=ActiveState --value mailkeep-jails"
            poll(lambda: self.server.run(state).stdout.strip() != "activating", 60, "a proof of the jails does not end")
            yield
        finally:
            self.server.run("systemctl start mailkeep-jails.timer")

    def bake(self, tag: str) -> str:
        """An image of the built server's disk, as `Container.bake` saves it, between proofs of the jails."""
        with self.pause_proofs():
            return self.server.bake(tag)

    def declare_addresses(self) -> None:
        """Have mail.yml name the server's own addresses, instead of those of the server that it was copied from."""
        text = self.settings_file.read_text()
        for declared, address in zip(self.settings.host.addresses, (self.server.ip, self.server.ip6), strict=True):
            text = text.replace(str(declared), str(address))
        self.settings_file.write_text(text)

    def publish(self, internet: Internet) -> None:
        """Publish in the lab's outside world the records that `mailkeep dns` tells operators to publish."""
        settings = self.settings
        internet.publish(format_zone_file([*own_zone_records(settings, self.secrets), *reverse_records(settings)]))

    def deploy(self, *options: str, timeout: float = 900) -> DeployResult:
        done = subprocess.run(
            [*self.deploy_command(), *options], capture_output=True, text=True, check=False, timeout=timeout
        )
        report = json.loads(done.stdout) if done.stdout.lstrip().startswith("{") else {}
        return DeployResult(done.returncode, report, done.stdout + done.stderr)

    def deploy_command(self, deploy: str = DEPLOY) -> list[str]:
        """The pyinfra command that `deploy` runs; `deploy` is a function, or the path of a deploy file."""
        return pyinfra_command(self.inventory, "--json", deploy=deploy)


def create_site(lab: Lab, server: Server) -> Site:
    """Write an inventory for this server into the lab's state directory. The server itself is not touched."""
    source, target = lab.state / f"{server.name}-declared", lab.state / f"{server.name}-inventory"
    source.mkdir(parents=True, exist_ok=True)
    text = (DEMO / "mail.yml").read_text()
    for demo_address, lab_address in {
        "198.51.100.10": str(server.ip),
        "2001:db8:100::10": str(server.ip6),
        "198.51.100.1/32": f"{lab.ipv4_address(1)}/32",
    }.items():
        text = text.replace(demo_address, lab_address)
    (source / "mail.yml").write_text(text)
    (source / "inventory.py").write_text(_hosts_text(server))
    return Site(server, target, create_demo_inventory(source, target).passphrases)


def join_sites(directory: Path, sites: Iterable[Site], others: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """Write one inventory with the hosts of all these sites, and `others` by name, each with its pyinfra data. Returns
    its directory; its own mail.yml is the first site's."""
    sites = list(sites)
    hosts: dict[str, Mapping[str, Any]] = {}
    for site in sites:
        config = str(site.server.ssh_config.resolve())
        hosts[site.server.name] = {"mailkeep": str(site.settings_file.resolve()), "ssh_config_file": config}
    first = sites[0].settings_file.resolve()
    hosts |= {name: {"mailkeep": str(first), **data} for name, data in (others or {}).items()}
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(first.parent, directory)
    (directory / "inventory.py").write_text(f"hosts = {list(hosts.items())!r}\n")
    return directory


def _hosts_text(server: Server) -> str:
    return HOSTS.format(name=server.name, ssh_config=server.ssh_config.resolve())
