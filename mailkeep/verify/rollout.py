"""Deploys to many hosts at once, and verifies each as soon as its own deploy has ended."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mailkeep.host import each_host
from mailkeep.host.deployment import NO_OPTIONS, Deployment, Options, deploy_to_host
from mailkeep.host.ssh_connection import DEPLOY_TIMEOUT
from mailkeep.verify import hosts_report, verification
from mailkeep.verify.hosts_report import HostReport
from mailkeep.verify.outcome import Outcome
from mailkeep.verify.target import Target, encode_probe


def deploy_and_report(
    inventory: Path, *, options: Options = NO_OPTIONS, verify: bool = True, as_json: bool = False
) -> bool:
    """Deploy to all hosts of an inventory directory, verify them, and print a line for each, or JSON.

    Returns whether every deploy succeeded and no check failed. Raises UserError, before any host is touched, when the
    inventory is wrong.
    """
    start, reports = time.monotonic(), []
    targets = verification.load_targets(inventory)
    for report in deploy_each(targets, options=options, verify=verify):
        reports.append(report)
        if not as_json:
            hosts_report.print_line(report)
    reports = in_order(reports, targets)
    if as_json:
        print(json.dumps(describe_reports(reports), indent=2))
    else:
        hosts_report.print_broken(reports)
        hosts_report.print_summary(reports, time.monotonic() - start)
    sys.stdout.flush()
    return all(report.has_passed for report in reports)


def deploy_each(
    targets: Sequence[Target], *, options: Options = NO_OPTIONS, verify: bool = True
) -> Iterator[HostReport]:
    """Yields the report of each host as it is ready."""
    encode_probe()  # once, before the processes are forked
    target_by_name = {target.name: target for target in targets}

    def deploy_and_verify(name: str) -> tuple[Deployment, list[Outcome]]:
        target = target_by_name[name]
        data = dict(target.remote.data)
        deployment = deploy_to_host(name, data, target.settings, target.parts, options=options)
        outcomes = verification.verify_target(target) if verify and deployment.succeeded else []
        return deployment, outcomes

    for result in each_host.run_on_each(target_by_name, deploy_and_verify, DEPLOY_TIMEOUT):
        deployment, outcomes = result.value or (None, [])
        yield HostReport(result.name, result.seconds, deployment, tuple(outcomes), result.error)


def in_order(reports: Iterable[HostReport], targets: Iterable[Target]) -> list[HostReport]:
    """In the order of the inventory."""
    report_by_name = {report.name: report for report in reports}
    return [report_by_name[target.name] for target in targets]


def describe_reports(reports: Iterable[HostReport]) -> dict[str, Any]:
    """For JSON. `results` has the form of `pyinfra --json`: operations by name, with the hosts of each status."""
    reports = list(reports)
    operations: dict[str, dict[str, list[str]]] = {}
    for report in reports:
        for name, status in report.deployment.operations if report.deployment else ():
            operations.setdefault(name, {"success": [], "error": [], "no_change": []})[status].append(report.name)
    rows = [{"name": name, "hosts": sum(map(len, hosts.values())), **hosts} for name, hosts in operations.items()]
    keys = ("success", "error", "no_change")
    totals = {key: sum(len(hosts[key]) for hosts in operations.values()) for key in keys}
    failed = [report.name for report in reports if not (report.deployment and report.deployment.succeeded)]
    return {
        "results": {
            "operations": rows,
            "totals": {"hosts": sum(totals.values()), **totals},
            "failed_hosts": sorted(failed),
        },
        "hosts": {report.name: _describe_report(report) for report in reports},
    }


def _describe_report(report: HostReport) -> dict[str, Any]:
    deployment = report.deployment or Deployment(error=report.error)
    return {
        "error": report.reason,
        "changed": list(deployment.changed),
        "failed": deployment.failed,
        "log": list(deployment.log),
        "warnings": list(deployment.warnings),
        "seconds": round(report.seconds, 1),
        "outcomes": [outcome.asdict() for outcome in report.outcomes],
    }
