"""A server of the lab with an inventory of its own: the demonstration's, with this lab's addresses."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mailkeep.dns.formats import format_zone_file
from mailkeep.dns.records import own_zone_records, reverse_records
from mailkeep.inventory import secrets
from mailkeep.inventory.secrets import Secrets
from mailkeep.lab import Internet, Lab, Server, demo_inventory
from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "inventories" / "demo"
HOSTS = """\
from pathlib import Path

here = Path(__file__).resolve().parent
hosts = [("{name}", {{"mailkeep": str(here / "mail.yml"), "ssh_config_file": "{ssh_config}"}})]
"""


@dataclass(frozen=True)
class Deployed:
    """What a run of pyinfra said: its exit code, its JSON (empty when a host failed early), all it printed."""

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
    """A server and the inventory that describes it; `passphrases` of its accounts by address."""

    server: Server
    inventory: Path
    passphrases: Mapping[str, str]

    @property
    def file(self) -> Path:
        return self.inventory / "mail.yml"

    @property
    def settings(self) -> Settings:
        return load_settings(self.file)

    @cached_property
    def secrets(self) -> Secrets:
        return secrets.load_secrets(self.settings, self.inventory)

    def on(self, server: Server) -> "Site":
        """The same settings, keys and accounts for another machine: a copy of the inventory."""
        target = self.inventory.with_name(f"{server.name}-inventory")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.inventory, target)
        (target / "inventory.py").write_text(_hosts(server))
        return Site(server, target, self.passphrases)

    def publish(self, internet: Internet) -> None:
        """Let the lab's outside world see the records that we tell operators to publish."""
        declared = self.settings
        internet.publish(format_zone_file([*own_zone_records(declared, self.secrets), *reverse_records(declared)]))

    def deploy(self, *options: str, timeout: float = 900) -> Deployed:
        done = subprocess.run(
            [*self.command(), *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout
        )
        report = json.loads(done.stdout) if done.stdout.lstrip().startswith("{") else {}
        return Deployed(done.returncode, report, done.stdout + done.stderr)

    def command(self) -> list[str]:
        """The pyinfra run that `deploy` makes."""
        pyinfra = Path(sys.executable).parent / "pyinfra"
        return [str(pyinfra), str(self.inventory / "inventory.py"), "deploy.py", "-y", "--json"]


def site(lab: Lab, server: Server) -> Site:
    """An inventory for this server, in the lab's state directory; the server itself is not touched."""
    source, target = lab.state / f"{server.name}-declared", lab.state / f"{server.name}-inventory"
    source.mkdir(parents=True, exist_ok=True)
    text = (DEMO / "mail.yml").read_text()
    for theirs, ours in {
        "198.51.100.10": str(server.ip),
        "2001:db8:100::10": str(server.ip6),
        "198.51.100.1/32": f"{lab.address(1)}/32",
    }.items():
        text = text.replace(theirs, ours)
    (source / "mail.yml").write_text(text)
    (source / "inventory.py").write_text(_hosts(server))
    return Site(server, target, demo_inventory.create_demo_inventory(source, target).passphrases)


def _hosts(server: Server) -> str:
    return HOSTS.format(name=server.name, ssh_config=server.ssh_config.resolve())
