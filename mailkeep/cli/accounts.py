"""`mailkeep account …`: the accounts in mail.yml, and freezing them on the server."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mailkeep.cli.common import (
    Address,
    AsJson,
    Home,
    InventoryName,
    ask_secret,
    find_inventory,
    open_inventory,
    out,
    showing_passphrase,
)
from mailkeep.errors import UserError
from mailkeep.inventory import hosts

if TYPE_CHECKING:
    from mailkeep.settings.models import Settings

account = typer.Typer(
    no_args_is_help=True,
    help="Add, change, list, freeze and remove mail accounts.",
    epilog="Example: `mailkeep account add home anna@example.org --generate`, then `mailkeep deploy home`.",
)
commands = typer.Typer()
commands.add_typer(account, name="account")

Generate = Annotated[bool, typer.Option("--generate", help="Generate a passphrase, and show it once.")]
CheckBreaches = Annotated[
    bool,
    typer.Option(
        "--check-breaches", help="Ask Have I Been Pwned about the password. Five hex digits of its SHA-1 are sent."
    ),
]


@account.command("list", epilog="Example: `mailkeep account list home`")
def list_accounts(name: InventoryName, as_json: AsJson = False, home: Home = None) -> None:
    """List the accounts in mail.yml."""
    from mailkeep.settings import edit_accounts

    _, settings = open_inventory(name, home)
    rows = edit_accounts.list_accounts(settings)
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
        return
    cells = [("ADDRESS", "NAME", "QUOTA", "SENDS AS", "ALIASES")]
    cells += [(row.address, row.name, row.quota, ", ".join(row.send_as), ", ".join(row.aliases)) for row in rows]
    # No table, which would cut addresses to the width of the terminal, and in a pipe to 80 columns.
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row_cells in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row_cells, widths, strict=True)).rstrip())


@account.command("add", epilog="Example: `mailkeep account add home anna@example.org --quota 2G --generate`")
def add_account(
    name: InventoryName,
    address: Address,
    person: Annotated[str, typer.Option("--name", metavar="NAME", help="The person's name, for your records.")] = "",
    quota: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The mailbox's maximum size, such as 2G. Default: 1G.")
    ] = None,
    generate: Generate = False,
    check_breaches: CheckBreaches = False,
    home: Home = None,
) -> None:
    """Add an account to mail.yml. Asks for a password, or reads it from standard input. Then deploy."""
    from mailkeep.inventory import passwords
    from mailkeep.settings import edit_accounts

    directory, settings = open_inventory(name, home)
    label = hosts.inventory_label(directory)
    edit_accounts.check_account_is_new(directory / hosts.SETTINGS_FILE, settings.account_addresses, address)
    password = _new_password(settings, address, generate, check_breaches)
    password_hash = passwords.hash_password(password)
    edit_accounts.add_account(directory / hosts.SETTINGS_FILE, address, password_hash, person, quota)
    outcome = (
        f"{address} is in mail.yml. Run `mailkeep deploy {label}` to create the account on the server. Its owner sets "
        f"filters and out-of-office by ManageSieve: {settings.host.name}, port 4190 (docs/rules.md)."
    )
    _print_outcome(label, address, outcome, password if generate else "")


@account.command("passwd", epilog="Example: `mailkeep account passwd home anna@example.org`")
def change_password(
    name: InventoryName,
    address: Address,
    generate: Generate = False,
    from_host: Annotated[
        bool, typer.Option("--from-host", help="Take the one that `mailkeepctl passwd` has set on the server.")
    ] = False,
    check_breaches: CheckBreaches = False,
    home: Home = None,
) -> None:
    """Change an account's password in mail.yml. Asks for it, or reads it from standard input. Then deploy."""
    from mailkeep.inventory import passwords
    from mailkeep.settings import edit_accounts

    directory, settings = open_inventory(name, home)
    label = hosts.inventory_label(directory)
    edit_accounts.check_account_exists(directory / hosts.SETTINGS_FILE, settings.account_addresses, address)
    if from_host:
        from mailkeep.operate import account_freeze

        present = next(account.password for account in settings.accounts if account.address == address)
        changed = account_freeze.read_changed_hash(directory, address, present)
        edit_accounts.set_password(directory / hosts.SETTINGS_FILE, address, changed.password_hash)
        out.print(
            f"mail.yml has the password of {address} that was set on {changed.host}. Deploys go on.", markup=False
        )
        if changed.failures:
            print(f"Not asked, so a newer one may be there:\n{changed.failures}", file=sys.stderr)
        return
    password = _new_password(settings, address, generate, check_breaches)
    edit_accounts.set_password(directory / hosts.SETTINGS_FILE, address, passwords.hash_password(password))
    outcome = f"{address} has a new password in mail.yml. Run `mailkeep deploy {label}` to change it on the server."
    _print_outcome(label, address, outcome, password if generate else "")


