"""What all commands share: arguments and options, finding an inventory, printing, and asking for secrets."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mailkeep.errors import UserError
from mailkeep.inventory import hosts
from mailkeep.locations import HOME_VARIABLE, expand_home

if TYPE_CHECKING:
    from mailkeep.settings.models import Settings

out = Console(soft_wrap=True, highlight=False, emoji=False)


def complete_inventory(incomplete: str) -> list[str]:
    """For the shell's completion."""
    return [name for name in hosts.list_inventories() if name.startswith(incomplete)]


InventoryName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The inventory: NAME below inventories/, or the path of its directory.",
        autocompletion=complete_inventory,
    ),
]
Home = Annotated[
    Path | None,
    typer.Option(
        "--in",
        metavar="DIR",
        envvar=HOME_VARIABLE,
        help="The directory that holds inventories/. Default: the working directory.",
    ),
]
Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="The account's address, such as anna@example.org.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Resolver = Annotated[
    str,
    typer.Option(
        envvar="MAILKEEP_RESOLVER",
        metavar="ADDRESS",
        help="The DNS resolver to ask. Default: this machine's. The zones' own servers are asked as well.",
    ),
]


def find_inventory(name: str, home: Path | None) -> Path:
    """The inventory's directory. UserError when there is none of this name."""
    return hosts.find_inventory(name, expand_home(str(home)) if home else None)


def open_inventory(name: str, home: Path | None) -> tuple[Path, "Settings"]:
    """The inventory's directory and its valid settings."""
    from mailkeep.settings.load import load_settings

    directory = find_inventory(name, home)
    return directory, load_settings(directory / hosts.SETTINGS_FILE)


def print_notes(directory: Path, settings: "Settings") -> None:
    """Old names in mail.yml that still work, and advice. On standard error: standard output may be JSON."""
    from mailkeep.settings.advice import list_advice
    from mailkeep.settings.renamed_keys import describe_renamed_keys

    for note in [*describe_renamed_keys(directory / hosts.SETTINGS_FILE), *list_advice(settings)]:
        print(f"note: {note}", file=sys.stderr)


@contextmanager
def showing_passphrase(label: str, address: str) -> Iterator[None]:
    """Around the lines that show an account's passphrase. UserError when nobody can have read them."""
    try:
        if sys.stdout is None:  # rich would print to nowhere
            raise BrokenPipeError
        yield
    except (OSError, SystemExit):  # rich raises SystemExit when the reader of a pipe has gone
        raise UserError(
            f"The passphrase of {address} could not be shown, and is stored nowhere. "
            f"Run `mailkeep account passwd {label} {address} --generate` to create another."
        ) from None


def ask_lines(question: str) -> str:
    """The lines that the user types, hidden, until an empty one; or all of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.read()
    lines: list[str] = []
    while not lines or lines[-1]:
        lines.append(ask_secret(question, default=""))
    return "\n".join(lines)


def ask_agreement(question: str, answer: str) -> None:
    """UserError unless the user types this answer."""
    if not sys.stdin.isatty():
        raise UserError("There is no terminal to ask at, and nothing was changed. With --yes it does not ask.")
    try:
        typed = str(typer.prompt(question, default="", show_default=False))
    except typer.Abort:
        raise typer.Exit(130) from None
    if typed.strip() != answer:
        raise UserError("Nothing was changed.")


def ask_secret(question: str, confirm: bool = False, default: str | None = None) -> str:
    """The line that the user types, hidden; or a line of standard input. Never an argument, which other users of this
    machine can read in the process list."""
    if sys.stdin.isatty():
        try:
            return str(
                typer.prompt(question, default, hide_input=True, confirmation_prompt=confirm, show_default=False)
            )
        except typer.Abort:  # typer would exit with 1, as for an error
            raise typer.Exit(130) from None
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise UserError(f"{question}: standard input is empty. Pipe in one line, or run this at a terminal.")
    return line


def print_progress(text: str) -> None:
    """A line on standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)
