"""Whether a live server keeps its promises: the same checks for a lab's server and for one in production.

The probe (mailkeep.verify.probe) attacks the server from within and says what it saw; the checks
(mailkeep.verify.checks) are pytest functions, one a promise, that judge it. testinfra brings the one to the other.
"""

import json as json_format
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from mailkeep.errors import UserError
from mailkeep.inventory import hosts as inventories
from mailkeep.verify import report, session
from mailkeep.verify.outcome import Outcome
from mailkeep.verify.target import Found, Seen, Target, UnreachableError

__all__ = ["Outcome", "run", "verify"]


def run(inventory: Path, *, json: bool = False, hosts: Collection[str] = ()) -> int:
    """Verifies the hosts of an inventory directory (those named; by default all) and prints what came of it, as JSON
    if asked. Returns 0 when no promise is broken on any host, else 1; warnings break none. Raises UserError, before
    any host is touched, when the inventory is wrong."""
    targets = _targets(inventory, hosts)
    start = time.monotonic()
    reached = _reach(targets)  # which may ask for a password; what waits at a terminal must not write over it
    with nullcontext() if json else report.waiting("Attacking the server, to see what it withstands"):
        outcomes = _attack(reached)
    passed = all(one.status != "failed" for one in outcomes)
    if json:
        print(json_format.dumps({"passed": passed, "outcomes": [one.asdict() for one in outcomes]}, indent=2))
    else:
        report.show(outcomes, time.monotonic() - start)
    return 0 if passed else 1


def verify(inventory: Path, hosts: Collection[str] = ()) -> list[Outcome]:
    """What came of each check on each host. Raises UserError as `run` does."""
    return _attack(_reach(_targets(inventory, hosts)))


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


def _reach(targets: list[Target]) -> list[Target | Outcome]:
    """Those that can be reached, and what came of the others."""

    def reach(target: Target) -> Target:
        assert target.host
        return target

    return [_or_outcome(target, reach) for target in targets]


def _attack(reached: list[Target | Outcome]) -> list[Outcome]:
    targets = [target for target in reached if isinstance(target, Target)]
    unreached = [outcome for outcome in reached if isinstance(outcome, Outcome)]
    with ThreadPoolExecutor(len(reached)) as pool:
        seen = list(pool.map(lambda target: _or_outcome(target, Target.probe), targets))
    subjects = [(target, saw) for target, saw in zip(targets, seen, strict=True) if isinstance(saw, Seen)]
    unreached += [saw for saw in seen if isinstance(saw, Outcome)]
    return [*unreached, *(session.judged(subjects) if subjects else ())]


def _or_outcome(target: Target, ask: Callable[[Target], Found]) -> Found | Outcome:
    try:
        return ask(target)
    except UnreachableError as error:
        promise = "The server can be reached"
        return Outcome(target.name, "reachable", promise, "failed", "a shell", str(error), error.remedy)
