"""`mailkeep inspect`, `import` and `un-adopt`: from an old server into ours, and back."""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from mailkeep.cli.common import Address, AsJson, Home, InventoryName, ask_agreement, ask_secret, open_inventory, out
from mailkeep.errors import UserError
from mailkeep.inventory import hosts
from mailkeep.locations import expand_home

commands = typer.Typer()

PASSWORD_VARIABLE = "IMAP_PASSWORD"  # noqa: S105 - its name


@commands.command("inspect", epilog="Example: `mailkeep inspect root@old.example.org --name home`")
def inspect_server(
    host: Annotated[str, typer.Argument(metavar="[USER@]HOST", help="The old server, as SSH reaches it.")],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="The new inventory's name. Default: HOST.", show_default=False)
    ] = "",
    to: Annotated[
        str,
        typer.Option(
            metavar="[USER@]HOST",
            help="The new server, as SSH reaches it; HOST again, if it is the same machine. Default: a TODO in "
            "inventory.py.",
            show_default=False,
        ),
    ] = "",
    address: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="A public IP address of the new server; repeatable. Default: a TODO."),
    ] = None,
    ssh_config: Annotated[
        str, typer.Option(metavar="FILE", help="Another configuration of ssh than yours (`ssh -F`).")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts, and write nothing.")] = False,
    home: Home = None,
) -> None:
    """Read an old mail server over SSH, change nothing on it, and write the draft of an inventory from it."""
    from mailkeep.inventory import create, vault
    from mailkeep.moving_in import inspection, new_inventory, remote_reader, report, weak_passwords

    target = (
        (expand_home(str(home)).resolve() if home else Path())
        / hosts.INVENTORIES
        / (name or create.parse_ssh_host(host)[1])
    )
    if not as_json:
        create.check_target(target, vault.identity_path(target))
        out.print(f"Reading {host}, which takes a minute or so for each million messages.", markup=False)
    observed = remote_reader.read_server(host, ssh_config)
    if not as_json:
        minutes = f"{weak_passwords.MAX_SECONDS / 60:.0f} minutes"
        out.print(f"Trying common passwords against the hashes, which takes {minutes} at most.\n", markup=False)
    inspected = inspection.inspect_observed(observed)
    if as_json:
        print(json.dumps(report.describe_as_data(inspected, host), indent=2))
        return
    for line in report.format_inspection(inspected, host):
        out.print(line, markup=False)
    text = new_inventory.make_draft(inspected, host, date.today(), address or [], is_same_machine=to == host)
    keys = new_inventory.write_new_inventory(target, text, to, inspected, date.today())
    for line in new_inventory.describe_outcome(target, text, keys, inspected, host, is_host_known=bool(to)):
        out.print(line, markup=False)


