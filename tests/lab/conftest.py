"""A server that Mailkeep built once for the whole run. Tests that break things get a fresh copy of it."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from mailkeep.lab import Internet, Lab
from mailkeep.lab.addresses import COPY_HOST
from mailkeep.lab.podman import LABEL, podman
from mailkeep.lab.site import DeployResult, Site, create_site
from mailkeep_server.common.paths import KNOWN_ACCESS

KEPT_RESOLV_CONF = "/root/resolv.conf"
"""On the disk of a copy: the lab gives each machine that it boots a file with its own resolvers."""
SESSION_MACHINES = {"internet", "attacker", "mail"}


@pytest.fixture(scope="module", autouse=True)
def remove_machines(lab: Lab) -> Iterator[None]:
    """A module whose server could not be set up leaves it running; it would keep its address from all that follow."""
    yield
    for machine in lab.list_machines():
        if machine.name not in SESSION_MACHINES:
            machine.remove()


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that all workers of this run share."""
    directory = tmp_path_factory.getbasetemp()
    return directory.parent if "PYTEST_XDIST_WORKER" in os.environ else directory


@pytest.fixture(scope="session")
def first_build(lab: Lab, internet: Internet, run_lab: Lab, run_directory: Path) -> tuple[Site, DeployResult]:
    """A built server, and the result of the first deploy to a bare machine.

    One worker of the run builds it. The others wait, boot its disk in their labs and deploy their own inventories,
    which takes ten seconds instead of a minute.
    """
    image, result_file = f"localhost/{run_lab.prefix}:first-build", run_directory / "first-build.json"
    with (run_directory / "first-build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result_file.exists():
            if run_lab.prefix != lab.prefix:
                run_lab.destroy()  # left by a killed run
            run_lab.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            server = lab.boot_server("mail", hostname="mail.example.test")
            internet.resolve_for(server)
            site = create_site(lab, server)
            site.publish(internet)
            result = site.deploy()
            assert result.code == 0, result.output
            with site.pause_proofs():
                podman("commit", "-q", "--pause=false", "--change", f"LABEL {LABEL}={run_lab.prefix}", server.id, image)
            result_file.write_text(json.dumps(asdict(result)))
            return site, result
    server = lab.boot_server("mail", hostname="mail.example.test", image=image)
    internet.resolve_for(server)
    # The first deploy recorded the key and the resolver of another lab.
    server.run(f"rm {KNOWN_ACCESS}")
    site = create_site(lab, server)
    site.publish(internet)
    redeployed = site.deploy()
    assert redeployed.code == 0, redeployed.output
    return site, DeployResult(**json.loads(result_file.read_text()))


@pytest.fixture(scope="session")
def first_deploy(first_build: tuple[Site, DeployResult]) -> DeployResult:
    return first_build[1]


@pytest.fixture(scope="session")
def built_site(first_build: tuple[Site, DeployResult]) -> Site:
    """The built server, for tests that do not change it."""
    return first_build[0]


@pytest.fixture(scope="session")
def built_image(built_site: Site) -> str:
    """The name of an image of the built server's disk."""
    return built_site.bake("built")


@pytest.fixture(scope="session")
def copied_site(lab: Lab, built_site: Site, built_image: str) -> tuple[Site, str]:
    """A site whose server is gone, and an image of its disk: `boot_copy` boots that at the site's addresses."""
    address = lab.ipv4_address(COPY_HOST)
    server = lab.boot_server("copied", hostname="mail.example.test", image=built_image, ip=address)
    site = built_site.copy_for(server)
    deployed = site.deploy()
    assert deployed.code == 0, deployed.output
    server.run(f"cp -p /etc/resolv.conf {KEPT_RESOLV_CONF}")
    image = site.bake("copied")
    server.remove()
    return site, image


@pytest.fixture
def boot_copy(lab: Lab, copied_site: tuple[Site, str]) -> Iterator[Callable[[str], Site]]:
    """Boots copies of the built server, each with a copy of its inventory; they are removed after the test.

    The second of two at once has other addresses, so it is deployed to.
    """
    site, image = copied_site
    sites: list[Site] = []

    def boot_site(name: str = "copy") -> Site:
        address = None if sites else site.server.ip
        server = lab.boot_server(name, hostname="mail.example.test", image=image, ip=address)
        server.run(f"mv {KEPT_RESOLV_CONF} /etc/resolv.conf")
        sites.append(site.copy_for(server))
        if not address:
            deployed = sites[-1].deploy()
            assert deployed.code == 0, deployed.output
        return sites[-1]

    yield boot_site
    for copy in sites:
        copy.server.remove()
