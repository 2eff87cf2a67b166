"""Old archives are deleted from the operator's machine: the mail server itself may only add.

An intruder on the server can ask borg to delete archives. In an append-only repository they are all still there, until
somebody with more rights compacts it. So nothing is deleted here before each archive that was seen last time is there.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mailkeep.atomic_file import write_atomically
from mailkeep.errors import UserError
from mailkeep.inventory.backup_keys import read_backup_keys
from mailkeep.inventory.vault import open_vault
from mailkeep.parts.backup import build_repository_url
from mailkeep.settings.models import Settings
from mailkeep.settings.sections import BackupTarget, Keep
from mailkeep_server.common.backup_archives import NAME_GLOB, Archive, find_clock_fault, select_archives
from mailkeep_server.common.borg_faults import (
    LOCK_WAIT,
    WARNINGS,
    Message,
    ask_ssh,
    explain_failure,
    is_connection_fault,
    read_messages,
    shorten_text,
)

RECORD = "backups.json"
"""In the inventory: the archives of each target as they were seen last. It belongs into git."""
TIMEOUT = 6 * 3600  # seconds


@dataclass(frozen=True)
class PruneReport:
    target: str
    deleted: tuple[str, ...]
    kept: tuple[str, ...]


def prune_archives(settings: Settings, inventory: Path, show_progress: Callable[[str], None]) -> list[PruneReport]:
    """At each target that is on another machine. Raises UserError, and then leaves that target as it is."""
    if settings.backup is None:
        raise UserError("mail.yml has no `backup`.")
    others = [target for target in settings.backup_targets if target.host]
    if others and not shutil.which("borg"):
        raise UserError("This needs borg on this machine: install the package borgbackup, then run it again.")
    passphrase = read_backup_keys(open_vault(inventory)).passphrase
    seen, reports = _read_record(inventory / RECORD), []
    for target in others:
        show_progress(target.name)
        borg = OperatorsBorg(target, passphrase)
        archives = borg.list_archives(settings.host.name)
        before = [archive.name for archive in archives]
        if missing := [name for name in seen.get(target.name, ()) if name not in before]:
            raise UserError(
                f"{target.name}: {len(missing)} archives are gone that were there last time, the newest is "
                f"{missing[-1]}. Nobody but you may delete any, so nothing is deleted now: they can still be brought "
                f"back. See docs/backup.md, An intruder. If you have deleted them, remove {target.name} from "
                f"{inventory / RECORD}."
            )
        if fault := find_clock_fault(archives, seen.get(target.name, ())):
            raise UserError(f"{target.name}: {fault}.")
        borg.prune(settings.backup.keep, settings.host.name)
        kept = [archive.name for archive in borg.list_archives(settings.host.name)]
        seen[target.name] = kept
        write_atomically(inventory / RECORD, f"{json.dumps(seen, indent=1)}\n".encode())
        reports.append(PruneReport(target.name, tuple(name for name in before if name not in kept), tuple(kept)))
    return reports


class OperatorsBorg:
    """borg on this machine, which reaches the target by the operator's own SSH keys. Raises UserError."""

    def __init__(self, target: BackupTarget, passphrase: str) -> None:
        self.target, self.repository, self._passphrase = target, build_repository_url(target), passphrase

    def list_archives(self, host: str) -> list[Archive]:
        """Of this server, from the oldest to the newest by their date."""
        output = json.loads(self._run("list", "--json", "--format={start}", self.repository))
        # borg prints local times, without their zone.
        archives = [
            Archive(archive["archive"], datetime.fromisoformat(archive["start"]).astimezone(UTC))
            for archive in output["archives"]
        ]
        return select_archives(archives, host)

    def prune(self, keep: Keep, host: str) -> None:
        bounds = [f"--keep-{unit}={count}" for unit, count in keep.model_dump().items()]
        self._run("prune", f"--glob-archives={host}-{NAME_GLOB}", *bounds, self.repository)
        self._run("compact", self.repository)

    def _run(self, *arguments: str) -> str:
        environment = os.environ | {
            "BORG_PASSPHRASE": self._passphrase,
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "no",
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "no",
        }
        command = ["borg", "--log-json", "--lock-wait", str(LOCK_WAIT), *arguments]
        done = subprocess.run(command, capture_output=True, check=False, env=environment, timeout=TIMEOUT)
        if done.returncode not in (0, 1, *WARNINGS):  # 1: a warning, of a borg that has no modern exit codes
            messages = [*read_messages(done.stderr.splitlines())]
            raise UserError(f"{self.target.name}: {self._explain(messages, done.returncode)}")
        return done.stdout.decode()

    def _explain(self, messages: list[Message], code: int) -> str:
        if not is_connection_fault(messages) and messages[-1:] and messages[-1][0] != "PathNotAllowed":
            return f"{explain_failure(messages, code, self.repository)}."
        # The sentences of `explain_failure` are about the server's key. ssh says what is wrong with the operator's.
        of_ssh = [text for msgid, text in (*ask_ssh(self.repository), *messages) if text and not msgid]
        reason = shorten_text(of_ssh[-1] if of_ssh else messages[-1][1]) if messages else f"borg ended with {code}"
        return (
            f"{reason.rstrip('.')}. Your own SSH key must let you in as {self.target.user} on {self.target.host}, "
            "without the restrictions of the server's key."
        )


def _read_record(file: Path) -> dict[str, list[str]]:
    try:
        record: dict[str, list[str]] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{file}: it is no JSON ({error}). Restore it from git.") from None
    return record
