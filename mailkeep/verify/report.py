"""What came of the checks, for people: a line for each promise, and for a broken one what to do."""

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from itertools import groupby

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mailkeep.verify.outcome import Outcome, Status

MARKS: dict[Status, tuple[str, str]] = {
    "passed": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "warning": ("!", "yellow"),
    "skipped": ("-", "dim"),
}
MOST_LINES = 8  # of what was seen


def show_progress(what: str) -> AbstractContextManager[object]:
    """Says on a terminal that something is under way; elsewhere nothing."""
    return Console(stderr=True).status(what)


def print_outcomes(outcomes: Iterable[Outcome], seconds: float) -> None:
    """Prints them to standard output, with colour on a terminal only."""
    console, outcomes = Console(highlight=False), list(outcomes)
    for host, group in groupby(outcomes, key=lambda one: one.host):
        console.print(Text(host, style="bold"))
        for one in group:
            _show(console, one)
    counts = Counter(one.status for one in outcomes)
    console.print(
        f"{_counted(counts['passed'], 'promise')} kept, {counts['failed']} broken, "
        f"{_counted(counts['warning'], 'warning')}, {counts['skipped']} not for this server; {seconds:.1f} s"
    )


def _show(console: Console, one: Outcome) -> None:
    mark, style = MARKS[one.status]
    told = Table.grid(padding=(0, 1))
    promise = one.promise if one.status != "skipped" else f"{one.promise} ({one.observed})"
    told.add_row(Text(mark, style=style), Text(_printable(promise), style="" if one.status == "passed" else style))
    if one.remedy:
        told.add_row("", _why(one))
    console.print(Padding(told, (0, 0, 0, 2)))


def _why(one: Outcome) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, text in (("expected", one.expected), ("seen", _shortened(one.observed)), ("to do", one.remedy)):
        table.add_row(Text(name, style="dim"), Text(_printable(text)))
    return table


def _shortened(seen: str) -> str:
    lines = seen.splitlines()
    more = len(lines) - MOST_LINES
    return "\n".join((*lines[:MOST_LINES], f"… and {more} more")) if more > 0 else seen


def _printable(text: str) -> str:
    """What a server says does not steer the terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
