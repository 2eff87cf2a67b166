"""`mailkeep backup`, `restore`, `rebuild`: the server's mail, kept elsewhere and brought back."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailkeep.cli.common import (
    Address,
    AsJson,
    Home,
    InventoryName,
    find_inventory,
    open_inventory,
    out,
    print_progress,
)
from mailkeep.errors import UserError
from mailkeep.inventory import hosts
from mailkeep_server.common.backup_archives import MAX_FUTURE

if TYPE_CHECKING:
    from mailkeep.operate.backups import TargetReport
    from mailkeep.settings.models import Settings

commands = typer.Typer()

HOUR = 3600


@commands.command(
    "backup",
    epilog="Example: `mailkeep backup home --init`, then `mailkeep backup home`. docs/backup.md has the whole way.",
)
def back_up(
    name: InventoryName,
    init: Annotated[
        bool, typer.Option("--init", help="Make the keys, and the repositories at the targets; print what to keep.")
    ] = False,
    list_archives: Annotated[bool, typer.Option("--list", help="List the archives, their ages and sizes.")] = False,
    prove: Annotated[
        bool, typer.Option("--prove", help="Restore a random mailbox into a scratch place, and compare it.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete old archives, with borg on this machine and your own SSH key.")
    ] = False,
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Make a backup now, at all targets of mail.yml. It goes on if you interrupt this command.

    Exit code 1: a target has a fault, which the output names."""
    from mailkeep.operate import backups
    from mailkeep.parts.backup import PROOF, SERVICE

    directory, settings = open_inventory(name, home)
    backups.require_backup(settings, directory / hosts.SETTINGS_FILE)
    if sum((init, list_archives, prove, prune)) > 1:
        raise typer.BadParameter("--init, --list, --prove and --prune exclude each other")
    if init:
        _set_up(directory, settings)
        return
    if prune:
        _prune(directory, settings)
        return
    if list_archives:
        reports = [*backups.list_backups(directory)]
    else:
        reports = [*backups.run_unit(directory, PROOF if prove else SERVICE, print_progress)]
    if as_json:
        print(json.dumps([_as_json(report) for report in reports], indent=1))
    else:
        for report in reports:
            out.print("\n".join(_describe(report, every_archive=list_archives)), markup=False)
    # A backup that was made is no failure because an earlier proof was one.
    if any(report.faults if list_archives or prove else report.has_backup_failed for report in reports):
        raise typer.Exit(1)


def _prune(directory: Path, settings: "Settings") -> None:
    from mailkeep.operate import backups
    from mailkeep.operate.backup_pruning import prune_archives

    for report in prune_archives(settings, directory, print_progress):
        out.print(f"{report.target}: {len(report.deleted)} deleted, {len(report.kept)} kept", markup=False)
    if settings.backup and any(target.host is None for target in settings.backup_targets):
        results = [*backups.prune_local_archives(directory, settings.backup.keep)]
        for result in results:
            numbers = f"{result.deleted} deleted, {result.kept} kept"
            out.print(f"{result.target}: {result.fault or numbers}", markup=False)
        if any(result.fault for result in results):
            raise typer.Exit(1)


TargetName = Annotated[
    str, typer.Option("--target", metavar="NAME", help="The backup target in mail.yml. Default: the first.")
]


