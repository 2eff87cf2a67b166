"""`mailkeep keys`, `dkim rotate`, `tls import`, `tls rotate`: the keys of an inventory, and new ones in their place."""

import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mailkeep.cli.common import Home, InventoryName, Resolver, open_inventory, out

if TYPE_CHECKING:
    from mailkeep.dns.records import Record
    from mailkeep.inventory.dkim_keys import DkimKey
    from mailkeep.inventory.vault_entries import DkimEntry

commands = typer.Typer()


class TlsCommands(TyperGroup):
    """`mailkeep tls NAME …`, as version 0.1.0 had it, still means `mailkeep tls import NAME …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            print("note: `mailkeep tls NAME` is now called `mailkeep tls import NAME`.", file=sys.stderr)
            args = ["import", *args]
        return super().parse_args(ctx, args)


dkim = typer.Typer(no_args_is_help=True, help="Replace the DKIM keys.", epilog="Example: `mailkeep dkim rotate home`.")
tls = typer.Typer(
    no_args_is_help=True,
    cls=TlsCommands,
    help="Import a TLS certificate, or replace the TLS key.",
    epilog="Example: `mailkeep tls rotate home`.",
)
commands.add_typer(dkim, name="dkim")
commands.add_typer(tls, name="tls")

StartNow = Annotated[bool, typer.Option("--now", help="Start even if the current key is less than 30 days old.")]


@commands.command("keys", epilog="Example, after adding a domain to mail.yml: `mailkeep keys home`")
def create_keys(
    name: InventoryName,
    reencrypt: Annotated[
        bool, typer.Option("--reencrypt", help="Also encrypt the vault again, for the recipients in recipients.txt.")
    ] = False,
    home: Home = None,
) -> None:
    """Create the keys that mail.yml needs and the vault lacks: for DKIM, and for TLS a self-signed certificate."""
    from mailkeep.inventory import secrets
    from mailkeep.inventory.vault import open_vault

    directory, settings = open_inventory(name, home)
    for line in secrets.create_missing_keys(settings, directory, date.today()) or ["No key is missing."]:
        out.print(line, markup=False)
    if reencrypt:
        open_vault(directory).reencrypt()
        out.print("The vault is encrypted for all recipients in recipients.txt.")


@dkim.command("rotate", epilog="Example: `mailkeep dkim rotate home`. Each call says when to run it again.")
def rotate_dkim_keys(name: InventoryName, now: StartNow = False, resolver: Resolver = "", home: Home = None) -> None:
    """Replace the DKIM keys, a step per call: create next keys, use them once published, retire the former ones."""
    from mailkeep.dns import client
    from mailkeep.inventory import secrets
    from mailkeep.operate import dkim_rotation

    directory, settings = open_inventory(name, home)
    secrets.load_secrets(settings, directory)

    def find_unpublished(keys: "list[DkimKey]") -> "dict[DkimKey, str]":
        return dkim_rotation.find_unpublished(keys, client.make_resolver(resolver))

    def find_signing_since(entries: "list[DkimEntry]") -> "dict[DkimEntry, date]":
        return dkim_rotation.find_signing_since(entries, directory)

    rotation = dkim_rotation.DkimRotation(
        settings, directory, date.today(), find_unpublished, find_signing_since, start_now=now
    )
    for line in rotation.take_step():
        out.print(line, markup=False)


@tls.command("rotate", epilog="Example: `mailkeep tls rotate home`. Each call says when to run it again.")
def rotate_tls_key(name: InventoryName, now: StartNow = False, resolver: Resolver = "", home: Home = None) -> None:
    """Replace the TLS key of ACME certificates, a step per call: create a next key, use it once published, retire the
    former one."""
    from mailkeep.dns import client
    from mailkeep.inventory import secrets
    from mailkeep.operate import tls_rotation

    directory, settings = open_inventory(name, home)
    secrets.load_secrets(settings, directory)

    def find_unpublished(record: "Record") -> tuple[list[str], int]:
        return tls_rotation.find_unpublished(record, client.make_resolver(resolver))

    rotation = tls_rotation.TlsRotation(
        settings, directory, datetime.now(UTC), find_unpublished, tls_rotation.read_served_records, start_now=now
    )
    for line in rotation.take_step():
        out.print(line, markup=False)


@commands.command("tls-roll", hidden=True, epilog="Example: `mailkeep tls rotate home`")
def rotate_tls_key_by_old_name(
    name: InventoryName, now: StartNow = False, resolver: Resolver = "", home: Home = None
) -> None:
    """The old name of `mailkeep tls rotate`."""
    print("note: `mailkeep tls-roll` is now called `mailkeep tls rotate`.", file=sys.stderr)
    rotate_tls_key(name, now, resolver, home)


@tls.command("import", epilog="Example: `mailkeep tls import home --certificate fullchain.pem --key privkey.pem`")
def import_certificate(
    name: InventoryName,
    certificate: Annotated[
        Path, typer.Option(metavar="FILE", help="The certificate chain in PEM, the server's own certificate first.")
    ],
    key: Annotated[Path, typer.Option(metavar="FILE", help="Its private key in PEM, without a passphrase.")],
    home: Home = None,
) -> None:
    """Import a certificate and its key, for `tls: mode: files`."""
    from mailkeep.inventory import tls_keys

    directory, settings = open_inventory(name, home)
    for line in tls_keys.import_certificate(settings, directory, certificate, key):
        out.print(line, markup=False)
