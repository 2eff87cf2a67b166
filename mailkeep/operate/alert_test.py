"""One alert by each way, from the servers of an inventory, and what became of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mailkeep.errors import UserError
from mailkeep.inventory import hosts as inventories
from mailkeep.parts.server_package import PYTHON
from mailkeep.verify.target import Target, each


@dataclass(frozen=True, slots=True)
class Arrival:
    """`to` is an administrator, or the kind of webhook; `said` what the other side answered, or why nothing did."""

    host: str
    way: str
    to: str
    arrived: bool
    said: str


def test(inventory: Path) -> Iterator[Arrival]:
    """Sends them. UserError at last when a host cannot be reached, or has no watch: the others have sent theirs."""
    for arrivals in each(inventory, _test):
        yield from arrivals


def _test(target: Target) -> list[Arrival]:
    done = target.run(f"{PYTHON} alert-test")
    try:
        return [Arrival(target.name, **one) for one in json.loads(done.stdout)]
    except ValueError:
        said = (done.stderr or done.stdout).strip().splitlines()
        deploy = f"`mailkeep deploy {inventories.label(target.file.parent)}`"
        raise UserError(
            f"no alert was sent: {said[-1] if said else f'exit {done.rc}'}. {deploy} sets alerts up."
        ) from None
