"""Verify the hosts of an inventory: run the probe on each, judge its results, and report the outcomes."""

import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from mailkeep.errors import UserError
from mailkeep.host import each_host
from mailkeep.host.remote import UnreachableError
from mailkeep.inventory import hosts as inventories
from mailkeep.verify import hosts_report, report, session
from mailkeep.verify.hosts_report import REACHABLE, HostReport
from mailkeep.verify.outcome import Outcome
from mailkeep.verify.target import Target, encode_probe

PROGRESS = "Attacking the server, to see what it withstands"


def verify_and_report(
    inventory: Path, *, as_json: bool = False, full: bool = False, hosts: Collection[str] = ()
) -> bool:
    """Verify the hosts of an inventory directory (`hosts`, by default all), and print the outcomes as text or JSON. Of
    many hosts, print a line for each, and in full only what is broken, unless `full`.

    Returns whether no check failed on any host; a warning is no failure. Raises UserError, before any host is
    touched, when the inventory is wrong.
    """
    targets = load_targets(inventory, hosts)
    start, is_short = time.monotonic(), not full and len(targets) >= each_host.MIN_HOSTS_FOR_SHORT_FORM
    reports = {}
    for host_report in verify_each(targets, shows_progress=not as_json):
        reports[host_report.name] = host_report
        if is_short and not as_json:
            hosts_report.print_line(host_report)
    in_order = [reports[target.name] for target in targets]
    outcomes = [outcome for host_report in in_order for outcome in host_report.outcomes]
    passed = all(host_report.has_passed for host_report in in_order)
    if as_json:
        print(json.dumps({"passed": passed, "outcomes": [outcome.asdict() for outcome in outcomes]}, indent=2))
    elif is_short:
        hosts_report.print_broken(in_order)
        hosts_report.print_summary(in_order, time.monotonic() - start)
    else:
        report.print_outcomes(outcomes, time.monotonic() - start)
    return passed


def verify_inventory(inventory: Path, hosts: Collection[str] = ()) -> list[Outcome]:
    """The outcome of each check on each host. Raises UserError as `verify_and_report` does."""
    return [outcome for host_report in verify_each(load_targets(inventory, hosts)) for outcome in host_report.outcomes]


def load_targets(inventory: Path, hosts: Collection[str] = ()) -> list[Target]:
    """What the inventory declares of these hosts, by default of all. Raises UserError."""
    known = inventories.read_hosts(inventory)
    if unknown := [name for name in hosts if name not in known]:
        raise UserError(
            f"{inventory / inventories.HOSTS_FILE}: no host {', '.join(unknown)}; there are: {', '.join(known)}."
        )
    return [Target.load(name, data) for name, data in known.items() if name in hosts or not hosts]


def verify_each(targets: Sequence[Target], *, shows_progress: bool = False) -> Iterator[HostReport]:
    """The report of each host as it is ready. A single one needs no process of its own."""
    encode_probe()  # once, before the processes are forked
    if len(targets) == 1:
        start, outcomes = time.monotonic(), verify_target(targets[0], shows_progress=shows_progress)
        yield HostReport(targets[0].name, time.monotonic() - start, outcomes=tuple(outcomes))
        return
    target_by_name = {target.name: target for target in targets}
    for result in each_host.run_on_each(target_by_name, lambda name: verify_target(target_by_name[name])):
        outcomes = result.value or [_unreached(result.name, result.error, "Run it again.")]
        yield HostReport(result.name, result.seconds, outcomes=tuple(outcomes))


def verify_target(target: Target, *, shows_progress: bool = False) -> list[Outcome]:
    """Attack one server, and judge what was seen. A server that cannot be reached has one failed outcome."""
    try:
        # Connecting may ask for a password. The spinner begins afterwards, so that it does not overwrite the question.
        target.remote.connect()
        with report.show_progress(PROGRESS) if shows_progress else nullcontext():
            return session.judge_results([(target, target.run_probe())])
    except UnreachableError as error:
        return [_unreached(target.name, str(error), error.remedy)]


def _unreached(name: str, reason: str, remedy: str) -> Outcome:
    return Outcome(name, REACHABLE, "The server can be reached", "failed", "a shell", reason, remedy)
