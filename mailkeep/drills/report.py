"""What came of drills: a table, a picture, JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mailkeep.drills import picture
from mailkeep.drills.in_lab import drill
from mailkeep.drills.replay import Range
from mailkeep.drills.result import Result, seconds
from mailkeep.drills.simulated_days import Days
from mailkeep.locations import state_directory

PICTURES = state_directory() / "pictures"


def results(where: Range, names: Iterable[str], picture_file: Path, console: Console) -> list[Result | Days]:
    """Does these drills, shows what came of them, and draws it; returns it."""
    done = []
    for name in names:
        console.print(f"[bold]→[/] drill {name} …")
        done.append(drill(where, name))
    show(done, console)
    attacks = [one for one in done if isinstance(one, Result)]
    if attacks:
        for made in picture.draw(attacks, picture_file):
            console.print(f"picture: {made}", markup=False)
    return done


def show(done: Sequence[Result | Days], console: Console) -> None:
    if attacks := [one for one in done if isinstance(one, Result)]:
        console.print(_attacks(attacks))
        console.print(ATTACKS_EXPLAINED, style="dim")
    if lived := [one for one in done if isinstance(one, Days)]:
        console.print(_days(lived))
        console.print(DAYS_EXPLAINED, style="dim")
    for one in done:
        console.print(f"{one.drill}: {one.title}", markup=False)
        if isinstance(one, Result) and one.incident:
            console.print(f"   when it happened: {one.incident}", markup=False, style="dim")
        for miss in one.misses:
            console.print(f"   ✗ {miss}", markup=False, style="bold red")


ATTACKS_EXPLAINED = """\
out, people: messages that reached somebody, and how many. freeze, alert: after
the threshold. queue, held: left there to go out, and on hold. MB: of disk.
others: messages of innocents, and how many were lost, refused, delayed.
"""
DAYS_EXPLAINED = """\
Days of the guard's clock, which is moved from message to message; what it took
is real. told: after so much of that time the operator heard of the account.
"""


def _attacks(done: Sequence[Result]) -> Table:
    table = _table("drill", "tried", "out", "people", "freeze", "alert", "queue", "held", "MB", "others", "harmed")
    for one in done:
        people = one.innocents
        table.add_row(
            *(one.drill, str(one.tries), str(one.messages), str(one.recipients)),
            *(seconds(one.seconds_to_freeze), seconds(one.seconds_to_alert), str(one.queued), str(one.on_hold)),
            *(f"{(one.disk[1] - one.disk[0]) / 1024:+.1f}", str(people.sent)),
            f"{people.lost}, {people.refused}, {people.delayed}",
        )
    return table


def _days(done: Sequence[Days]) -> Table:
    table = _table("drill", "days", "tried", "refused", "out a day", "people a day", "told", "frozen", "took")
    for one in done:
        table.add_row(
            *(one.drill, str(len(one.messages)), str(one.tries), str(len(one.refused))),
            *(_range(one.messages), _range(one.recipients)),
            "-" if one.told is None else f"{one.told / 60:.0f} min",
            *("yes" if one.frozen else "no", f"{one.took:.0f} s"),
        )
    return table


def _table(first: str, *columns: str) -> Table:
    """For a terminal of 80 columns."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)}-{max(numbers)}"
