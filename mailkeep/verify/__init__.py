"""Whether a live server keeps its promises: the same checks for a lab's server and for one in production.

The probe (mailkeep.verify.probe) attacks the server from within and says what it saw; the checks
(mailkeep.verify.checks) are pytest functions, one a promise, that judge it. testinfra brings the one to the other.
"""

import json as json_format
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from mailkeep import inventory as inventories
from mailkeep.errors import UserError
from mailkeep.verify import report, session
from mailkeep.verify.promises import Outcome
from mailkeep.verify.target import Seen, Target, UnreachableError

__all__ = ["Outcome", "run", "verify"]


def run(inventory: Path, *, json: bool = False, hosts: Collection[str] = ()) -> int:
    """Verifies the hosts of an inventory directory (those named; by default all) and prints what came of it, as JSON
    if asked. Returns 0 when no promise is broken on any host, else 1; warnings break none. Raises UserError, before
    any host is touched, when the inventory is wrong."""
    start = time.monotonic()
    with nullcontext() if json else report.waiting("Attacking the server, to see what it withstands"):
        outcomes = verify(inventory, hosts)
    passed = all(one.status != "failed" for one in outcomes)
    if json:
        print(json_format.dumps({"passed": passed, "outcomes": [one.asdict() for one in outcomes]}, indent=2))
    else:
        report.show(outcomes, time.monotonic() - start)
    return 0 if passed else 1


def verify(inventory: Path, hosts: Collection[str] = ()) -> list[Outcome]:
    """What came of each check on each host. Raises UserError as `run` does."""
    targets = _targets(inventory, hosts)
    with ThreadPoolExecutor(len(targets)) as pool:
        seen = list(pool.map(_probe, targets))
    subjects = [(target, saw) for target, saw in zip(targets, seen, strict=True) if isinstance(saw, Seen)]
    unreached = [saw for saw in seen if isinstance(saw, Outcome)]
    return [*unreached, *(session.judged(subjects) if subjects else ())]


def _targets(inventory: Path, hosts: Collection[str]) -> list[Target]:
    known = inventories.hosts(inventory)
    if unknown := [name for name in hosts if name not in known]:
        raise UserError(
            f"{inventory / inventories.HOSTS}: no host {', '.join(unknown)}; there are: {', '.join(known)}."
        )
    targets = [Target(name, data) for name, data in known.items() if name in hosts or not hosts]
    for target in targets:
        target.load()
    return targets


def _probe(target: Target) -> Seen | Outcome:
    try:
        return target.probe()
    except UnreachableError as error:
        remedy = f"See that `ssh {target.name}` gives you a shell there without asking anything, as root or with sudo."
        return Outcome(target.name, "reachable", "The server can be reached", "failed", "a shell", str(error), remedy)
