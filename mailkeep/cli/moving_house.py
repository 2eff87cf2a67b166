"""`mailkeep move`: the server goes to another machine, while it serves."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailkeep.cli.common import Home, InventoryName, Resolver, open_inventory, out, print_progress
from mailkeep.errors import UserError
from mailkeep.inventory import hosts

if TYPE_CHECKING:
    from mailkeep.moving_house.server_move import ServerMove
    from mailkeep.settings.models import Settings

commands = typer.Typer()


@commands.command(
    "move",
    epilog="Example: `mailkeep move home --to 203.0.113.77 --to 2001:db8::77`, then change the DNS, then "
    "`mailkeep move home --finish`. docs/moving-house.md has the whole way.",
)
def move_server(
    name: InventoryName,
    to: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="A public address of the new machine; SSH uses the first. Repeatable."),
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Go back to the old machine, as long as the DNS leads to it.")
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="The DNS leads to the new machine: the old one need not forward any more.")
    ] = False,
    resolver: Resolver = "",
    home: Home = None,
) -> None:
    """Move the server to another machine, with mail, queue and counters. Both serve meanwhile, but for some seconds.

    Run it again after an interruption: it goes on where it ended. Exit code 1: an error, or a check failed."""
    from mailkeep.cli.deploy import refuse_nameless_user

    directory, settings = open_inventory(name, home)
    if sum((bool(to), undo, finish)) != 1:
        raise typer.BadParameter("give one of --to, --undo and --finish")
    refuse_nameless_user()
    if finish:
        _finish(directory, settings, resolver)
    elif undo:
        _undo(directory, settings, resolver)
    else:
        _move(directory, settings, to or [])


def carry_out(move: "ServerMove") -> None:
    """Builds the new machine, moves all to it, and verifies it. Exits with 1 if a check failed."""
    from mailkeep.cli.deploy import run_pyinfra
    from mailkeep.host.deployment import Options
    from mailkeep.verify.verification import verify_and_report

    has_left = move.connect_old().read_status()["has_left"]  # UserError before anything is built
    with move.stage_inventory() as staged:
        if not has_left:  # else a run was cut off, and nobody serves until this one ends
            run_pyinfra(staged, Options(allow_older=True), as_json=False)
            if not verify_and_report(staged):
                raise UserError("The new machine does not pass its checks. Nothing is moved: mend what is named above.")
            move.prepare()
        messages = move.run(print_progress)
        by_hand = move.write_inventory(move.addresses, move.old_addresses, str(move.addresses[0]))
        out.print(f"{messages} messages are on the new machine, which serves now.", markup=False)
        passed = verify_and_report(staged)
    out.print("\n".join([AFTER_MOVE.format(label=move.label), *(f"- {line}" for line in by_hand)]), markup=False)
    if not passed:
        raise typer.Exit(1)


AFTER_MOVE = """\
The old machine has no mail to serve any more. It forwards its mail ports to the new one.
mail.yml has the new addresses. What only you can do now:
- `mailkeep dns {label} --moving` says which records to change, in which order.
- Set the reverse DNS of the new addresses at your hoster.
- When the DNS has followed, `mailkeep move {label} --finish` ends the forwarding; then wipe the old machine's disk.
Until the DNS is changed, `mailkeep move {label} --undo` goes back to the old machine, with all mail."""


def _move(directory: Path, settings: "Settings", to: list[str]) -> None:
    from mailkeep.moving_house.server_move import ServerMove, parse_addresses

    addresses = parse_addresses(to, settings)
    if settings.host.forwarded_from:
        raise UserError("The last move is not at its end: `--finish` or `--undo` comes first.")
    name, data = hosts.read_only_host(directory)
    new = {**data, "ssh_hostname": str(addresses[0])}
    carry_out(ServerMove(directory, name, data, new, addresses, settings.host.addresses))


def _undo(directory: Path, settings: "Settings", resolver: str) -> None:
    from mailkeep.moving_house.server_move import ServerMove, find_published_addresses
    from mailkeep.verify.verification import verify_and_report

    name, new, old = _find_both(directory, settings)
    published = find_published_addresses(settings, resolver)
    if reached := [str(address) for address in settings.host.addresses if str(address) in published]:
        raise UserError(
            f"The DNS leads to the new machine ({', '.join(reached)}) already, so others send their mail there. To go "
            "back all the same, finish this move, and move to the old machine's addresses."
        )
    former = settings.host.forwarded_from
    labels = ("the machine that serves", "the former machine")
    move = ServerMove(directory, name, new, old, former, settings.host.addresses, labels=labels)
    messages = move.undo(print_progress)
    by_hand = move.write_inventory(former, (), "")
    out.print(f"{messages} messages are on the old machine, which serves again.", markup=False)
    passed = verify_and_report(directory)
    out.print("\n".join(by_hand), markup=False)
    if not passed:
        raise typer.Exit(1)


def _finish(directory: Path, settings: "Settings", resolver: str) -> None:
    from mailkeep.cli.deploy import run_pyinfra
    from mailkeep.host.deployment import Options
    from mailkeep.host.remote import RemoteHost, UnreachableError
    from mailkeep.moving_house import forwarding
    from mailkeep.moving_house.server_move import ServerMove, find_published_addresses

    name, new, old = _find_both(directory, settings)
    published = find_published_addresses(settings, resolver)
    expected = {str(address) for address in settings.host.addresses}
    if set(published) != expected:
        raise UserError(
            f"The DNS leads {settings.host.name} to {', '.join(published) or 'nowhere'}, not to "
            f"{', '.join(sorted(expected))}. `mailkeep dns {hosts.inventory_label(directory)} --moving` says what to "
            "change."
        )
    try:
        forwarding.remove_forwarding(RemoteHost(name, old))
    except UnreachableError as error:
        out.print(f"The old machine is not reached ({error}), so nothing was changed on it.", markup=False)
    ServerMove(directory, name, old, new, settings.host.addresses, ()).write_inventory(
        settings.host.addresses, (), str(settings.host.addresses[0])
    )
    run_pyinfra(directory, Options(), as_json=False)
    out.print("The move is at its end. Wipe the old machine's disk: it has mail and private keys.", markup=False)


def _find_both(directory: Path, settings: "Settings") -> tuple[str, dict[str, object], dict[str, object]]:
    """The host's name, and the data for SSH of the new and of the old machine. UserError if there is no move."""
    if not settings.host.forwarded_from:
        raise UserError("There is no move to finish or undo: mail.yml has no host.forwarded_from.")
    name, data = hosts.read_only_host(directory)
    return name, dict(data), {**data, "ssh_hostname": str(settings.host.forwarded_from[0])}
