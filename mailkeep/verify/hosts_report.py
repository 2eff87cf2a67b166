"""Reports of many hosts for people: a line for each as it is ready; then, in full, only what is broken; a summary."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from mailkeep.host.deployment import Deployment
from mailkeep.host.plan_report import group_hosts, list_names
from mailkeep.host.preflight import OPERATION as PREFLIGHT
from mailkeep.verify.outcome import Outcome, Status
from mailkeep.verify.report import MARKS, make_printable, print_outcome
from mailkeep_server.common.wording import count_noun

REACHABLE = "reachable"
"""The check of a host to which no connection came about, or whose probe did not run."""
RESULTS: dict[str, tuple[Status, str]] = {
    "fine": ("passed", "without fault"),
    "warned": ("warning", "with warnings"),
    "broken": ("failed", "with failed checks"),
    "not deployed": ("failed", "where the deploy failed"),
    "not reached": ("failed", "not reached"),
}


@dataclass(frozen=True, slots=True)
class HostReport:
    """What became of a host: of its deploy, unless it was only verified, and of its checks, unless these were skipped.
    `error` is set if neither came to an end."""

    name: str
    seconds: float
    deployment: Deployment | None = None
    outcomes: tuple[Outcome, ...] = ()
    error: str = ""

    @property
    def reason(self) -> str:
        """Why there is no connection, and what to do; or nothing."""
        unreached = next((outcome for outcome in self.outcomes if outcome.check == REACHABLE), None)
        if unreached:
            return f"{unreached.observed}. {unreached.remedy}"
        return self.error or (self.deployment.error if self.deployment else "")

    @property
    def result(self) -> str:
        """A key of RESULTS."""
        if self.reason:
            return "not reached"
        if self.deployment and not self.deployment.succeeded:
            return "not deployed"
        statuses = {outcome.status for outcome in self.outcomes}
        return "broken" if "failed" in statuses else "warned" if "warning" in statuses else "fine"

    @property
    def has_passed(self) -> bool:
        return self.result in ("fine", "warned")


def print_line(report: HostReport) -> None:
    """A host in one line: never more, whatever a server answers."""
    mark, style = MARKS[RESULTS[report.result][0]]
    if report.reason:
        text = f"not reached: {' '.join(report.reason.split())}"
        if report.deployment and report.deployment.operations:
            text = f"{_describe_deployment(report.deployment)}; then {text}"
    else:
        parts = [_describe_deployment(report.deployment)] if report.deployment else []
        parts += [describe_counts(report.outcomes)] if report.outcomes else []
        text = f"{'; '.join(parts)}; {report.seconds:.1f} s"
    _open_console().print(Text.assemble((f"{mark} {report.name}", style), ": ", make_printable(text)))


def print_broken(reports: Sequence[HostReport]) -> None:
    """What is broken on the hosts, and what deploys warned of: each once, with its hosts."""
    console = _open_console()
    deployed = [(report.name, report.deployment) for report in reports if report.deployment]
    for warning, names in group_hosts((name, text) for name, run in deployed for text in run.warnings).items():
        console.print(Text(make_printable(f"! {list_names(names)}: {warning}"), MARKS["warning"][1]))
    failed = ((name, (run.failed, run.log)) for name, run in deployed if run.failed)
    for (operation, log), names in group_hosts(failed).items():
        console.print(Text(f"✗ {list_names(names)}: the deploy failed at: {operation}", MARKS["failed"][1]))
        for line in log:
            console.print(Text(f"    {make_printable(line)}"))
    broken = (
        (outcome.host, _without_host(outcome))
        for report in reports
        for outcome in report.outcomes
        if outcome.status in ("failed", "warning") and outcome.check != REACHABLE
    )
    for outcome, names in group_hosts(broken).items():
        print_outcome(console, outcome, list_names(names))


def print_summary(reports: Sequence[HostReport], seconds: float) -> None:
    """The last line: how many hosts ended how, the broken ones by name."""
    parts = []
    for result, (_, text) in RESULTS.items():
        names = [report.name for report in reports if report.result == result]
        if names:
            parts.append(f"{len(names)} {text}" + (f" ({list_names(names)})" if result != "fine" else ""))
    _open_console().print(f"{count_noun(len(reports), 'host')}: {', '.join(parts)}; {seconds:.1f} s")


def describe_counts(outcomes: Iterable[Outcome]) -> str:
    """Such as `69 checks passed, 1 failed`; what did not happen is left out."""
    counts = Counter(outcome.status for outcome in outcomes)
    words: dict[Status, Callable[[int], str]] = {
        "failed": lambda number: f"{number} failed",
        "warning": lambda number: count_noun(number, "warning"),
        "skipped": lambda number: f"{number} skipped",
    }
    others = [words[status](counts[status]) for status in words if counts[status]]
    return ", ".join((f"{count_noun(counts['passed'], 'check')} passed", *others))


def _describe_deployment(deployment: Deployment) -> str:
    if deployment.failed == PREFLIGHT:
        return "refused; nothing was changed"
    if deployment.failed:
        return f"the deploy failed at: {deployment.failed}"
    if not deployment.changed:
        return "nothing to do"
    number = count_noun(len(deployment.operations), "operation")
    return f"deployed, {len(deployment.changed)} of {number} changed something"


def _without_host(outcome: Outcome) -> Outcome:
    return Outcome(
        "", outcome.check, outcome.promise, outcome.status, outcome.expected, outcome.observed, outcome.remedy
    )


def _open_console() -> Console:
    return Console(highlight=False, soft_wrap=True)
