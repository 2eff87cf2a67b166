"""A lab of a bench's own, and the demonstration's server in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from mailkeep.lab import Lab
from mailkeep.lab.site import Site, create_site


@contextmanager
def lab(name: str) -> Iterator[Lab]:
    """Gone before, should a former run have been killed, and afterwards."""
    made = Lab(name)
    made.destroy()
    try:
        yield made
    finally:
        made.destroy()


def declared(lab: Lab) -> Site:
    """A bare machine, and the inventory that declares what it shall be."""
    internet, server = lab.boot_internet(fresh=False), lab.boot_server("mail", hostname="mail.example.test")
    internet.resolve_for(server)
    made = create_site(lab, server)
    made.publish(internet)
    return made


def built(lab: Lab, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Site:
    """What was declared, after a `change` of mail.yml."""
    made = declared(lab)
    settings = yaml.safe_load(made.settings_file.read_text())
    change(settings)
    made.settings_file.write_text(yaml.safe_dump(settings))
    deploy(made)
    return made


def deploy(made: Site) -> None:
    deployed = made.deploy()
    if deployed.code:
        raise SystemExit(deployed.output)
