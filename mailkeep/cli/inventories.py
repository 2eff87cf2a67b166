"""`mailkeep init`, `check`, `schema`: an inventory, before it reaches a server."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mailkeep.cli.common import Home, InventoryName, open_inventory, out, print_notes, showing_passphrase
from mailkeep.inventory import hosts
from mailkeep.locations import expand_home
from mailkeep_server.common.wording import count_noun

commands = typer.Typer()


@commands.command(
    "init",
    epilog="Example: `mailkeep init home --host mail.example.org --address 203.0.113.25 --admin you@example.org`",
)
def create_inventory(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The new inventory's name: it is created as inventories/NAME.")
    ],
    host: Annotated[
        str, typer.Option(metavar="NAME", help="The server's fully qualified name, such as mail.example.org.")
    ],
    address: Annotated[
        list[str],
        typer.Option(metavar="ADDRESS", help="A public IP address of the server; repeat it for IPv4 and IPv6."),
    ],
    admin: Annotated[
        list[str],
        typer.Option(metavar="ADDRESS", help="The mail address for reports and alerts; repeat it for several."),
    ],
    domain: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DOMAIN", help="A mail domain; repeat it for several. Default: the host name less its first label."
        ),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK", help="A network of yours that is never banned, such as 198.51.100.0/24; repeatable."
        ),
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The first account. Default: the first --admin in one of the domains, else postmaster.",
        ),
    ] = None,
    ssh_host: Annotated[
        str | None, typer.Option(metavar="[USER@]HOST", help="How SSH reaches the server. Default: the host name.")
    ] = None,
    home: Home = None,
) -> None:
    """Create an inventory: commented settings, keys, a first account. Overwrites nothing."""
    from mailkeep.inventory import create

    inventory = create.create_inventory(
        (expand_home(str(home)).resolve() if home else Path()) / hosts.INVENTORIES / name,
        host=host,
        addresses=address,
        admin=admin,
        domains=domain or (),
        networks=network or (),
        account=account,
        ssh_host=ssh_host,
    )
    with showing_passphrase(hosts.inventory_label(inventory.directory), inventory.account):
        out.print(f"Created {inventory.directory}/ with", markup=False)
        for line in inventory.keys:
            out.print(f"  {line}", markup=False)
        out.print("\nThe first account, and its passphrase, which is shown only now and stored nowhere:")
        out.print(f"  {inventory.account}\n  {inventory.passphrase}\n", markup=False)
    for line in inventory.next_steps:
        out.print(line, markup=False)


@commands.command("check", epilog="Example: `mailkeep check home`")
def check_inventory(name: InventoryName, home: Home = None) -> None:
    """Check mail.yml and the vault. Connects to no host."""
    from mailkeep.inventory import secrets
    from mailkeep.settings.advice import describe_own_senders

    directory, settings = open_inventory(name, home)
    secrets.load_secrets(settings, directory)
    counts = f"{count_noun(len(settings.accounts), 'account')}, {count_noun(len(settings.domains), 'domain')}"
    host_names = ", ".join(hosts.read_hosts(directory))
    out.print(f"{directory / hosts.SETTINGS_FILE}: valid. {counts}, for {host_names}.", markup=False)
    if own_senders := describe_own_senders(settings):
        out.print(own_senders, markup=False)
    for entry in secrets.list_unused(settings, directory):
        out.print(f"note: the vault holds {entry}, which mail.yml does not need", markup=False)
    print_notes(directory, settings)


@commands.command("schema", epilog="Example: `mailkeep schema > mail.schema.json`")
def print_schema() -> None:
    """Print the JSON Schema of mail.yml, for editors that check and complete it."""
    from mailkeep.settings.schema import build_json_schema

    print(json.dumps(build_json_schema(), indent=2))
