"""`mailkeep dns`, `blocklists`: what the world sees of the server in the DNS."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailkeep.cli.common import AsJson, Home, InventoryName, Resolver, open_inventory, out
from mailkeep.errors import UserError
from mailkeep_server.common.report_days import SHOWN_DAYS
from mailkeep_server.common.wording import count_noun

if TYPE_CHECKING:
    from mailkeep.dns.blocklists import BlocklistEntry
    from mailkeep.dns.findings import Finding
    from mailkeep.dns.moving_order import Change
    from mailkeep.dns.records import Record
    from mailkeep.inventory.secrets import Secrets
    from mailkeep.settings.models import Settings

commands = typer.Typer()


def _parse_directory(text: str) -> Path:
    if not text:
        raise typer.BadParameter("expected the name of a directory, such as octodns")
    return Path(text)


@commands.command(
    "dns",
    epilog="Examples: `mailkeep dns home`; for the forms of a web site, `mailkeep dns home --form`; for a zone file, "
    "`mailkeep dns home --zone`; to see what is published, `mailkeep dns home --check`",
)
def print_records(
    name: InventoryName,
    as_json: AsJson = False,
    zone: Annotated[bool, typer.Option("--zone", help="Print the records as lines of a zone file.")] = False,
    form: Annotated[bool, typer.Option("--form", help="Print names and values as web forms expect them.")] = False,
    octodns: Annotated[
        Path | None,
        typer.Option(parser=_parse_directory, metavar="DIR", help="Write a file per zone into DIR, for octoDNS."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the published records. Exit code 1: something is wrong.")
    ] = False,
    moving: Annotated[
        bool,
        typer.Option("--moving", help="Compare with an old server's records, and say which to change in which order."),
    ] = False,
    resolver: Resolver = "",
    home: Home = None,
) -> None:
    """Print the DNS records to publish, the most important first, each with its reason; or check the published ones."""
    from mailkeep.dns import formats, records
    from mailkeep.inventory import secrets

    actions = {"--check": check, "--moving": moving, "--zone": zone, "--form": form, "--octodns": octodns}
    _refuse_several({**actions, "--json": as_json})
    directory, settings = open_inventory(name, home)
    keys = secrets.load_secrets(settings, directory)
    if check or moving:
        raise typer.Exit(_compare_with_published(directory, settings, keys, resolver, moving=moving, as_json=as_json))
    own_records = records.own_zone_records(settings, keys)
    if zone:
        print(formats.format_zone_file(own_records), end="")
    elif form:
        print(formats.format_web_form(own_records), end="")
    elif octodns:
        _write_octodns(own_records, octodns)
    elif as_json:
        all_records = (*own_records, *records.reverse_records(settings))
        print(json.dumps([record.asdict() for record in all_records], indent=2))
    else:
        _print_with_reasons(own_records, records.third_party_records(settings, keys), settings)


def _refuse_several(actions: dict[str, object]) -> None:
    chosen = [option for option, value in actions.items() if value]
    if len(chosen) > 1 and chosen not in (["--check", "--json"], ["--moving", "--json"]):
        raise typer.BadParameter(
            f"{' and '.join(chosen)} do not go together: use one. --check and --moving may have --json."
        )


def _compare_with_published(
    directory: Path, settings: "Settings", keys: "Secrets", resolver: str, *, moving: bool, as_json: bool
) -> int:
    """Returns the exit code."""
    from mailkeep.dns import client, moving_order, observe, records, report

    if not moving:
        return report.run_check(
            settings, keys, resolver, lambda: judge_received_reports(directory, settings), as_json=as_json
        )
    questions = [client.Question(record.name, record.type) for record in records.all_records(settings, keys)]
    answers = observe.query_names([*dict.fromkeys(questions)], client.make_resolver(resolver))
    changes = moving_order.order_changes(settings, keys, answers)
    if as_json:
        print(json.dumps([change.asdict() for change in changes], indent=2))
    else:
        _print_changes(changes)
    return 0


def judge_received_reports(directory: Path, settings: "Settings") -> "list[Finding]":
    """What the reports that the servers have read support. The records can be checked without: before the first deploy
    nobody answers. A note on standard error says what was not looked at."""
    from mailkeep.dns.received_reports import merge_summaries
    from mailkeep.dns.report_conclusions import judge_reports
    from mailkeep.operate.report_rows import read_summaries, require_reports

    try:
        require_reports(settings)
        return list(judge_reports(settings, merge_summaries(read_summaries(directory, SHOWN_DAYS))))
    except UserError as error:
        print(f"note: reports of receivers were not looked at: {error}", file=sys.stderr)
        return []


def _print_changes(changes: "list[Change]") -> None:
    from mailkeep.dns.moving_order import STAGES

    for stage, heading in STAGES.items():
        steps = [change for change in changes if change.stage == stage]
        if steps:
            out.print(f"\n[bold]{heading}[/]")
        for change in steps:
            out.print(f"  {change.name}  {change.type}: {change.action}", markup=False)
            for label, text in (("now", change.published), ("set", change.value)):
                if text and stage != "unchanged":
                    out.print(f"    {label}: {text}", markup=False)
    out.print(
        "\nRecords of other DKIM selectors stay until a week after the switch: mail that they signed is under way."
    )


def _write_octodns(own_records: "list[Record]", target: Path) -> None:
    from mailkeep.dns import formats

    for file, text in formats.format_octodns(own_records).items():
        try:
            target.mkdir(parents=True, exist_ok=True)
            (target / file).write_text(text)
        except OSError as error:
            raise UserError(f"{target / file}: {error.strerror}. Name a directory that you can write to.") from None
        out.print(target / file, markup=False)


def _print_with_reasons(own_records: "list[Record]", third_party: "list[Record]", settings: "Settings") -> None:
    """Each value on a line of its own, whole, so that it can be copied."""
    from mailkeep.dns import records

    for record in own_records:
        out.print(f"[bold]{record.name}[/]  {record.type}  [dim]{record.need}: {record.reason} ({record.source})[/]")
        out.print(f"  {record.value}\n", markup=False)
    out.print("[bold]To set at the hoster of the addresses[/] (reverse DNS):")
    for record in records.reverse_records(settings):
        out.print(f"  {record.name}  PTR  {record.value}  [dim]{record.reason} ({record.source})[/]")
    if third_party:
        out.print("\n[bold]In zones of others[/]: ask their owners for these, or few servers will send reports there.")
    for record in third_party:
        out.print(f"  {record.name}  {record.type}  {record.value}  [dim]{record.reason} ({record.source})[/]")
    for text in records.list_instructions(settings):
        out.print(f"\n{text}", markup=False)


@commands.command(
    "blocklists",
    epilog="Example: `mailkeep blocklists home`. Many lists answer no public resolver: use another by --resolver, or "
    "ask on the server.",
)
def ask_blocklists(name: InventoryName, as_json: AsJson = False, resolver: Resolver = "", home: Home = None) -> None:
    """Ask DNS blocklists about the server's addresses and domains. Exit code 1: one lists it, or none answered."""
    from mailkeep.dns import blocklists, client

    _, settings = open_inventory(name, home)
    entries = blocklists.query_blocklists(settings, client.make_resolver(resolver))
    if as_json:
        print(json.dumps([entry.asdict() for entry in entries], indent=2))
    else:
        _print_entries(entries)
    if not any(entry.is_conclusive for entry in entries):
        raise UserError("No blocklist answered. Ask from another network, or another resolver: --resolver ADDRESS.")
    if any(entry.state == "listed" for entry in entries):
        raise typer.Exit(1)


def _print_entries(entries: "list[BlocklistEntry]") -> None:
    from rich.text import Text

    for entry in entries:
        style = {"listed": "bold red", "trusted": "bold green"}.get(entry.state, "")
        out.print(Text.assemble((f"{entry.state:8}", style), f"  {entry.subject}  {entry.list}"))
        for line in filter(None, (entry.answer, entry.delisting)):
            out.print(f"          {line}", markup=False)
    listing = len({entry.list for entry in entries if entry.state == "listed"})
    silent = len({entry.list for entry in entries if not entry.is_conclusive})
    summary = f"Listed on {count_noun(listing, 'blocklist')}."
    out.print(f"{summary} {count_noun(silent, 'list')} gave no answer." if silent else summary)
