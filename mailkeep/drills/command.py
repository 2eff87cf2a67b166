"""`mailkeep drill`: run drills, and print their results."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from mailkeep.drills import in_lab, production, report
from mailkeep.lab.demo_server import Stopwatch, start_demo_server


def run_in_lab(names: list[str], picture: Path | None, as_json: bool, without_guard: bool) -> bool:
    """Run drills on the demonstration's server, which is built if it does not exist. Returns whether all passed."""
    if picture:
        report.check_picture_can_be_drawn()
    console = Console(soft_wrap=True, highlight=False, stderr=as_json)
    lab, internet, site, _ = start_demo_server(Stopwatch(console))
    setup = in_lab.create_setup(lab, site, internet)
    with in_lab.bypass_guard(site.server) if without_guard else nullcontext():
        results = report.run_drills(setup, names, picture or report.PICTURES / "-".join(names), console)
    if as_json:
        print(json.dumps([result.asdict() for result in results], indent=2))
    return not any(result.misses for result in results)


def run_on_live_servers(directory: Path, names: list[str], account: str, to: str, password: str, as_json: bool) -> bool:
    """Run drills on each server of an inventory, after `production.check_live_drill`. Returns whether all passed."""
    results = [result for name in names for result in production.run_live_drill(directory, name, account, to, password)]
    if as_json:
        print(json.dumps([result.asdict() for result in results], indent=2))
    else:
        _print_live_results(results, account, to)
    return not any(result.misses for result in results)


def _print_live_results(results: list[production.LiveDrillResult], account: str, to: str) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for result in results:
        frozen = "is frozen" if result.frozen else "is NOT frozen"
        summary = f"{result.host}: {result.drill}: {result.tries} tried, {result.taken} accepted; {account} {frozen}."
        console.print(summary, markup=False)
        for miss in result.misses:
            console.print(f"   ✗ {miss}", markup=False, style="bold red")
    console.print(f"Look at the messages that arrived at {to}, and whether you got an alert.", markup=False)
    console.print(f"Then remove the account {account}.", markup=False)
