"""`mailkeep init`, `check`, `schema`: an inventory before it reaches a server."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mailkeep.cli.common import Home, InventoryName, count_of, open_inventory, out, passphrase_shown, print_notes
from mailkeep.inventory import hosts, secrets
from mailkeep.locations import expand_home
from mailkeep.settings.schema import build_json_schema

commands = typer.Typer()


@commands.command(
    epilog="Example: `mailkeep init home --host mail.example.org --address 203.0.113.25 --admin you@example.org`"
)
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it: makes inventories/NAME.")],
    host: Annotated[str, typer.Option(help="The server's fully qualified name, such as mail.example.org.")],
    address: Annotated[list[str], typer.Option(help="A public address of the server; repeat for IPv4 and IPv6.")],
    admin: Annotated[list[str], typer.Option(help="Where reports and alarms go; repeat for several.")],
    domain: Annotated[list[str] | None, typer.Option(help="A mail domain. Default: the host name's.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="A network of yours that is never banned.")] = None,
    account: Annotated[str | None, typer.Option(help="The first account. Default: the admin, or postmaster.")] = None,
    ssh_host: Annotated[str | None, typer.Option(help="[USER@]HOST for SSH. Default: the host name.")] = None,
    home: Home = None,
) -> None:
    """Make a new inventory: commented settings, keys, a first account. Overwrites nothing."""
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
    with passphrase_shown(name, inventory.account):
        out.print(f"Made {inventory.directory}/ with")
        for line in inventory.keys:
            out.print(f"  {line}", markup=False)
        out.print(
            f"\nThe first account, shown once and kept nowhere:\n  {inventory.account}\n  {inventory.passphrase}\n",
            markup=False,
        )
    for line in inventory.next_steps:
        out.print(line, markup=False)


@commands.command(epilog="Example: `mailkeep check home`")
def check(name: InventoryName, home: Home = None) -> None:
    """Check mail.yml and the vault without touching the host."""
    directory, settings = open_inventory(name, home)
    secrets.load_secrets(settings, directory)
    counts = f"{count_of(len(settings.accounts), 'account')}, {count_of(len(settings.domains), 'domain')}"
    host_names = ", ".join(hosts.read_hosts(directory))
    out.print(f"{directory / hosts.SETTINGS_FILE}: good. {counts}, for {host_names}.", markup=False)
    for entry in secrets.list_unused(settings, directory):
        out.print(f"note: the vault has {entry}, which mail.yml has no use for", markup=False)
    print_notes(directory)


@commands.command(epilog="Example: `mailkeep schema > mail.schema.json`")
def schema() -> None:
    """Print the JSON Schema of mail.yml, for editors that complete it."""
    print(json.dumps(build_json_schema(), indent=2))
