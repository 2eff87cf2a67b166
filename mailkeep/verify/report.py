"""Prints outcomes for people: a line for each check. One that failed shows what was observed, and what to do."""

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from itertools import groupby

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mailkeep.verify.outcome import Outcome, Status
from mailkeep_server.common.wording import count_noun

MARKS: dict[Status, tuple[str, str]] = {
    "passed": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "warning": ("!", "yellow"),
    "skipped": ("-", "dim"),
}
MAX_LINES = 8  # of what was observed


def show_progress(text: str) -> AbstractContextManager[object]:
    """A spinner with this text on a terminal; nothing elsewhere."""
    return Console(stderr=True).status(text)


def print_outcomes(outcomes: Iterable[Outcome], seconds: float) -> None:
    """To standard output, in colour on a terminal only. `seconds` is how long the checks took."""
    console, outcomes = Console(highlight=False), list(outcomes)
    for host, host_outcomes in groupby(outcomes, key=lambda outcome: outcome.host):
        console.print(Text(host, style="bold"))
        for outcome in host_outcomes:
            print_outcome(console, outcome)
    counts = Counter(outcome.status for outcome in outcomes)
    console.print(
        f"{count_noun(counts['passed'], 'check')} passed, {counts['failed']} failed, "
        f"{count_noun(counts['warning'], 'warning')}, {counts['skipped']} skipped; {seconds:.1f} s"
    )


def print_outcome(console: Console, outcome: Outcome, hosts: str = "") -> None:
    """A line, and below it the details of what is broken. `hosts` stands before it in a report of many."""
    mark, style = MARKS[outcome.status]
    promise = outcome.promise if outcome.status != "skipped" else f"{outcome.promise} ({outcome.observed})"
    promise = f"{hosts}: {promise}" if hosts else promise
    table = Table.grid(padding=(0, 1))
    table.add_row(
        Text(mark, style=style), Text(make_printable(promise), style="" if outcome.status == "passed" else style)
    )
    if outcome.remedy:
        table.add_row("", _details_table(outcome))
    console.print(Padding(table, (0, 0, 0, 2)))


def _details_table(outcome: Outcome) -> Table:
    table = Table.grid(padding=(0, 2))
    details = (("expected", outcome.expected), ("observed", _shorten(outcome.observed)), ("to do", outcome.remedy))
    for name, text in details:
        table.add_row(Text(name, style="dim"), Text(make_printable(text)))
    return table


def _shorten(observed: str) -> str:
    lines = observed.splitlines()
    more = len(lines) - MAX_LINES
    return "\n".join((*lines[:MAX_LINES], f"… and {more} more")) if more > 0 else observed


def make_printable(text: str) -> str:
    """A server's output must not control the terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text)
