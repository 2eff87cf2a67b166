"""`mailkeep status`, `queue`, `bans`, `logins`: what is wrong on live servers, what waits, and who was there.

Each asks `mailkeepctl` on the servers.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailkeep.cli.common import AsJson, Home, InventoryName, ask_agreement, find_inventory, out
from mailkeep.errors import UserError
from mailkeep_server.common.wording import printable_text

if TYPE_CHECKING:
    from mailkeep.operate.ctl_answers import CtlAnswer

commands = typer.Typer()

STATUS_CODES = (3, 4)
"""Of `mailkeepctl status`: something is wrong; nothing is, in what could be looked at."""
ACTIONS = ("summary", "list", "show", "hold", "release", "retry", "delete")


def _print_answers(answers: "Iterable[CtlAnswer]", as_json: bool) -> set[int]:
    """The exit codes. JSON is by host."""
    collected, codes = {}, set()
    for answer in answers:
        codes.add(answer.code)
        if as_json:
            collected[answer.host] = json.loads(answer.text)
        else:
            out.print(f"{answer.host}:\n{answer.text}", markup=False)
    if as_json:
        print(json.dumps(collected, indent=2))
    return codes


@commands.command("status", epilog="Examples: `mailkeep status home`; for monitoring, `mailkeep status home --json`")
def show_status(
    name: InventoryName,
    everything: Annotated[bool, typer.Option("--all", help="Everything, beyond one screen.")] = False,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Show what is wrong now, since when and what to do next, in order of harm; or in one line that all is well. It
    also works when services are down, and says what could not be looked at.

    Exit code 3: something is wrong. 4: nothing is, in what could be looked at."""
    from mailkeep.operate.ctl_answers import ask_mailkeepctl

    arguments = [option for option, is_set in (("--all", everything), ("--json", as_json)) if is_set]
    answers = ask_mailkeepctl(find_inventory(name, home), "status", *arguments, codes=(0, *STATUS_CODES))
    codes = _print_answers(answers, as_json)
    if worst := min(codes - {0}, default=0):
        raise typer.Exit(worst)


