"""What every command shares: its arguments, the way to an inventory, what it prints to and how it asks."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mailkeep.errors import UserError
from mailkeep.inventory import hosts
from mailkeep.locations import HOME_VARIABLE, expand_home
from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings
from mailkeep.settings.renamed_keys import describe_renamed_keys

out = Console(soft_wrap=True, highlight=False, emoji=False)

InventoryName = Annotated[
    str, typer.Argument(metavar="NAME", help="An inventory: inventories/NAME, or the path of one.")
]
Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="The account's address, such as anna@example.org.")]
Home = Annotated[
    Path | None,
    typer.Option(
        "--in",
        metavar="DIR",
        envvar=HOME_VARIABLE,
        help="The directory that holds inventories/. Default: the current one.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]
Resolver = Annotated[
    str,
    typer.Option(
        envvar="MAILKEEP_RESOLVER",
        metavar="ADDRESS",
        help="The resolver to ask. Default: this machine's. Authoritative servers are asked besides.",
    ),
]


def find_inventory(name: str, home: Path | None) -> Path:
    """The inventory's directory. UserError when there is none of this name."""
    return hosts.find_inventory(name, expand_home(str(home)) if home else None)


def open_inventory(name: str, home: Path | None) -> tuple[Path, Settings]:
    """The inventory's directory and its valid settings."""
    directory = find_inventory(name, home)
    return directory, load_settings(directory / hosts.SETTINGS_FILE)


def print_notes(directory: Path) -> None:
    """What still works in mail.yml and should be changed. On standard error: standard output may be JSON."""
    for note in describe_renamed_keys(directory / hosts.SETTINGS_FILE):
        print(f"note: {note}", file=sys.stderr)


def count_of(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextmanager
def passphrase_shown(name: str, address: str) -> Iterator[None]:
    """Around the lines that show an account's passphrase. UserError when nobody can have read them."""
    try:
        if sys.stdout is None:  # rich would print to nowhere
            raise BrokenPipeError
        yield
    except (OSError, SystemExit):  # which rich raises where nobody reads any more
        raise UserError(
            f"{address} has a passphrase that could not be shown: "
            f"`mailkeep account passwd {name} {address} --generate` makes another."
        ) from None


def ask_lines(question: str) -> str:
    """The lines that the user types, hidden, until an empty one; or all of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.read()
    lines: list[str] = []
    while not lines or lines[-1]:
        lines.append(ask_secret(question, default=""))
    return "\n".join(lines)


def ask_secret(question: str, confirm: bool = False, default: str | None = None) -> str:
    """A line that the user types, hidden, or that stands on standard input. Never an argument: other users of this
    machine can read those in the process list."""
    if sys.stdin.isatty():
        try:
            return str(
                typer.prompt(question, default, hide_input=True, confirmation_prompt=confirm, show_default=False)
            )
        except typer.Abort:  # typer would exit with 1, as for an error
            raise typer.Exit(130) from None
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise UserError(f"{question}: standard input is empty; give it a line, or run this at a terminal.")
    return line