@commands.command(
    "restore",
    epilog="Examples: `mailkeep restore home anna@example.org --folder Archive --into Restored`; a single message: "
    "`mailkeep restore home anna@example.org --subject invoice --into Restored`.",
)
def restore_account(
    name: InventoryName,
    address: Address,
    folder: Annotated[str, typer.Option(metavar="F", help="This folder only, with . between its levels.")] = "",
    since: Annotated[str, typer.Option(metavar="DATE", help="Only mail that arrived since this day, YYYY-MM-DD.")] = "",
    subject: Annotated[str, typer.Option(metavar="TEXT", help="Only mail whose subject has this text.")] = "",
    message_id: Annotated[str, typer.Option(metavar="ID", help="Only the message with this Message-ID.")] = "",
    archive: Annotated[str, typer.Option(metavar="A", help="The archive, as --list shows it. Default: the last.")] = "",
    into: Annotated[
        str, typer.Option(metavar="FOLDER", help="Put it below this folder. Default: each message in its own place.")
    ] = "",
    target: TargetName = "",
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Bring back mail of one account from a backup. What is still there does not come twice; the user may be logged in.

    Exit code 1: an error; or Dovecot refused a message, which the output names."""
    from mailkeep.operate import mail_restore

    directory = find_inventory(name, home)
    selection = mail_restore.MailSelection(address, target, archive, folder, since, subject, message_id, into)
    report = mail_restore.restore_mail(directory, selection, print_progress)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        out.print(f"From {report['archive']}:", markup=False)
        for name_in_account, counts in report["folders"].items():
            counted = f"{counts['restored']} restored, {counts['present']} were there"
            out.print(f"  {name_in_account}: {counted}", markup=False)
        for line in report["refused"] or ([] if report["folders"] else ["No message of this archive fits."]):
            out.print(f"  {line}", markup=False)
    if report["refused"]:
        raise typer.Exit(1)


@commands.command(
    "rebuild",
    epilog="Example: with the new machine's addresses in mail.yml, `mailkeep rebuild home`. docs/rebuild.md has the "
    "whole way.",
)
def rebuild_server(
    name: InventoryName,
    from_archive: Annotated[
        str,
        typer.Option(metavar="A", help="The archive, as `backup --list` shows it. Default: the last."),
    ] = "",
    target: TargetName = "",
    from_host: Annotated[
        str,
        typer.Option("--from", metavar="HOST", help="The old machine, as SSH reaches it: it still runs. No backup."),
    ] = "",
    home: Home = None,
) -> None:
    """From a bare Debian machine and a backup to the server with its mail: deploy, restore, compare, verify.

    Run it again after an interruption: it goes on where it ended. Exit code 1: an error, or a check failed."""
    from mailkeep.cli.deploy import refuse_nameless_user, run_pyinfra
    from mailkeep.host.deployment import Options
    from mailkeep.inventory import secrets
    from mailkeep.operate import backups, mail_restore
    from mailkeep.verify.verification import verify_and_report

    directory, settings = open_inventory(name, home)
    refuse_nameless_user()
    if from_host:
        if from_archive or target:
            raise typer.BadParameter("--from takes the mail from the old machine, and no backup")
        _rebuild_from(directory, settings, from_host)
        return
    backups.require_backup(settings, directory / hosts.SETTINGS_FILE)
    secrets.load_secrets(settings, directory)
    run_pyinfra(directory, Options(allow_older=True), as_json=False)
    record = mail_restore.rebuild_mail(directory, target, from_archive, print_progress)
    count = sum(record["accounts"].values())
    out.print(
        f"{count} messages of {len(record['accounts'])} accounts are back, each compared with {record['archive']}.",
        markup=False,
    )
    passed = verify_and_report(directory)
    out.print(AFTER_REBUILD.format(label=hosts.inventory_label(directory)), markup=False)
    if not passed:
        raise typer.Exit(1)


def _rebuild_from(directory: Path, settings: "Settings", from_host: str) -> None:
    from mailkeep.cli.moving_house import carry_out
    from mailkeep.moving_house.server_move import ServerMove, read_public_addresses

    if settings.host.forwarded_from:
        raise UserError("The last move is not at its end: `mailkeep move` with --finish or --undo comes first.")
    name, data = hosts.read_only_host(directory)
    user, _, host = from_host.rpartition("@")
    old = {key: value for key, value in data.items() if key not in ("ssh_hostname", "ssh_port")}
    old |= {"ssh_user": user} if user else {}
    addresses = settings.host.addresses
    draft = ServerMove(directory, name, old, data, addresses, (), renames=False, old_name=host)
    old_addresses = [address for address in read_public_addresses(draft.connect_old()) if address not in addresses]
    carry_out(replace(draft, old_addresses=old_addresses))


AFTER_REBUILD = """\
What only you can do now:
- `mailkeep dns {label}` prints the records: change A and AAAA where your domain's DNS is, if the addresses are new.
- Set the reverse DNS of the addresses at your hoster; `mailkeep dns {label} --check` tells when all is right.
- If the old machine still runs: `postqueue -p` there shows mail on its way. Let it leave, then wipe the disk."""


def _set_up(directory: Path, settings: "Settings") -> None:
    """Keys first; the repositories as soon as the server can reach its targets."""
    from mailkeep.operate import backups

    label = hosts.inventory_label(directory)
    new_keys = backups.create_keys(directory)
    for line in new_keys:
        out.print(f"Made and stored in the vault: {line}", markup=False)
    for place, line in backups.list_authorized_keys(settings, directory):
        out.print(f"\nOn {place}, put this line into ~/.ssh/authorized_keys (one line):\n\n{line}\n", markup=False)
    if new_keys:
        out.print(f"Next: `mailkeep deploy {label}`, then `mailkeep backup {label} --init` once more.", markup=False)
        return
    results = [*backups.create_repositories(directory)]
    for result in results:
        if result.fault:
            out.print(f"{result.host}, {result.target}: {result.fault}", markup=False)
            continue
        state = "a new repository" if result.is_new else "the repository is there already"
        out.print(f"{result.host}, {result.target}: {state}.\n\n{result.key}", markup=False)
    if any(result.fault for result in results):
        raise UserError(f"Mend what is named above, then run `mailkeep backup {label} --init` again.")
    out.print(RECOVERY_NOTE.format(label=label), markup=False)


RECOVERY_NOTE = """\
Keep on paper, or in another safe place away from the server:
- the age identity of this inventory, without which nobody opens its vault: `mailkeep init` showed where it is;
- a copy of the inventory (it is safe to keep in git);
- the key above. It helps if the key in the repository is damaged; it needs the passphrase, which is in the vault.
With these and a target, `mailkeep rebuild {label}` makes the server anew, with its mail.
Now make the first backup: `mailkeep backup {label}`."""


def _describe(report: "TargetReport", *, every_archive: bool) -> list[str]:
    lines = [f"{report.host}, {report.target} ({report.repository}): {report.size / 2**20:.0f} MB"]
    archives = report.archives if every_archive else report.archives[-1:]
    lines += [f"  {archive}  {_describe_age(time)}" for archive, time in archives] or ["  no archive"]
    proved = (
        f"proven {_describe_age(datetime.fromtimestamp(report.proved, UTC))}" if report.proved else "not proven yet"
    )
    return [*lines, f"  {proved}", *(f"  FAULT: {fault}" for fault in report.faults)]


def _describe_age(time: datetime) -> str:
    hours = (datetime.now(UTC) - time).total_seconds() / HOUR
    if hours * HOUR < -MAX_FUTURE:
        return "dated later than now: a clock was or is wrong"
    if hours < 1:
        return f"{max(hours, 0) * 60:.0f} minutes ago"
    return f"{hours:.0f} hours ago" if hours < 48 else f"{hours / 24:.0f} days ago"


def _as_json(report: "TargetReport") -> dict[str, object]:
    archives = [{"name": archive, "time": time.isoformat()} for archive, time in report.archives]
    return {**vars(report), "archives": archives}
