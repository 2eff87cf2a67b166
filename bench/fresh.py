"""A lab for one bench, and the demonstration's server in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from mailkeep.lab import Lab
from mailkeep.lab.podman import podman
from mailkeep.lab.site import Site, create_site


@contextmanager
def fresh_lab(name: str) -> Iterator[Lab]:
    """Removed afterwards; and beforehand, in case an earlier run was killed."""
    lab = Lab(name)
    lab.destroy()
    try:
        yield lab
    finally:
        lab.destroy()


def create_bare_server(lab: Lab) -> Site:
    """A freshly booted server with its inventory, to which nothing is deployed yet."""
    internet, server = lab.boot_internet(fresh=False), lab.boot_server("mail", hostname="mail.example.test")
    internet.resolve_for(server)
    site = create_site(lab, server)
    site.publish(internet)
    return site


def build_server(
    lab: Lab, change_settings: Callable[[dict[str, Any]], None] = lambda _: None, *, memory: str = ""
) -> Site:
    """A deployed server; `change_settings` changes the content of its mail.yml first. `memory` (`1g`) is all that it
    may have, from before the deploy on: the kernel kills what takes more."""
    site = create_bare_server(lab)
    if memory:
        podman("update", f"--memory={memory}", f"--memory-swap={memory}", site.server.id)
    settings = yaml.safe_load(site.settings_file.read_text())
    change_settings(settings)
    site.settings_file.write_text(yaml.safe_dump(settings))
    deploy(site)
    return site


def deploy(site: Site) -> None:
    """Exits with pyinfra's output when the deploy fails."""
    result = site.deploy()
    if result.code:
        raise SystemExit(result.output)
