"""Run drills in the lab, and print their results as tables, with a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mailkeep.drills.in_lab import run_drill
from mailkeep.drills.replay import DrillSetup
from mailkeep.drills.result import DrillResult, format_seconds
from mailkeep.drills.simulated_days import SimulatedDaysResult
from mailkeep.errors import UserError
from mailkeep.locations import state_directory

PICTURES = state_directory() / "pictures"

ATTACKS_LEGEND = """\
out, people: messages that reached somebody outside, and their recipients.
freeze, alert: seconds after the threshold. queue, held: messages left in the
queue, not on hold and on hold. MB: growth of the disk. others: messages of
innocents; harmed: how many of them were lost, refused, delayed.
"""
DAYS_LEGEND = """\
Days pass by the guard's clock, which is moved from message to message; took is
real time. told: time on that clock until the operator heard of the account.
"""


def run_drills(
    setup: DrillSetup, names: Iterable[str], picture_file: Path, console: Console
) -> list[DrillResult | SimulatedDaysResult]:
    """Run these drills, print their results, and draw the attacks as `picture_file`.svg and .png."""
    results = []
    for name in names:
        console.print(f"[bold]→[/] drill {name} …")
        results.append(run_drill(setup, name))
    print_results(results, console)
    attacks = [result for result in results if isinstance(result, DrillResult)]
    if attacks:
        _draw(attacks, picture_file, console)
    return results


def check_picture_can_be_drawn() -> None:
    """UserError without matplotlib, which is half of an installation: pictures are an extra."""
    if not _has_matplotlib():
        raise UserError(
            "A picture needs matplotlib, which is not installed. Install Mailkeep with it "
            "(`pipx install 'mailkeep[drills]'`), or leave out --picture."
        )


def _draw(attacks: Sequence[DrillResult], file: Path, console: Console) -> None:
    if not _has_matplotlib():
        console.print("no picture: it needs matplotlib, which the extra mailkeep[drills] installs", markup=False)
        return
    from mailkeep.drills import picture

    for written in picture.draw_results(attacks, file):
        console.print(f"picture: {written}", markup=False)


def _has_matplotlib() -> bool:
    return find_spec("matplotlib") is not None


def print_results(results: Sequence[DrillResult | SimulatedDaysResult], console: Console) -> None:
    if attacks := [result for result in results if isinstance(result, DrillResult)]:
        console.print(_attacks_table(attacks))
        console.print(ATTACKS_LEGEND, style="dim")
    if days := [result for result in results if isinstance(result, SimulatedDaysResult)]:
        console.print(_days_table(days))
        console.print(DAYS_LEGEND, style="dim")
    for result in results:
        console.print(f"{result.drill}: {result.title}", markup=False)
        if isinstance(result, DrillResult) and result.incident:
            console.print(f"   when it happened: {result.incident}", markup=False, style="dim")
        for miss in result.misses:
            console.print(f"   ✗ {miss}", markup=False, style="bold red")


def _attacks_table(results: Sequence[DrillResult]) -> Table:
    columns = ("tried", "out", "people", "freeze", "alert", "queue", "held", "MB", "others", "harmed")
    table = _empty_table("drill", *columns)
    for result in results:
        innocents = result.innocents
        table.add_row(
            *(result.drill, str(result.tries), str(result.messages), str(result.recipients)),
            *(format_seconds(result.seconds_to_freeze), format_seconds(result.seconds_to_alert)),
            *(str(result.queued), str(result.on_hold)),
            *(f"{(result.disk[1] - result.disk[0]) / 1024:+.1f}", str(innocents.sent)),
            f"{innocents.lost}, {innocents.refused}, {innocents.delayed}",
        )
    return table


def _days_table(results: Sequence[SimulatedDaysResult]) -> Table:
    table = _empty_table("drill", "days", "tried", "refused", "out a day", "people a day", "told", "frozen", "took")
    for result in results:
        table.add_row(
            *(result.drill, str(len(result.messages)), str(result.tries), str(len(result.refused))),
            *(_format_range(result.messages), _format_range(result.recipients)),
            "-" if result.first_warning is None else f"{result.first_warning / 60:.0f} min",
            *("yes" if result.frozen else "no", f"{result.took:.0f} s"),
        )
    return table


def _empty_table(first: str, *columns: str) -> Table:
    """For a terminal of 80 columns."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _format_range(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)}-{max(numbers)}"