@commands.command(
    "queue",
    epilog="Examples: `mailkeep queue home`; all of one account, `mailkeep queue home list --account "
    "anna@example.org`; `mailkeep queue home delete --account anna@example.org`; what waits for one remote, "
    "`mailkeep queue home hold --remote example.net`",
)
def work_on_queue(
    name: InventoryName,
    action: Annotated[
        str,
        typer.Argument(
            metavar="ACTION",
            help="summary: count by sender, remote and reason. list: a line for each message. show: headers. hold, "
            "release, retry, delete: change what the options choose.",
        ),
    ] = "summary",
    account: Annotated[str, typer.Option(metavar="ADDRESS", help="Mail that this login submitted.")] = "",
    sender: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The envelope sender; MAILER-DAEMON for bounces.")
    ] = "",
    remote: Annotated[str, typer.Option(metavar="DOMAIN", help="Mail to this domain alone.")] = "",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Mail that waits for a reason with this text.")] = "",
    message: Annotated[list[str] | None, typer.Option(metavar="ID", help="This queue ID; may be repeated.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole queue, for hold, release and retry.")] = False,
    body: Annotated[bool, typer.Option("--body", help="Show whole messages, not only their headers.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without a question.")] = False,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Show what waits in the queue, by sender, remote and reason. Hold, release, retry, delete or show the mail of one
    account, sender or remote, or one message. Deleting counts first, and asks. All other mail stays as it is."""
    from mailkeep.operate.ctl_answers import ask_mailkeepctl

    if action not in ACTIONS:
        raise typer.BadParameter(f"expected one of {', '.join(ACTIONS)}")
    texts = {"account": account, "sender": sender, "remote": remote, "reason": reason}
    chosen = [f"--{option}={text}" for option, text in texts.items() if text]
    chosen += [f"--message={queue_id}" for queue_id in message or ()]
    chosen += [option for option, is_set in (("--all", everything), ("--body", body)) if is_set]
    directory = find_inventory(name, home)
    if action == "delete":
        _delete_mail(directory, chosen, yes=yes, as_json=as_json)
        return
    as_asked = [*chosen, "--json"] if as_json and action != "show" else chosen
    _print_answers(ask_mailkeepctl(directory, "queue", action, *as_asked), as_json and action != "show")


def _delete_mail(directory: Path, chosen: list[str], *, yes: bool, as_json: bool) -> None:
    """Counts on all servers, asks once, and deletes what was counted: mail that arrives meanwhile stays."""
    from mailkeep.operate.ctl_answers import ask_mailkeepctl

    until = "inf"
    if not yes:
        counts = {}
        for answer in ask_mailkeepctl(directory, "queue", "delete", *chosen, "--dry-run", "--json"):
            counts[answer.host] = json.loads(answer.text)
        messages = sum(count["messages"] for count in counts.values())
        if not messages:
            raise UserError("No message in the queue fits, and nothing was deleted.")
        for host, count in counts.items():
            senders = ", ".join(f"{group['name']} {group['messages']}" for group in count["by_sender"][:5])
            shared = f"; {count['shared']} with other recipients too stay" if count["shared"] else ""
            text = f"{host}: {count['messages']} messages to {count['recipients']} recipients ({senders}){shared}"
            out.print(printable_text(text), markup=False)
        ask_agreement("Delete these for good? Type yes", "yes")
        until = str(min(count["until"] for count in counts.values()))
    arguments = ("queue", "delete", *chosen, "--yes", f"--until={until}")
    _print_answers(ask_mailkeepctl(directory, *arguments, *(["--json"] if as_json else [])), as_json)


@commands.command(
    "bans",
    epilog="Examples: `mailkeep bans home`; of one address, `mailkeep bans home 198.51.100.7`; to let it in again, "
    "`mailkeep bans home 198.51.100.7 --lift`",
)
def show_bans(
    name: InventoryName,
    address: Annotated[
        str, typer.Argument(metavar="[ADDRESS]", help="An IP address or a network. Default: all bans.")
    ] = "",
    lift: Annotated[bool, typer.Option("--lift", help="Lift the bans of this address.")] = False,
    jail: Annotated[
        str, typer.Option(metavar="JAIL", help="Only this jail. Needed to lift a ban by a jail of your own.")
    ] = "",
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Show which addresses are banned, why and until when, over all jails; or lift the bans of one address, and see
    that the firewall has let go of it."""
    from mailkeep.operate.ctl_answers import ask_mailkeepctl

    arguments = [text for is_set, text in ((lift, "--lift"), (jail, f"--jail={jail}"), (as_json, "--json")) if is_set]
    arguments += ["--", address] if address else []
    _print_answers(ask_mailkeepctl(find_inventory(name, home), "bans", *arguments), as_json)


@commands.command(
    "logins",
    epilog="Examples: `mailkeep logins home`; of one account, `mailkeep logins home anna@example.org --days 30`; from "
    "one network, `mailkeep logins home 198.51.100.0/24 --failed`",
)
def show_logins(
    name: InventoryName,
    who: Annotated[
        str, typer.Argument(metavar="[ADDRESS]", help="An account, or an IP address or network. Default: everybody.")
    ] = "",
    days: Annotated[int, typer.Option(metavar="NUMBER", min=1, max=3660, help="So many days back.")] = 7,
    failed: Annotated[bool, typer.Option("--failed", help="Failed logins, too.")] = False,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Show who logged in from where: the first time, the last time, how often, and by which service. It says how far
    back the server's log reaches."""
    from mailkeep.operate.ctl_answers import ask_mailkeepctl

    options = [option for option, is_set in (("--failed", failed), ("--json", as_json)) if is_set]
    arguments = [f"--days={days}", *options, *(["--", who] if who else [])]
    _print_answers(ask_mailkeepctl(find_inventory(name, home), "logins", *arguments), as_json)
