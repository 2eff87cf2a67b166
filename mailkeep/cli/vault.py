"""`mailkeep keys`, `tls`, `acme`, `relay`, `store`, `webhook`: what goes into an inventory's vault."""

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from mailkeep.cli.common import Home, InventoryName, ask_lines, ask_secret, open_inventory, out
from mailkeep.inventory import secrets
from mailkeep.inventory.credentials import (
    save_dns_credentials,
    save_relay_password,
    save_shared_store_password,
    save_webhook,
)
from mailkeep.inventory.tls_keys import import_certificate
from mailkeep.inventory.vault import open_vault

commands = typer.Typer()


@commands.command(epilog="Example, after a new domain in mail.yml: `mailkeep keys home`")
def keys(
    name: InventoryName,
    reencrypt: Annotated[bool, typer.Option("--reencrypt", help="Encrypt anew, for who recipients.txt names.")] = False,
    home: Home = None,
) -> None:
    """Make the keys that mail.yml needs and the vault lacks: DKIM, TLS with a self-signed certificate."""
    directory, settings = open_inventory(name, home)
    for line in secrets.create_missing_keys(settings, directory, date.today()) or ["Nothing is missing."]:
        out.print(line, markup=False)
    if reencrypt:
        open_vault(directory).reencrypt()
        out.print("The vault is encrypted for all who are in recipients.txt.")


@commands.command(epilog="Example: `mailkeep tls home --certificate fullchain.pem --key privkey.pem`")
def tls(
    name: InventoryName,
    certificate: Annotated[Path, typer.Option(help="The chain, PEM, the server's own certificate first.")],
    key: Annotated[Path, typer.Option(help="Its private key, PEM, without a passphrase.")],
    home: Home = None,
) -> None:
    """Take over a certificate and its key, for `tls: mode: files`."""
    directory, settings = open_inventory(name, home)
    for line in import_certificate(settings, directory, certificate, key):
        out.print(line, markup=False)


@commands.command(epilog="Example: `mailkeep acme home`, then `mailkeep deploy home`")
def acme(name: InventoryName, home: Home = None) -> None:
    """Put what the DNS provider wants to know into the vault, for `challenge: dns-01`; asks, or reads standard input.

    A line NAME=value each, by the names that `lego dnshelp -c PROVIDER` lists."""
    directory, _ = open_inventory(name, home)
    variables = save_dns_credentials(directory, ask_lines("NAME=value (nothing: that was all)"))
    out.print(f"In the vault: {', '.join(variables)}.", markup=False)


@commands.command(epilog="Example: `mailkeep relay home`")
def relay(name: InventoryName, home: Home = None) -> None:
    """Put the password of the relay host into the vault; asks for it, or reads it from standard input."""
    directory, _ = open_inventory(name, home)
    save_relay_password(directory, ask_secret("Password of the relay host"))
    out.print("The password is in the vault.")


@commands.command(epilog="Example: `mailkeep store home`")
def store(name: InventoryName, home: Home = None) -> None:
    """Put the password of the guard's shared store into the vault; asks for it, or reads it from standard input."""
    directory, _ = open_inventory(name, home)
    save_shared_store_password(directory, ask_secret("Password of the guard's store"))
    out.print("The password is in the vault.")


@commands.command(epilog="Example: `mailkeep webhook home`, then `mailkeep deploy home` and `mailkeep alert-test home`")
def webhook(
    name: InventoryName,
    token: Annotated[bool, typer.Option("--token", help="Ask for a token too (Authorization: Bearer).")] = False,
    home: Home = None,
) -> None:
    """Put the URL of the alerts' webhook into the vault; asks for it, or reads it from standard input."""
    directory, _ = open_inventory(name, home)
    save_webhook(directory, ask_secret("URL of the webhook"), ask_secret("Its token") if token else "")
    out.print("The URL is in the vault.")
