"""`mailkeep dns`, `blocklists`, `dkim rotate`, `tls-roll`: what the world sees in the DNS, and keys whose records must
change with them."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mailkeep.cli.common import AsJson, Home, InventoryName, Resolver, count_of, open_inventory, out
from mailkeep.dns import formats, records
from mailkeep.dns import report as dns_report
from mailkeep.dns.records import Record
from mailkeep.errors import UserError
from mailkeep.inventory import secrets
from mailkeep.inventory.dkim_keys import DkimKey
from mailkeep.inventory.vault_entries import DkimEntry
from mailkeep.settings.models import Settings

if TYPE_CHECKING:
    from mailkeep.dns.blocklists import BlocklistEntry

commands = typer.Typer()
dkim = typer.Typer(no_args_is_help=True, help="Replace DKIM keys.", epilog="Example: `mailkeep dkim rotate home`.")
commands.add_typer(dkim, name="dkim")


def _directory(text: str) -> Path:
    if not text:
        raise typer.BadParameter("expected the name of a directory, such as octodns")
    return Path(text)


@commands.command(
    "dns",
    epilog="Example: `mailkeep dns home`; for a web form: `mailkeep dns home --form`; for a zone file: "
    "`mailkeep dns home --zone`; whether the world sees them: `mailkeep dns home --check`",
)
def print_records(
    name: InventoryName,
    as_json: AsJson = False,
    zone: Annotated[bool, typer.Option("--zone", help="Print lines of a zone file.")] = False,
    form: Annotated[bool, typer.Option("--form", help="Print names and values as web forms want them.")] = False,
    octodns: Annotated[
        Path | None,
        typer.Option(parser=_directory, metavar="DIR", help="Write a file for each zone into DIR, for octoDNS."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="See what is published. Exit 1: something is wrong.")] = False,
    resolver: Resolver = "",
    home: Home = None,
) -> None:
    """Print the DNS records to publish, most important first, each with its reason; or check those that are."""
    actions = {"--check": check, "--zone": zone, "--form": form, "--octodns": octodns, "--json": as_json}
    chosen = [option for option, value in actions.items() if value]
    if len(chosen) > 1 and chosen != ["--check", "--json"]:
        raise typer.BadParameter(f"{' and '.join(chosen)} are for different things: give one. (--check takes --json.)")
    directory, settings = open_inventory(name, home)
    keys = secrets.load_secrets(settings, directory)
    if check:
        raise typer.Exit(dns_report.run_check(settings, keys, resolver, as_json=as_json))
    own_records = records.own_zone_records(settings, keys)
    if zone:
        print(formats.format_zone_file(own_records), end="")
    elif form:
        print(formats.format_web_form(own_records), end="")
    elif octodns:
        _write_octodns(own_records, octodns)
    elif as_json:
        print(json.dumps([record.asdict() for record in (*own_records, *records.reverse_records(settings))], indent=2))
    else:
        _print_table(own_records, records.third_party_records(settings, keys), settings)


def _write_octodns(own_records: list[Record], target: Path) -> None:
    for file, text in formats.format_octodns(own_records).items():
        try:
            target.mkdir(parents=True, exist_ok=True)
            (target / file).write_text(text)
        except OSError as error:
            raise UserError(f"{target / file}: {error.strerror}. Name a directory that you can write to.") from None
        out.print(target / file, markup=False)


def _print_table(own_records: list[Record], third_party: list[Record], settings: Settings) -> None:
    """Each value on a line of its own, whole, so that it can be copied."""
    for record in own_records:
        out.print(f"[bold]{record.name}[/]  {record.type}  [dim]{record.need}: {record.reason} ({record.source})[/]")
        out.print(f"  {record.value}\n", markup=False)
    out.print("[bold]At the hoster of the addresses[/] (reverse DNS):")
    for record in records.reverse_records(settings):
        out.print(f"  {record.name}  PTR  {record.value}  [dim]{record.reason} ({record.source})[/]")
    if third_party:
        out.print("\n[bold]Not yours to set[/]: ask whoever has these zones, or few will send reports there.")
    for record in third_party:
        out.print(f"  {record.name}  {record.type}  {record.value}  [dim]{record.reason} ({record.source})[/]")
    for text in records.list_instructions(settings):
        out.print(f"\n{text}", markup=False)


@commands.command(
    "blocklists",
    epilog="Example: `mailkeep blocklists home`; ask from where you may: with --resolver, or on the server",
)
def ask_blocklists(name: InventoryName, as_json: AsJson = False, resolver: Resolver = "", home: Home = None) -> None:
    """Ask the DNS blocklists about the addresses and domains. Exit 1: one lists something, or none told."""
    from mailkeep.dns import blocklists, client

    _, settings = open_inventory(name, home)
    entries = blocklists.query_blocklists(settings, client.make_resolver(resolver))
    if as_json:
        print(json.dumps([entry.asdict() for entry in entries], indent=2))
    else:
        _print_entries(entries)
    if not any(entry.is_conclusive for entry in entries):
        raise UserError("No list has told anything. Ask from elsewhere, or another resolver: --resolver ADDRESS.")
    if any(entry.state == "listed" for entry in entries):
        raise typer.Exit(1)


def _print_entries(entries: list["BlocklistEntry"]) -> None:
    for entry in entries:
        style = {"listed": "bold red", "trusted": "bold green"}.get(entry.state, "")
        out.print(Text.assemble((f"{entry.state:8}", style), f"  {entry.subject}  {entry.list}"))
        for line in filter(None, (entry.answer, entry.delisting)):
            out.print(f"          {line}", markup=False)
    listing = len({entry.list for entry in entries if entry.state == "listed"})
    silent = len({entry.list for entry in entries if not entry.is_conclusive})
    out.print(
        f"On {count_of(listing, 'blocklist')}." + (f" {count_of(silent, 'list')} told nothing." if silent else "")
    )


@dkim.command("rotate", epilog="Example: `mailkeep dkim rotate home`, again and again, as it says")
def rotate_dkim_keys(
    name: InventoryName,
    now: Annotated[bool, typer.Option("--now", help="Begin even if the keys are not a month old.")] = False,
    resolver: Resolver = "",
    home: Home = None,
) -> None:
    """Replace the DKIM keys, a step at a time: publish, have them sign once seen, retire the former."""
    from mailkeep.dns import client
    from mailkeep.operate import dkim_rotation

    directory, settings = open_inventory(name, home)
    secrets.load_secrets(settings, directory)

    def find_unpublished(keys: list[DkimKey]) -> dict[DkimKey, str]:
        return dkim_rotation.find_unpublished(keys, client.make_resolver(resolver))

    def find_signing_since(entries: list[DkimEntry]) -> dict[DkimEntry, date]:
        return dkim_rotation.find_signing_since(entries, directory)

    rotation = dkim_rotation.DkimRotation(
        settings, directory, date.today(), find_unpublished, find_signing_since, start_now=now
    )
    for line in rotation.take_step():
        out.print(line, markup=False)


@commands.command("tls-roll", epilog="Example: `mailkeep tls-roll home`, again and again, as it says")
def rotate_tls_key(
    name: InventoryName,
    now: Annotated[bool, typer.Option("--now", help="Begin even if the key is not a month old.")] = False,
    resolver: Resolver = "",
    home: Home = None,
) -> None:
    """Replace the TLS key that certificates by ACME are for, a step at a time: publish, show once seen, retire."""
    from mailkeep.dns import client
    from mailkeep.operate import tls_rotation

    directory, settings = open_inventory(name, home)
    secrets.load_secrets(settings, directory)

    def find_unpublished(record: Record) -> tuple[list[str], int]:
        return tls_rotation.find_unpublished(record, client.make_resolver(resolver))

    rotation = tls_rotation.TlsRotation(
        settings, directory, datetime.now(UTC), find_unpublished, tls_rotation.read_served_records, start_now=now
    )
    for line in rotation.take_step():
        out.print(line, markup=False)
