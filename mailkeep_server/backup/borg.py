"""borg(1)."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from mailkeep_server.backup import config
from mailkeep_server.backup.config import Target
from mailkeep_server.common.backup_archives import NAME_GLOB, Archive, find_host
from mailkeep_server.common.borg_faults import (
    LOCK_WAIT,
    WARNINGS,
    ask_ssh,
    explain_failure,
    is_connection_fault,
    read_messages,
)

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


class BackupError(Exception):
    """A sentence that says what is wrong with a target, without its name."""


class Repository:
    """One target. Every method raises BackupError."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def create(self) -> None:
        """Makes an empty repository, encrypted, whose key lies in it and is opened by the passphrase.

        On another machine the server's SSH key makes it append-only (`borg serve --append-only`), and not its own
        configuration: else the operator's borg could free no space either.
        """
        options = () if self.target.is_remote else ("--make-parent-dirs",)
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
            f"{self.target.repository}::{name}",
            *map(str, paths),
            show_progress=show_progress,
        )
        result: dict[str, Any] = json.loads(output)
        return result

    def list_archives(self) -> list[Archive]:
        """Of all servers, from the oldest to the newest by their date. Broken-off ones are none."""
        output = json.loads(self._run("list", "--json", "--format={start}", self.target.repository))
        return [
            # borg prints local times, without their zone.
            Archive(archive["archive"], datetime.fromisoformat(archive["start"]).astimezone(UTC))
            for archive in output["archives"]
            if find_host(archive["archive"])
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
        self._run("prune", f"--glob-archives={host}-{NAME_GLOB}", *bounds, self.target.repository)
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
            messages = [*read_messages(process.stderr, show_progress)]
            process.wait()
            output.seek(0)
            text = output.read().decode(errors="surrogateescape")
        code = process.returncode
        if code and code not in WARNINGS:
            if is_connection_fault(messages):
                messages = [*ask_ssh(self.target.repository, "-F", str(config.SSH_CONFIG)), *messages]
            raise BackupError(explain_failure(messages, code, self.target.repository))
        if warnings := [warning for msgid, warning in messages if msgid in ("FileChangedWarning", "BackupOSError")]:
            raise BackupError(f"not all files could be read: {warnings[0]}")
        return text
