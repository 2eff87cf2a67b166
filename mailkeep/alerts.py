"""One alert by each way, from the servers of an inventory, and what became of it."""

import json
from dataclasses import dataclass
from pathlib import Path

from mailkeep import inventory as inventories
from mailkeep.errors import UserError
from mailkeep.parts.guard import PROGRAM
from mailkeep.verify.target import Target, UnreachableError, run


@dataclass(frozen=True, slots=True)
class Arrival:
    """`to` is an administrator, or the kind of webhook; `said` what the other side answered, or why nothing did."""

    host: str
    way: str
    to: str
    arrived: bool
    said: str


def test(inventory: Path) -> list[Arrival]:
    """Sends them. UserError when a host cannot be reached, or has no watch."""
    return [arrival for name, data in inventories.hosts(inventory).items() for arrival in _test(Target(name, data))]


def _test(target: Target) -> list[Arrival]:
    try:
        done = run(target.host, f"python3 -IB {PROGRAM} alert-test")
    except UnreachableError as error:
        raise UserError(f"{target.name}: {error}. `ssh {target.name}` must get in without a question.") from None
    try:
        return [Arrival(target.name, **one) for one in json.loads(done.stdout)]
    except ValueError:
        said = (done.stderr or done.stdout).strip().splitlines()
        deploy = f"`mailkeep deploy {inventories.label(target.file.parent)}`"
        raise UserError(
            f"{target.name}: no alert was sent: {said[-1] if said else f'exit {done.rc}'}. {deploy} sets alerts up."
        ) from None