@commands.command(
    "import",
    epilog="Examples:\n\n"
    "`mailkeep import home anna@example.org --from ssh://root@old.example.org/home/anna/Maildir`\n\n"
    "`mailkeep import home anna@example.org --from ssh://root@old.example.org/var/mail/anna`\n\n"
    "`mailkeep import home anna@example.org --from imaps://anna@imap.example.net --dry-run`\n\n"
    "Exit codes: 0: all is here, and equal. 1: differences, or an error, which the message explains. 2: wrong "
    "arguments. 3: the source cannot be reached or read, or refuses the login. 4: quota or disk have no room. 130: "
    "interrupted. After each of them, the same command goes on from where it ended.",
)
def import_mail(
    name: InventoryName,
    address: Address,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="ssh://[USER@]HOST[:PORT]/PATH: a Maildir, dbox directory, mbox file or directory of them; /~/PATH "
            "is below the login's home. Or imaps://USER@HOST[:PORT].",
        ),
    ],
    password_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"For imaps://: a file with the password, or with a line {PASSWORD_VARIABLE}=…. Default: it is asked "
            "for, or read from standard input.",
        ),
    ] = None,
    certificate: Annotated[
        str,
        typer.Option(metavar="SHA256", help="For imaps://: accept the certificate with this hash, whoever signed it."),
    ] = "",
    ssh_config: Annotated[
        str, typer.Option(metavar="FILE", help="For ssh://: another configuration of ssh than yours (`ssh -F`).")
    ] = "",
    host: Annotated[str, typer.Option(metavar="HOST", help="The server, if the inventory has several.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what is there; copy nothing.")] = False,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Copy a mailbox of another server into an account, with folders, flags, dates and where possible UIDs; then
    compare each message. Nothing changes on the other server. Run twice, it copies nothing twice."""
    from mailkeep.host.remote import RemoteHost
    from mailkeep.moving_in import copy_mail
    from mailkeep.moving_in.copy_address import parse_source
    from mailkeep.moving_in.copy_model import CopyError
    from mailkeep.moving_in.copy_report import ProgressLine
    from mailkeep.settings import edit_accounts

    directory, settings = open_inventory(name, home)
    edit_accounts.check_account_exists(directory / hosts.SETTINGS_FILE, settings.account_addresses, address)
    source_address = parse_source(source)
    server, data = _choose_host(directory, host)
    password = ""
    if source_address.scheme == "imaps":
        password = _read_password(password_file, f"Password of {source_address.user} at {source_address.host}")
    progress = ProgressLine()
    try:
        report = copy_mail.import_mail(
            RemoteHost(server, data),
            address,
            source_address,
            password=password,
            certificate=certificate,
            ssh_config=ssh_config,
            message_size=settings.message_size,
            dry_run=dry_run,
            progress=progress,
        )
    except CopyError as error:
        progress.clear()
        print(error, file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    progress.clear()
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        out.print(report.describe_plan() if dry_run else report.describe(), markup=False)
    if report.differences:
        raise typer.Exit(1)


@commands.command(
    "un-adopt",
    epilog="Example: `mailkeep un-adopt home`. docs/first-server.md says what comes back, and what stays.",
)
def un_adopt(
    name: InventoryName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    host: Annotated[str, typer.Option(metavar="HOST", help="The server, if the inventory has several.")] = "",
    home: Home = None,
) -> None:
    """Go back from a Mailkeep server to what the machine had before the first deploy. Mail stays where it is.

    It says what it will do, and asks. Run it again after an interruption: it goes on. Exit code 1: an error, or
    something did not come back yet."""
    from mailkeep.host.remote import RemoteHost
    from mailkeep.inventory import secrets
    from mailkeep.operate import un_adopt as way_back
    from mailkeep.parts import mail_server

    directory, settings = open_inventory(name, home)
    server, data = _choose_host(directory, host)
    parts = mail_server.build_parts(settings, secrets.load_secrets(settings, directory))
    un_adoption = way_back.UnAdoption(RemoteHost(server, data), parts)
    way = un_adoption.look()
    if not way.done:
        for line in way_back.describe_before(server, way):
            out.print(line, markup=False)
        if not yes:
            ask_agreement(f"Type the name of the host, {server}, to go back", server)
        way = un_adoption.go()
    for line in way_back.describe_after(server, way):
        out.print(line, markup=False)
    if way.failed:
        raise typer.Exit(1)


def _choose_host(directory: Path, name: str) -> tuple[str, dict[str, object]]:
    """UserError if the inventory has several hosts, and none is named."""
    known = hosts.read_hosts(directory)
    if name and name not in known:
        raise UserError(f"--host {name}: the inventory has no such host. It has {', '.join(known)}.")
    if not name and len(known) > 1:
        raise UserError(f"The inventory has several hosts. Say which you mean: --host {' or --host '.join(known)}.")
    name = name or next(iter(known))
    return name, known[name]


def _read_password(file: Path | None, question: str) -> str:
    if not file:
        return ask_secret(question)
    lines = file.read_text().splitlines()
    named = [line.partition("=")[2] for line in lines if line.startswith(f"{PASSWORD_VARIABLE}=")]
    password = (named or lines or [""])[0].strip()
    if not password:
        raise UserError(f"{file}: there is no password in its first line, nor a line {PASSWORD_VARIABLE}=….")
    return password
