"""A server that Mailkeep built, once for the whole run. Tests that break things get a fresh copy of it."""

from collections.abc import Callable, Iterator

import pytest

from mailkeep.lab import Internet, Lab
from mailkeep.lab.site import DeployResult, Site, create_site


@pytest.fixture(scope="session")
def first_deploy(lab: Lab, internet: Internet) -> tuple[Site, DeployResult]:
    """A bare machine and what the first deploy to it said."""
    server = lab.boot_server("mail", hostname="mail.example.test")
    internet.resolve_for(server)
    built = create_site(lab, server)
    built.publish(internet)
    return built, built.deploy()


@pytest.fixture(scope="session")
def built(first_deploy: tuple[Site, DeployResult]) -> Site:
    """The built server, for tests that leave it as they found it."""
    made, said = first_deploy
    assert said.code == 0, said.output
    return made


@pytest.fixture(scope="session")
def baked(built: Site) -> str:
    """The built server's disk as an image."""
    return built.server.bake("built")


@pytest.fixture
def copy(lab: Lab, built: Site, baked: str) -> Iterator[Callable[[str], Site]]:
    """Boots a copy of the built server, with a copy of its inventory, to be broken at will; gone after the test."""
    made: list[Site] = []

    def boot(name: str = "copy") -> Site:
        server = lab.boot_server(name, hostname="mail.example.test", image=baked)
        made.append(built.copy_for(server))
        return made[-1]

    yield boot
    for one in made:
        one.server.remove()
