"""`mailkeep acme`, `relay`, `store`, `webhook`: secrets that others issued. `mailkeep vault recover`: a new vault."""

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from mailkeep.cli.common import Home, InventoryName, ask_lines, ask_secret, open_inventory, out
from mailkeep.inventory import hosts

commands = typer.Typer()
vault = typer.Typer(
    no_args_is_help=True,
    help="Replace a vault that nobody can open any more.",
    epilog="Example: `mailkeep vault recover home`.",
)
commands.add_typer(vault, name="vault")


@vault.command("recover", epilog="Example: `mailkeep vault recover home`, then `mailkeep plan home`")
def recover_vault(name: InventoryName, home: Home = None) -> None:
    """Make a new vault and age identity, with the keys from the running server. For a lost identity only."""
    from mailkeep.operate import vault_recovery

    directory, settings = open_inventory(name, home)
    for line in vault_recovery.recover_vault(settings, directory, date.today()):
        out.print(line, markup=False)


@commands.command("acme", epilog="Example: `mailkeep acme home`, then `mailkeep deploy home`")
def save_dns_credentials(name: InventoryName, home: Home = None) -> None:
    """Store the DNS provider's credentials in the vault, for `challenge: dns-01`. Asks, or reads standard input.

    A line NAME=value each; `lego dnshelp -c PROVIDER` lists the names."""
    from mailkeep.inventory import credentials

    directory, _ = open_inventory(name, home)
    names = credentials.save_dns_credentials(directory, ask_lines("NAME=value (an empty line ends)"))
    _print_stored(", ".join(names), directory)


@commands.command("relay", epilog="Example: `mailkeep relay home`, then `mailkeep deploy home`")
def save_relay_password(name: InventoryName, home: Home = None) -> None:
    """Store the relay host's password in the vault. Asks for it, or reads it from standard input."""
    from mailkeep.inventory import credentials

    directory, _ = open_inventory(name, home)
    credentials.save_relay_password(directory, ask_secret("Password of the relay host"))
    _print_stored("the relay host's password", directory)


@commands.command("store", epilog="Example: `mailkeep store home`, then `mailkeep deploy home`")
def save_store_password(name: InventoryName, home: Home = None) -> None:
    """Store the password of the guard's shared store in the vault. Asks for it, or reads it from standard input."""
    from mailkeep.inventory import credentials

    directory, _ = open_inventory(name, home)
    credentials.save_shared_store_password(directory, ask_secret("Password of the guard's shared store"))
    _print_stored("the shared store's password", directory)


@commands.command(
    "webhook", epilog="Example: `mailkeep webhook home`, then `mailkeep deploy home` and `mailkeep alert-test home`"
)
def save_webhook(
    name: InventoryName,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for a token as well (sent as Authorization: Bearer).")
    ] = False,
    home: Home = None,
) -> None:
    """Store the URL of the alerts' webhook in the vault. Asks for it, or reads it from standard input."""
    from mailkeep.inventory import credentials

    directory, _ = open_inventory(name, home)
    credentials.save_webhook(
        directory, ask_secret("URL of the webhook"), ask_secret("Token of the webhook") if token else ""
    )
    _print_stored("the webhook's URL", directory)


def _print_stored(description: str, directory: Path) -> None:
    command = f"mailkeep deploy {hosts.inventory_label(directory)}"
    out.print(f"Stored in the vault: {description}. Run `{command}` to put it to use.", markup=False)
