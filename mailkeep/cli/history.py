"""`mailkeep report` and `mailkeep trace`: what was sent, and what became of a message."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mailkeep.cli.common import AsJson, Home, complete_inventory, find_inventory
from mailkeep.errors import UserError

commands = typer.Typer()

GROUPS = ("day", "hour", "account", "network", "remote", "domain", "result")
TIME_HELP = "2026-11-29, '2026-11-29 02:00', yesterday or '3 days ago', in the log's own time, which is UTC"
Name = Annotated[
    str,
    typer.Argument(
        metavar="[NAME]",
        help="The inventory: NAME below inventories/, or the path of its directory. Not needed with --file.",
        autocompletion=complete_inventory,
    ),
]
Since = Annotated[str, typer.Option(metavar="TIME", help=f"From then on: {TIME_HELP}.")]
Until = Annotated[str, typer.Option(metavar="TIME", help="Up to then; a day is included.")]
Files = Annotated[
    list[Path],
    typer.Option("--file", metavar="FILE", help="Logs of any server instead: syslog or the journal, also compressed."),
]


def _check_group(group: str) -> str:
    if group and group not in GROUPS:
        raise typer.BadParameter(f"expected one of {', '.join(GROUPS)}")
    return group


@commands.command(
    "report",
    epilog="Examples: `mailkeep report home --since yesterday --by account`; of other servers' logs, `mailkeep report "
    "--file mail.log.1 --file mail.log --by day`",
)
def show_report(
    name: Name = "",
    since: Since = "",
    until: Until = "",
    account: Annotated[str, typer.Option(metavar="ADDRESS", help="Only what this login has sent.")] = "",
    domain: Annotated[
        str, typer.Option(metavar="DOMAIN", help="Only what its accounts have sent, or was sent to it.")
    ] = "",
    by: Annotated[
        str, typer.Option(metavar="GROUP", callback=_check_group, help=f"A row for each: {', '.join(GROUPS)}.")
    ] = "",
    plot: Annotated[bool, typer.Option("--plot", help="With --by: bars instead of numbers.")] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw FILE.svg and FILE.png; needs --by, and matplotlib.")
    ] = None,
    files: Files = [],  # noqa: B006 - typer's way of an option that may be repeated
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Show what was sent, by whom and with which fate: delivered, bounced, deferred, rejected; and logins."""
    from mailkeep.operate import mail_history

    options = {"since": since, "until": until, "account": account, "domain": domain, "by": by}
    arguments = [f"--{option}={value}" for option, value in options.items() if value]
    if picture:
        _check_picture(by)
    if picture or as_json:
        reports = mail_history.parse_reports(_ask(name, home, "report", [*arguments, "--json"], files))
        _print_reports(reports, picture)
        return
    _print_answers(_ask(name, home, "report", [*arguments, *(["--plot"] if plot else [])], files))


@commands.command(
    "trace",
    epilog="Examples: `mailkeep trace home friend@example.net --since yesterday`; `mailkeep trace home 4fXyZ12345z1`; "
    "`mailkeep trace --file mail.log friend@example.net`",
)
def show_trace(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME] ADDRESS|MESSAGE-ID|QUEUE-ID", help="The inventory, which --file replaces, and what to find."
        ),
    ],
    since: Since = "",
    until: Until = "",
    sender: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="Only of this sender.")] = "",
    recipient: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="Only to this recipient.")] = "",
    files: Files = [],  # noqa: B006 - typer's way of an option that may be repeated
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Show each message of an address, a message ID or a queue ID: from where it came, and what became of it."""
    if len(words) != (1 if files else 2):
        raise UserError("Expected an inventory and what to find; with --file, only what to find.")
    name = "" if files else words[0]
    options = {"since": since, "until": until, "from": sender, "to": recipient, "inventory": name}
    arguments = [f"--{option}={value}" for option, value in options.items() if value]
    answers = _ask(name, home, "trace", [*arguments, *(["--json"] if as_json else []), "--", words[-1]], files)
    if as_json:
        print(json.dumps([{"host": host, **json.loads(text)} for host, text in answers], indent=2))
    else:
        _print_answers(answers)


def _ask(
    name: str, home: Path | None, command: str, arguments: list[str], files: list[Path]
) -> Iterator[tuple[str, str]]:
    """Each host, or "" for files, with the answer. Raises UserError."""
    from mailkeep.operate import mail_history

    if bool(name) == bool(files):
        raise UserError("Name an inventory, or logs by --file.")
    if files:
        return iter([("", mail_history.read_files(command, arguments, files))])
    return mail_history.ask_servers(find_inventory(name, home), command, arguments)


def _print_answers(answers: Iterator[tuple[str, str]]) -> None:
    for host, text in answers:
        print(f"{host}:" if host else "", text, sep="\n" if host else "")


def _check_picture(group: str) -> None:
    from mailkeep.drills.report import check_picture_can_be_drawn

    if not group:
        raise UserError("A picture needs --by.")
    check_picture_can_be_drawn()


def _print_reports(reports: list[dict[str, Any]], picture: Path | None) -> None:
    if not picture:
        print(json.dumps(reports, indent=2))
        return
    from mailkeep.drills.report_picture import draw_reports

    for written in draw_reports(reports, picture):
        print(f"picture: {written}")
