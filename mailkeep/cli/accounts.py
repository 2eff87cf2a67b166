"""`mailkeep account …`: the accounts of mail.yml, and freezing them on the server."""

import json
from typing import Annotated

import typer
from rich.table import Table

from mailkeep.cli.common import (
    Address,
    AsJson,
    Home,
    InventoryName,
    ask_secret,
    find_inventory,
    open_inventory,
    out,
    passphrase_shown,
)
from mailkeep.errors import UserError
from mailkeep.inventory import hosts, passwords
from mailkeep.settings import edit_accounts
from mailkeep.settings.models import Settings

account = typer.Typer(
    no_args_is_help=True,
    help="Add, change, list and remove mail accounts in mail.yml.",
    epilog="Example: `mailkeep account add home anna@example.org --generate`, then `mailkeep deploy home`.",
)
commands = typer.Typer()
commands.add_typer(account, name="account")

Generate = Annotated[bool, typer.Option("--generate", help="Make a passphrase and show it once.")]
CheckBreaches = Annotated[
    bool, typer.Option("--check-breaches", help="Ask Have I Been Pwned; five digits of a hash leave this machine.")
]


@account.command("list", epilog="Example: `mailkeep account list home`")
def list_accounts(name: InventoryName, as_json: AsJson = False, home: Home = None) -> None:
    """List the accounts of mail.yml."""
    _, settings = open_inventory(name, home)
    accounts = edit_accounts.list_accounts(settings)
    if as_json:
        print(json.dumps([account._asdict() for account in accounts], indent=2))
        return
    table = Table("address", "name", "quota", "sends as", "aliases")
    for account in accounts:
        table.add_row(
            account.address, account.name, account.quota, "\n".join(account.send_as), "\n".join(account.aliases)
        )
    out.print(table)


@account.command("add", epilog="Example: `mailkeep account add home anna@example.org --quota 2G --generate`")
def add_account(
    name: InventoryName,
    address: Address,
    person: Annotated[str, typer.Option("--name", help="The person's name.")] = "",
    quota: Annotated[str | None, typer.Option(help="The mailbox's size, such as 2G.")] = None,
    generate: Generate = False,
    check_breaches: CheckBreaches = False,
    home: Home = None,
) -> None:
    """Add an account. Asks for a password, or reads it from standard input; deploy to make it work."""
    directory, settings = open_inventory(name, home)
    password = _new_password(settings, address, generate, check_breaches)
    edit_accounts.add_account(
        directory / hosts.SETTINGS_FILE, address, passwords.hash_password(password), person, quota
    )
    outcome = f"{address} is in mail.yml. `mailkeep deploy {name}` makes it work."
    _show_once(name, address, outcome, password if generate else "")


@account.command("passwd", epilog="Example: `mailkeep account passwd home anna@example.org`")
def change_password(
    name: InventoryName,
    address: Address,
    generate: Generate = False,
    check_breaches: CheckBreaches = False,
    home: Home = None,
) -> None:
    """Give an account a new password; deploy to make it count."""
    directory, settings = open_inventory(name, home)
    password = _new_password(settings, address, generate, check_breaches)
    edit_accounts.set_password(directory / hosts.SETTINGS_FILE, address, passwords.hash_password(password))
    outcome = f"{address} has a new password. `mailkeep deploy {name}` makes it count."
    _show_once(name, address, outcome, password if generate else "")


@account.command("remove", epilog="Example: `mailkeep account remove home anna@example.org`")
def remove_account(name: InventoryName, address: Address, home: Home = None) -> None:
    """Remove an account from mail.yml. Its mail stays on the server."""
    edit_accounts.remove_account(find_inventory(name, home) / hosts.SETTINGS_FILE, address)
    out.print(f"{address} is out of mail.yml. `mailkeep deploy {name}` ends its login; its mail stays.", markup=False)


@account.command("freeze", epilog="Example: `mailkeep account freeze home anna@example.org --why 'sends spam'`")
def freeze_account(
    name: InventoryName,
    address: Address,
    why: Annotated[str, typer.Option(help="For whoever reads it later.")] = "frozen by hand",
    home: Home = None,
) -> None:
    """At once, on the server: no mail, no login, sessions cut, queued mail held. Nobody else is affected."""
    from mailkeep.operate import account_freeze

    for host, answer in account_freeze.freeze_account(find_inventory(name, home), address, why):
        out.print(f"{host}:\n{answer}", markup=False)


@account.command("thaw", epilog="Example: `mailkeep account thaw home anna@example.org`")
def thaw_account(name: InventoryName, address: Address, home: Home = None) -> None:
    """On the server: it may send and log in again. Says what is still held. Give it a new password first."""
    from mailkeep.operate import account_freeze

    for host, answer in account_freeze.thaw_account(find_inventory(name, home), address):
        out.print(f"{host}:\n{answer}", markup=False)


def _new_password(settings: Settings, address: str, generate: bool, check_breaches: bool) -> str:
    """A generated passphrase, or a typed password that is hard enough to guess. UserError for any other."""
    if generate:
        return passwords.generate_password()
    password = ask_secret(f"Password for {address}", confirm=True)
    passwords.check_password(password, address=address, domains=(*settings.domains, settings.host.name))
    if check_breaches and (breaches := passwords.count_breaches(password)):
        raise UserError(f"The password was seen {breaches} times in breaches; take another, or --generate one.")
    return password


def _show_once(name: str, address: str, outcome: str, passphrase: str) -> None:
    """The outcome, and the passphrase if one was generated."""
    if not passphrase:
        out.print(outcome, markup=False)
        return
    with passphrase_shown(name, address):
        out.print(f"{outcome}\nIts passphrase, shown once and kept nowhere:\n  {passphrase}", markup=False)
