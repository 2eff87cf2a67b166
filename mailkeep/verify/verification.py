"""Verify the hosts of an inventory: run the probe on each, judge its results, and report the outcomes."""

import json
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

from mailkeep.errors import UserError
from mailkeep.host.remote import UnreachableError
from mailkeep.inventory import hosts as inventories
from mailkeep.verify import report, session
from mailkeep.verify.outcome import Outcome
from mailkeep.verify.target import ProbeResult, Target

T = TypeVar("T")


def verify_and_report(inventory: Path, *, as_json: bool = False, hosts: Collection[str] = ()) -> bool:
    """Verify the hosts of an inventory directory (`hosts`, by default all), and print the outcomes as text or JSON.

    Returns whether no check failed on any host; a warning is no failure. Raises UserError, before any host is
    touched, when the inventory is wrong.
    """
    targets = _load_targets(inventory, hosts)
    start = time.monotonic()
    # Connecting may ask for a password. The spinner begins afterwards, so that it does not overwrite the question.
    connected = _connect_all(targets)
    with nullcontext() if as_json else report.show_progress("Attacking the server, to see what it withstands"):
        outcomes = _probe_and_judge(connected)
    passed = all(outcome.status != "failed" for outcome in outcomes)
    if as_json:
        print(json.dumps({"passed": passed, "outcomes": [outcome.asdict() for outcome in outcomes]}, indent=2))
    else:
        report.print_outcomes(outcomes, time.monotonic() - start)
    return passed


def verify_inventory(inventory: Path, hosts: Collection[str] = ()) -> list[Outcome]:
    """The outcome of each check on each host. Raises UserError as `verify_and_report` does."""
    return _probe_and_judge(_connect_all(_load_targets(inventory, hosts)))


def _load_targets(inventory: Path, hosts: Collection[str]) -> list[Target]:
    known = inventories.read_hosts(inventory)
    if unknown := [name for name in hosts if name not in known]:
        raise UserError(
            f"{inventory / inventories.HOSTS_FILE}: no host {', '.join(unknown)}; there are: {', '.join(known)}."
        )
    return [Target.load(name, data) for name, data in known.items() if name in hosts or not hosts]


def _connect_all(targets: list[Target]) -> list[Target | Outcome]:
    """Each target that can be reached; for each other one, the outcome that says why not."""

    def connect(target: Target) -> Target:
        target.remote.connect()
        return target

    return [_result_or_outcome(target, connect) for target in targets]


def _probe_and_judge(connected: list[Target | Outcome]) -> list[Outcome]:
    targets = [target for target in connected if isinstance(target, Target)]
    unreached = [outcome for outcome in connected if isinstance(outcome, Outcome)]
    with ThreadPoolExecutor(len(connected)) as pool:
        results = list(pool.map(lambda target: _result_or_outcome(target, Target.run_probe), targets))
    probed = [
        (target, result) for target, result in zip(targets, results, strict=True) if isinstance(result, ProbeResult)
    ]
    unreached += [result for result in results if isinstance(result, Outcome)]
    return [*unreached, *(session.judge_results(probed) if probed else ())]


def _result_or_outcome(target: Target, action: Callable[[Target], T]) -> T | Outcome:
    try:
        return action(target)
    except UnreachableError as error:
        promise = "The server can be reached"
        return Outcome(target.name, "reachable", promise, "failed", "a shell", str(error), error.remedy)
