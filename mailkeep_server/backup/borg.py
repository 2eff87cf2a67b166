"""borg(1), and what its errors mean."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from mailkeep_server.backup import config
from mailkeep_server.backup.config import Target

LOCK_WAIT = 600  # seconds; another run, or the operator's pruning
ENVIRONMENT = {
    "BORG_PASSCOMMAND": f"cat {config.PASSPHRASE}",
    "BORG_RSH": f"ssh -F {config.SSH_CONFIG}",
    "BORG_BASE_DIR": str(config.STATE),
    "BORG_EXIT_CODES": "modern",
    "BORG_RELOCATED_REPO_ACCESS_IS_OK": "no",
    "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "no",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
}
WARNINGS = range(100, 128)
"""Modern exit codes of what is done, with something to say."""
EXPLANATIONS = {
    "Repository.DoesNotExist": "there is no repository. If it was there before, it has been deleted. For a new target, "
    "run `mailkeep backup NAME --init`",
    "Repository.AlreadyExists": "there is a repository already",
    "Repository.InvalidRepository": "what is there is no repository of borg's",
    "Repository.PathPermissionDenied": "its directory cannot be read or written",
    "Repository.ParentPathDoesNotExist": "the directory above it does not exist",
    "Repository.InsufficientFreeSpaceError": "the disk there is full",
    "Repository.StorageQuotaExceeded": "its quota is used up",
    "Repository.CheckNeeded": "it is damaged: run `borg check --repair` there, once you know why",
    "Repository.ObjectNotFound": "a part of it is missing",
    "PassphraseWrong": "the passphrase is wrong, or its key was changed",
    "PasscommandFailure": f"{config.PASSPHRASE} cannot be read. A deploy restores it",
    "KeyfileInvalidError": "its key was changed",
    "KeyfileNotFoundError": "its key is missing",
    "RepoKeyNotFoundError": "its key is missing",
    "LockTimeout": "another program has used it for ten minutes. If none runs, `borg break-lock` there frees it",
    "LockFailed": "it cannot be locked: its directory cannot be written",
    "ConnectionClosed": "the connection has ended",
    "ConnectionClosedWithHint": "the connection has ended, or was refused",
    "UnexpectedRPCDataFormatFromServer": "the other side does not speak borg's protocol",
    "InvalidRPCMethod": "the borg of the other side is too old",
    "IntegrityError": "its data are damaged",
    "FileIntegrityError": "its data are damaged",
    "DecompressionError": "its data are damaged",
    "Archive.DoesNotExist": "it has no archive of this name",
    "Cache.RepositoryReplay": "it is older than it was at the last backup: somebody has put back an older copy",
    "Cache.RepositoryIDNotUnique": "it is a copy of another repository",
    "Cache.EncryptionMethodMismatch": "its encryption was changed",
    "NoManifestError": "its list of archives is missing or damaged",
    "RepositoryAccessAborted": "it is another repository than at the last backup: it was moved or replaced",
}


class BackupError(Exception):
    """A sentence that says what is wrong with a target, without its name."""


@dataclass(frozen=True)
class Archive:
    name: str
    time: datetime  # UTC

    @property
    def age(self) -> float:
        """Hours."""
        return (datetime.now(UTC) - self.time).total_seconds() / 3600


class Repository:
    """One target. Every method raises BackupError."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def create(self) -> None:
        """Makes an empty repository, encrypted, whose key lies in it and is opened by the passphrase. On another
        machine it is append-only."""
        options = ("--append-only",) if self.target.is_remote else ("--make-parent-dirs",)
        self._run("init", "--encryption=repokey-blake2", *options, self.target.repository)

    def export_key(self) -> str:
        """The key, as text to print: with it and the passphrase a repository whose key is lost can be read."""
        return self._run("key", "export", "--paper", self.target.repository)

    def create_archive(
        self, name: str, paths: Sequence[Path], show_progress: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """Returns borg's statistics (`borg create --json`)."""
        output = self._run(
            "create",
            "--json",
            *(["--progress"] if show_progress else []),
            # Hard links change the time of change (ctime) of a message, not its content.
            "--files-cache=mtime,size,inode",
            # Messages have none of them, and each takes a system call a file.
            *("--noacls", "--noxattrs", "--noflags"),
            "--compression=zstd,3",
            "--exclude-if-present=.nobackup",
            f"{self.target.repository}::{name}",
            *map(str, paths),
            show_progress=show_progress,
        )
        result: dict[str, Any] = json.loads(output)
        return result

    def list_archives(self) -> list[Archive]:
        """From the oldest to the newest. Broken-off ones (`.checkpoint`) are none."""
        output = json.loads(self._run("list", "--json", "--format={start}", self.target.repository))
        return [
            # borg prints local times, without their zone.
            Archive(archive["archive"], datetime.fromisoformat(archive["start"]).astimezone(UTC))
            for archive in output["archives"]
            if ".checkpoint" not in archive["archive"]
        ]

    def read_size(self) -> int:
        """Bytes that the repository takes at the target."""
        size: int = json.loads(self._run("info", "--json", self.target.repository))["cache"]["stats"]["unique_csize"]
        return size

    def extract(self, archive: str, paths: Sequence[str], directory: Path) -> None:
        """Restores these paths, which are without their first slash, below a directory."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._run("extract", f"{self.target.repository}::{archive}", *paths, directory=directory)

    def prune(self, host: str, keep: Mapping[str, int]) -> None:
        """Deletes archives but the newest of so many days, weeks and months, and frees their space."""
        bounds = [f"--keep-{unit}={count}" for unit, count in keep.items()]
        self._run("prune", f"--glob-archives={host}-*", *bounds, self.target.repository)
        self._run("compact", self.target.repository)

    def check(self) -> None:
        """Reads the whole repository where it lies, and the lists of all archives here."""
        self._run("check", self.target.repository)

    def _run(
        self, *arguments: str, directory: Path | None = None, show_progress: Callable[[str], None] | None = None
    ) -> str:
        command = ("borg", "--log-json", "--lock-wait", str(LOCK_WAIT), *arguments)
        environment = ENVIRONMENT | {name: os.environ[name] for name in ("TZ",) if name in os.environ}
        with (
            TemporaryFile() as output,  # a full pipe would stop borg while its messages are read
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                cwd=directory or "/",
                env=environment,
            ) as process,
        ):
            assert process.stderr
            messages = [*_read_messages(process.stderr, show_progress)]
            process.wait()
            output.seek(0)
            text = output.read().decode(errors="surrogateescape")
        code = process.returncode
        if code and code not in WARNINGS:
            raise BackupError(explain_failure(messages, code))
        if warnings := [warning for msgid, warning in messages if msgid in ("FileChangedWarning", "BackupOSError")]:
            raise BackupError(f"not all files could be read: {warnings[0]}")
        return text


def _read_messages(lines: Any, show_progress: Callable[[str], None] | None) -> Iterator[tuple[str, str]]:
    """The log messages of borg's standard error, with their IDs; progress goes to `show_progress`."""
    for line in lines:
        text = line.decode(errors="replace").strip()
        try:
            entry = json.loads(text)
        except ValueError:
            yield "", text  # of ssh
            continue
        kind = entry.get("type", "")
        if kind == "log_message" and entry.get("levelname") in ("WARNING", "ERROR", "CRITICAL"):
            yield entry.get("msgid", ""), entry.get("message", "").strip()
        elif kind == "archive_progress" and show_progress and not entry.get("finished"):
            show_progress(f"{entry.get('nfiles', 0)} files, {entry.get('original_size', 0) / 2**20:.0f} MB")


def explain_failure(messages: Sequence[tuple[str, str]], code: int) -> str:
    """Why a command failed, from its messages."""
    texts = [text for _, text in messages if text]
    last = texts[-1] if texts else f"borg ended with exit code {code}"
    if any("No space left on device" in text for text in texts):
        return "the disk there is full"
    if any("errors found" in text for text in texts):  # by `borg check`, which has no ID for it
        return f"its data are damaged ({texts[0]})"
    for msgid, _ in reversed(messages):
        if msgid in EXPLANATIONS:
            explanation = EXPLANATIONS[msgid]
            ssh_message = next((text for other_id, text in messages if not other_id and text), "")
            is_ssh = ssh_message and msgid.startswith("ConnectionClosed")
            return f"{explanation} ({ssh_message})" if is_ssh else explanation
    return last
