"""`mailkeep drill`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from mailkeep.drills import in_lab, production, report
from mailkeep.lab.demo_server import Stopwatch, start_demo_server


def in_the_lab(names: list[str], picture: Path | None, as_json: bool, unguarded: bool) -> bool:
    """On the demonstration's server, which is built if it is not there. Whether all was good enough."""
    console = Console(soft_wrap=True, highlight=False, stderr=as_json)
    stage, internet, site, _ = start_demo_server(Stopwatch(console))
    where = in_lab.around(stage, site, internet)
    with in_lab.without_guard(site.server) if unguarded else nullcontext():
        done = report.results(where, names, picture or report.PICTURES / "-".join(names), console)
    if as_json:
        print(json.dumps([one.asdict() for one in done], indent=2))
    return not any(one.misses for one in done)


def live(directory: Path, names: list[str], account: str, to: str, password: str, as_json: bool) -> bool:
    """On the servers of an inventory, after `production.refuse`. Whether all was good enough."""
    done = [one for name in names for one in production.drill(directory, name, account, to, password)]
    if as_json:
        print(json.dumps([one.asdict() for one in done], indent=2))
        return not any(one.misses for one in done)
    console = Console(soft_wrap=True, highlight=False)
    for one in done:
        fate = "is frozen" if one.frozen else "is NOT frozen"
        console.print(f"{one.host}: {one.drill}: {one.tries} tried, {one.taken} taken; {account} {fate}.", markup=False)
        for miss in one.misses:
            console.print(f"   ✗ {miss}", markup=False, style="bold red")
    console.print(f"See what arrived at {to}, and whether you were told. Then remove the account.", markup=False)
    return not any(one.misses for one in done)
