"""Mail brought back from a backup: of one account, or all of it on a new machine."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, UnreachableError, last_line
from mailkeep.inventory.hosts import read_only_host
from mailkeep.operate.backups import require_backups, wait_for_unit
from mailkeep.parts.server_package import PYTHON

ShowProgress = Callable[[str], None]

RESTORE_UNIT, REBUILD_UNIT = "mailkeep-restore.service", "mailkeep-rebuild.service"
PROPERTIES = ("Nice=10", "IOSchedulingClass=best-effort", "IOSchedulingPriority=7", "MemoryHigh=300M")


@dataclass(frozen=True)
class MailSelection:
    """What to restore; empty texts restrict nothing. `since` is YYYY-MM-DD."""

    account: str
    target: str = ""
    archive: str = ""
    folder: str = ""
    since: str = ""
    subject: str = ""
    message_id: str = ""
    into: str = ""


def restore_mail(inventory: Path, selection: MailSelection, show_progress: ShowProgress) -> Mapping[str, Any]:
    """Returns the report of the server (`mailkeep_server.backup.restore.RestoreReport`). Raises UserError."""
    options = {name.replace("_", "-"): value for name, value in vars(selection).items() if value and name != "account"}
    words = ["restore", selection.account, *(f"--{name}={value}" for name, value in options.items())]
    return _run_transient(RemoteHost(*read_only_host(inventory)), RESTORE_UNIT, words, show_progress)


def rebuild_mail(inventory: Path, target: str, archive: str, show_progress: ShowProgress) -> Mapping[str, Any]:
    """Puts mail and state of an archive on the deployed machine. Returns the server's record
    (`mailkeep_server.backup.rebuild.RebuildRecord`). Raises UserError."""
    words = ["rebuild", *([f"--target={target}"] if target else []), *([f"--archive={archive}"] if archive else [])]
    return _run_transient(RemoteHost(*read_only_host(inventory)), REBUILD_UNIT, words, show_progress)


def _run_transient(remote: RemoteHost, unit: str, words: list[str], show_progress: ShowProgress) -> Mapping[str, Any]:
    """Runs a command of the server's backup as a unit of its own: it goes on when this program ends before it."""
    try:
        require_backups(remote)
        properties = " ".join(f"--property={quote(text)}" for text in PROPERTIES)
        command = " ".join(map(quote, [*PYTHON.split(), "backup", *words]))
        if remote.run(f"systemctl is-active --quiet {unit}").rc:
            done = remote.run_mailkeep(f"systemd-run --quiet --collect --unit={unit} {properties} {command}")
            if done.rc:
                raise UserError(last_line(done))
        else:
            show_progress("It runs already; waiting for its end.")
        wait_for_unit(remote, unit, show_progress)
        result: dict[str, Any] = json.loads(remote.run_mailkeep(f"{PYTHON} backup result {words[0]}").stdout)
    except UnreachableError as error:
        raise UserError(f"{remote.name}: {error}. {error.remedy}") from None
    except ValueError:
        raise UserError(f"{remote.name}: `journalctl -u {unit}` says why there is no result.") from None
    if result["error"]:
        raise UserError(f"{remote.name}: {result['error']}.")
    return result
