"""Backups of the servers of an inventory: set up, made now, listed, proven."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import Any

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, for_each_host, last_line
from mailkeep.inventory.backup_keys import create_backup_keys, read_backup_keys
from mailkeep.inventory.vault import open_vault, open_vault_to_write
from mailkeep.parts import backup
from mailkeep.parts.server_package import PYTHON
from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings
from mailkeep.settings.sections import Keep
from mailkeep_server.common import paths

ShowProgress = Callable[[str], None]


@dataclass(frozen=True)
class TargetReport:
    """What a server says of one target. Times in seconds since the epoch, 0: never; sizes in bytes. `faults` are of
    the last backup and of the last proof; `has_backup_failed` is about that backup alone."""

    host: str
    target: str
    repository: str
    archives: tuple[tuple[str, datetime], ...]
    size: int
    succeeded: float
    proved: float
    faults: tuple[str, ...]
    has_backup_failed: bool


@dataclass(frozen=True)
class NewRepository:
    """`key` is the text to keep on paper; empty, with a fault, if the target could not be prepared."""

    host: str
    target: str
    is_new: bool
    key: str
    fault: str


@dataclass(frozen=True)
class PruneResult:
    """Numbers of archives at a target. With a `fault`, nothing was deleted."""

    target: str
    deleted: int
    kept: int
    fault: str = ""


def create_keys(inventory: Path) -> list[str]:
    """The keys in the vault; a line for each that was lacking. UserError if this user cannot open the vault."""
    return create_backup_keys(open_vault_to_write(inventory))


def list_authorized_keys(settings: Settings, inventory: Path) -> Iterator[tuple[str, str]]:
    """Of each target elsewhere, `USER@HOST` and the line for its authorized_keys."""
    keys = read_backup_keys(open_vault(inventory))
    for target in settings.backup_targets:
        if target.host:
            yield f"{target.user}@{target.host}", backup.build_authorized_key(target, keys)


def require_backup(settings: Settings, settings_file: Path) -> None:
    """UserError unless mail.yml has `backup`."""
    if not settings.backup_targets:
        raise UserError(
            f"{settings_file}: it has no `backup`. Add a target, such as `backup: {{targets: [{{name: disk, path: "
            "/srv/backup/mail}]}`; docs/backup.md has others."
        )


def create_repositories(inventory: Path) -> Iterator[NewRepository]:
    """Makes the repositories that are not there. Raises UserError after the last host if one is not ready for it."""

    def create(remote: RemoteHost) -> list[NewRepository]:
        results = _run_backup(remote, "init")
        return [
            NewRepository(remote.name, name, result["new"], result["key"], result["fault"])
            for name, result in results.items()
        ]

    for results in for_each_host(inventory, create):
        yield from results


def list_backups(inventory: Path) -> Iterator[TargetReport]:
    for reports in for_each_host(inventory, _read_reports):
        yield from reports


def run_unit(inventory: Path, unit: str, show_progress: ShowProgress) -> Iterator[TargetReport]:
    """Starts a unit of the backup on all hosts, waits until it has ended, and reports. The unit goes on when this
    program ends before it."""

    def run(remote: RemoteHost) -> list[TargetReport]:
        follow_unit(remote, unit, lambda text: show_progress(f"{remote.name}: {text}"))
        reports = _read_reports(remote)
        result = remote.run(f"systemctl show --property=Result --value {quote(unit)}").stdout.strip()
        if result != "success" and not any(report.faults for report in reports):
            raise UserError(f"{unit} ended before its end ({result}): `journalctl -u {unit}` there says why")
        return reports

    for reports in for_each_host(inventory, run):
        yield from reports


def prune_local_archives(inventory: Path, keep: Keep) -> Iterator[PruneResult]:
    """On disks of the servers themselves."""

    def prune(remote: RemoteHost) -> list[PruneResult]:
        results = _run_backup(remote, "prune", *(f"--{unit}={count}" for unit, count in keep.model_dump().items()))
        return [
            PruneResult(name, result["deleted"], result["kept"], result["fault"]) for name, result in results.items()
        ]

    for results in for_each_host(inventory, prune):
        yield from results


def follow_unit(remote: RemoteHost, unit: str, show_progress: ShowProgress) -> None:
    """Starts a unit unless it runs, and returns when it has ended. Raises UserError if it cannot start."""
    require_backups(remote)
    done = remote.run_mailkeep(f"systemctl start --no-block {quote(unit)}")
    if done.rc:
        raise UserError(last_line(done))
    wait_for_unit(remote, unit, show_progress)


def wait_for_unit(remote: RemoteHost, unit: str, show_progress: ShowProgress) -> None:
    progress: dict[str, Any] = {"running": True, "progress": ""}
    while progress["running"]:
        last = progress["progress"]
        done = remote.run_mailkeep(f"{PYTHON} backup wait {quote(unit)} --last {quote(last)}")
        try:
            progress = json.loads(done.stdout)
        except ValueError:
            raise UserError(last_line(done)) from None
        if progress["progress"] not in ("", last):
            show_progress(progress["progress"])


def _read_reports(remote: RemoteHost) -> list[TargetReport]:
    return [
        TargetReport(
            remote.name,
            name,
            result["repository"],
            tuple((archive["name"], datetime.fromisoformat(archive["time"])) for archive in result["archives"]),
            result["size"],
            result["succeeded"],
            result["proved"],
            tuple(_list_faults(result["fault"], result["proof_fault"])),
            bool(result["fault"]),
        )
        for name, result in _run_backup(remote, "list").items()
    ]


def _list_faults(fault: str, proof_fault: str) -> Iterator[str]:
    """A proof's fault is known until the next proof, whatever backups are made meanwhile."""
    if fault:
        yield fault
    if proof_fault:
        yield f"in the last proof: {proof_fault}"


def _run_backup(remote: RemoteHost, *words: str) -> Any:
    """The JSON that a command of the server's backup prints. Raises UserError with its words if there is none."""
    require_backups(remote)
    done = remote.run_mailkeep(f"{PYTHON} backup {' '.join(map(quote, words))}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise UserError(last_line(done)) from None


def require_backups(remote: RemoteHost) -> None:
    """UserError where the last deploy has set up no backups."""
    require_backup(load_settings(remote.settings_file), remote.settings_file)
    if remote.run(f"test -e {paths.BACKUP_ETC}/config.json").rc:
        raise UserError(f"no backups are set up there yet: run `mailkeep deploy {remote.inventory_label}` first.")
