"""The `mailkeep` command: its modules are one short function a command; the work is done on the floors below.

Exit codes: 0 done (`plan`: nothing to do), 1 an error that the message explains, 2 `plan`: there are changes (and, as
for every command, arguments that make no sense), 130 interrupted.
"""

import io
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from mailkeep.cli import accounts, deploy, dns, drill, inventories, vault
from mailkeep.errors import UserError

app = typer.Typer(
    name="mailkeep",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Build, verify and rebuild a hardened Debian mail server.\n\n"
    "Exit codes: 0 done, 1 an error that the message explains, 2 `plan` found changes or the arguments make no sense, "
    "130 interrupted.",
    epilog="A first server: `mailkeep init home --host mail.example.org --address 203.0.113.25 "
    "--admin you@example.org`, then `mailkeep deploy home`.",
)
for module in (inventories, deploy, accounts, vault, dns, drill):
    app.add_typer(module.commands)


def main() -> NoReturn:
    """Runs the command; a user's mistake is a message, never a traceback."""
    sys.stdin = sys.stdin or io.StringIO()  # None where it was closed (`<&-`)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows "?" instead of ending the command
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:  # a full disk, a name too long: wherever it happened, it says what to do
        print(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error, file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(0)


def _show_version(requested: bool) -> None:
    if requested:
        print(f"mailkeep {version('mailkeep')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options of `mailkeep` itself."""
