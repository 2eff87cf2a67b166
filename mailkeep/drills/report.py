"""What came of drills: a table, a picture, JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mailkeep.drills import picture
from mailkeep.drills.days import Days
from mailkeep.drills.lab import drill
from mailkeep.drills.replay import Range
from mailkeep.drills.result import Result, seconds

PICTURES = Path(__file__).resolve().parents[2] / ".lab" / "drills"


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
    if lived := [one for one in done if isinstance(one, Days)]:
        console.print(_days(lived))
    for one in done:
        console.print(f"{one.drill}: {one.title}", markup=False)
        if isinstance(one, Result) and one.incident:
            console.print(f"   when it happened: {one.incident}", markup=False, style="dim")
        for miss in one.misses:
            console.print(f"   ✗ {miss}", markup=False, style="bold red")


def _attacks(done: Sequence[Result]) -> Table:
    table = Table("drill", "tried", "out", "people", "freeze", "alert", "queued", "held", "disk", "others", "lost")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in done:
        people = one.innocents
        table.add_row(
            *(one.drill, str(one.tries), str(one.messages), str(one.recipients)),
            *(seconds(one.seconds_to_freeze), seconds(one.seconds_to_alert), str(one.queued), str(one.on_hold)),
            *(f"{(one.disk[1] - one.disk[0]) / 1024:+.1f} MB", str(people.sent)),
            f"{people.lost} + {people.refused} + {people.delayed}",
        )
    table.caption = (
        "out: messages that reached somebody, and how many people. freeze, alert: seconds after the threshold. queued, "
        "held: messages left there. others: messages of people who have nothing to do with it; lost, refused, delayed."
    )
    table.caption_justify = "left"
    return table


def _days(done: Sequence[Days]) -> Table:
    table = Table("drill", "days", "tried", "refused", "out a day", "people a day", "told after", "frozen", "took")
    for one in done:
        table.add_row(
            *(one.drill, str(len(one.messages)), str(one.tries), str(len(one.refused))),
            *(_range(one.messages), _range(one.recipients)),
            "-" if one.told is None else f"{one.told / 60:.0f} min",
            *("yes" if one.frozen else "no", f"{one.took:.0f} s"),
        )
    table.caption = "Days of the guard's clock, which is moved from message to message; `took` is real."
    table.caption_justify = "left"
    return table


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)}-{max(numbers)}"