@account.command("rename", epilog="Example: `mailkeep account rename home anna@example.org ann@example.org`")
def rename_account(
    name: InventoryName,
    address: Address,
    new_address: Annotated[str, typer.Argument(metavar="NEW", help="The account's new address, and login name.")],
    home: Home = None,
) -> None:
    """Give an account another address in mail.yml, and make the old one its alias. Then deploy, and move its mail."""
    from mailkeep.settings import edit_accounts

    directory = find_inventory(name, home)
    edit_accounts.rename_account(directory / hosts.SETTINGS_FILE, address, new_address)
    out.print(
        f"{address} is {new_address} in mail.yml, and an alias of it. Run `mailkeep deploy "
        f"{hosts.inventory_label(directory)}`, then on each server at once `mailkeepctl rename {address} "
        f"{new_address}`: it moves mailbox, counts and freeze. If it is frozen, run that before the deploy, too.",
        markup=False,
    )


@account.command("remove", epilog="Example: `mailkeep account remove home anna@example.org`")
def remove_account(name: InventoryName, address: Address, home: Home = None) -> None:
    """Remove an account from mail.yml. Then deploy. Its mail stays on the server."""
    from mailkeep.settings import edit_accounts

    directory = find_inventory(name, home)
    edit_accounts.remove_account(directory / hosts.SETTINGS_FILE, address)
    command = f"mailkeep deploy {hosts.inventory_label(directory)}"
    out.print(
        f"{address} is removed from mail.yml. Run `{command}` to end its login; its mail stays on the server.",
        markup=False,
    )


@account.command("freeze", epilog="Example: `mailkeep account freeze home anna@example.org --why 'sends spam'`")
def freeze_account(
    name: InventoryName,
    address: Address,
    why: Annotated[
        str, typer.Option(metavar="TEXT", help="The reason, for whoever looks into it later.")
    ] = "frozen by hand",
    home: Home = None,
) -> None:
    """Stop an account on the server at once: no mail, no login, sessions cut, queued mail held. No other account is
    affected."""
    from mailkeep.operate import account_freeze

    for answer in account_freeze.freeze_account(find_inventory(name, home), address, why):
        out.print(f"{answer.host}:\n{answer.text}", markup=False)


@account.command("thaw", epilog="Example: `mailkeep account thaw home anna@example.org`")
def thaw_account(name: InventoryName, address: Address, home: Home = None) -> None:
    """Let a frozen account send and log in again, and list its mail that is still held. Change its password first."""
    from mailkeep.operate import account_freeze

    for answer in account_freeze.thaw_account(find_inventory(name, home), address):
        out.print(f"{answer.host}:\n{answer.text}", markup=False)


def _new_password(settings: "Settings", address: str, generate: bool, check_breaches: bool) -> str:
    """A generated passphrase, or a typed password that is hard to guess. UserError for any other."""
    from mailkeep.inventory import passwords

    if generate:
        return passwords.generate_password()
    password = ask_secret(f"Password for {address}", confirm=True)
    passwords.check_password(password, address=address, domains=(*settings.domains, settings.host.name))
    if check_breaches and (breaches := passwords.count_breaches(password)):
        raise UserError(f"This password appears {breaches} times in known breaches. Choose another, or --generate one.")
    return password


def _print_outcome(label: str, address: str, outcome: str, passphrase: str) -> None:
    """The outcome, and the passphrase if one was generated."""
    if not passphrase:
        out.print(outcome, markup=False)
        return
    with showing_passphrase(label, address):
        out.print(f"{outcome}\nIts passphrase, shown only now and stored nowhere:\n  {passphrase}", markup=False)
