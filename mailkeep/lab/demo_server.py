"""The demonstration's server and the Internet around it: booted and deployed once, then reused."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from mailkeep.errors import UserError
from mailkeep.lab.addresses import DEMO_NETWORK
from mailkeep.lab.demo_inventory import create_demo_inventory
from mailkeep.lab.internet import Internet
from mailkeep.lab.lab import Lab
from mailkeep.lab.site import DEMO, DeployResult, Site
from mailkeep.locations import state_directory

WORKING_COPY = state_directory() / "demo"


class Stopwatch:
    """Prints each stage as it begins, and remembers how long it took, in seconds."""

    def __init__(self, console: Console) -> None:
        self.stages: list[tuple[str, float]] = []
        self._console = console

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._console.print(f"[bold]→[/] {name} …")
        start = time.monotonic()
        yield
        self.stages.append((name, time.monotonic() - start))


def start_demo_server(stopwatch: Stopwatch) -> tuple[Lab, Internet, Site, DeployResult]:
    """Boot and build what does not run yet. Raises UserError when the deploy fails."""
    with stopwatch.stage("boot a bare Debian 13 server, and an Internet around it"):
        lab = Lab(network=DEMO_NETWORK)
        internet = lab.boot_internet(fresh=False)
        server = lab.boot_server("mail", hostname="mail.example.test", fresh=False)
        site = Site(server, WORKING_COPY, create_demo_inventory(DEMO, WORKING_COPY).passphrases)
        if server.run("test -e /etc/unbound/unbound.conf.d/lab.conf", check=False).returncode:
            internet.resolve_for(server)
        site.publish(internet)
    with stopwatch.stage("deploy inventories/demo over SSH"):
        deployed = _deploy(site)
    return lab, internet, site, deployed


def _deploy(site: Site) -> DeployResult:
    deployed = site.deploy()
    if deployed.code:
        raise UserError(f"The deploy failed:\n{deployed.output}")
    return deployed
