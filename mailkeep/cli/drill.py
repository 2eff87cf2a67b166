"""`mailkeep alert-test`, `drill`: rehearse an alert, and the incidents that Mailkeep is built against."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mailkeep.cli.common import AsJson, Home, InventoryName, ask_secret, open_inventory, out

commands = typer.Typer()


@commands.command("alert-test", epilog="Example: `mailkeep alert-test home`")
def send_test_alerts(name: InventoryName, as_json: AsJson = False, home: Home = None) -> None:
    """Have the server send one alert by each channel, and report which arrived. Exit code 1: one did not."""
    from mailkeep.operate import alert_test

    directory, _ = open_inventory(name, home)
    tests: list[alert_test.AlertTest] = []
    try:
        for test in alert_test.send_test_alerts(directory):
            tests.append(test)
            if not as_json:
                mark = "arrived" if test.arrived else "DID NOT ARRIVE"
                out.print(f"{test.host}: {test.channel} to {test.recipient}: {mark}: {test.answer}", markup=False)
    finally:  # a host that fails must not hide what the others sent
        if as_json:
            print(json.dumps([asdict(test) for test in tests], indent=2))
    if not all(test.arrived for test in tests):
        raise typer.Exit(1)


@commands.command(
    "drill",
    epilog="Examples: `mailkeep drill A`, `mailkeep drill all`; on a live server: `mailkeep drill A --inventory home "
    "--i-mean-it --account drill@example.org --to you@example.net`",
)
def run_drills(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="A to F, week, or all.")],
    as_json: AsJson = False,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the result as FILE.svg and FILE.png; needs matplotlib."),
    ] = None,
    without_guard: Annotated[
        bool, typer.Option("--without-guard", help="For comparison: have Postfix not ask the guard.")
    ] = False,
    live_inventory: Annotated[
        str | None, typer.Option("--inventory", metavar="NAME", help="Attack this live server instead of the lab's.")
    ] = None,
    confirmed: Annotated[bool, typer.Option("--i-mean-it", help="Required for a live server.")] = False,
    account: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="On a live server: the account to freeze and remove afterwards."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="On a live server: your address elsewhere, which gets the messages."),
    ] = None,
    home: Home = None,
) -> None:
    """Replay an incident against a server in the lab (needs podman). Exit code 1: more mail got out than allowed."""
    from mailkeep.drills import command, production
    from mailkeep.drills.in_lab import select_drills

    drills = select_drills(names)
    if live_inventory is None:
        passed = command.run_in_lab(drills, picture, as_json, without_guard)
    else:
        directory, _ = open_inventory(live_inventory, home)
        production.check_live_drill(directory, drills, confirmed, account, to)
        password = ask_secret(f"Password of {account}")
        passed = command.run_on_live_servers(directory, drills, account or "", to or "", password, as_json)
    if not passed:
        raise typer.Exit(1)
