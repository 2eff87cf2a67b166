"""The `mailkeep` command: each command is a short function in a module of this package; the floors below do the work.

Exit codes: 0 done (`plan`: no changes); 1 an error, which the message explains; 2 `plan`: changes, or for any command
wrong arguments; 130 interrupted.
"""

import io
import sys
from typing import Annotated, NoReturn

import typer

import mailkeep
from mailkeep.cli import (
    accounts,
    backups,
    deploy,
    dns,
    drill,
    history,
    inventories,
    keys,
    live,
    moving_house,
    moving_in,
    reports,
    vault,
)
from mailkeep.errors import UserError

app = typer.Typer(
    name="mailkeep",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Build, verify and rebuild a hardened Debian mail server.\n\n"
    "Exit codes: 0: done. 1: an error, which the message explains. 2: `plan` found changes, or the arguments are "
    "wrong. 130: interrupted.",
    epilog="A first server: `mailkeep init home --host mail.example.org --address 203.0.113.25 "
    "--admin you@example.org`, then `mailkeep deploy home`.",
)
PANELS = {
    "Servers": (inventories, deploy),
    "Live servers": (live,),
    "Accounts": (accounts,),
    "Mail": (history, backups),
    "Moving": (moving_in, moving_house),
    "Keys and secrets": (keys, vault),
    "DNS": (dns, reports),
    "Rehearsals": (drill,),
}
"""The parts in which `mailkeep --help` shows the commands."""
for panel, modules in PANELS.items():
    for module in modules:
        for command in (*module.commands.registered_commands, *module.commands.registered_groups):
            command.rich_help_panel = panel
        app.add_typer(module.commands)


def main() -> NoReturn:
    """Runs the command. A user's mistake ends in a message, never in a traceback."""
    sys.stdin = sys.stdin or io.StringIO()  # None where it was closed (`<&-`)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows "?" instead of ending the command
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:  # such as a full disk, or a file name that is too long
        print(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error, file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(0)


def _show_version(requested: bool) -> None:
    if requested:
        print(f"mailkeep {mailkeep.__version__}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options of `mailkeep` itself."""
