"""Makes a backup now: an archive at every target. `mailkeep-backup.service` calls it, and `mailkeep backup`."""

import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from mailkeep_server.backup import mail_snapshot, state_copy
from mailkeep_server.backup.borg import BackupError, Repository
from mailkeep_server.backup.config import STATE, BackupConfig
from mailkeep_server.common import mailboxes
from mailkeep_server.common.backup_archives import name_archive
from mailkeep_server.common.backup_status import load_status, save_status
from mailkeep_server.common.files import open_lock
from mailkeep_server.common.wording import describe_error

PACKAGE = Path(__file__).resolve().parents[2]
STAGES = (mail_snapshot.STAGE, state_copy.STAGE)
"""What an archive holds."""
LOCK_POLL_SECONDS = 1.0
SNAPSHOT_TIMEOUT = 4 * 3600  # seconds; the first one reads all mail

ShowProgress = Callable[[str], None]


@contextmanager
def hold_lock(wait_seconds: float = 0) -> Iterator[None]:
    """One backup, proof or restore at a time. Raises BackupError if another one still runs after so many seconds."""
    STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    with open_lock(STATE / "lock") as lock:
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                raise BackupError("another backup, proof or restore is running. Try again when it has ended")
            time.sleep(LOCK_POLL_SECONDS)
        yield


def _try_lock(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_backup(config: BackupConfig, show_progress: ShowProgress | None = None) -> bool:
    """An archive at every target; one that fails keeps no other from its own. False if any failed.

    Raises BackupError if nothing could be copied on this machine.
    """
    with hold_lock():
        status = load_status()
        try:
            counts = take_snapshots(config)
            state_copy.copy_state(config.kept)
        except Exception as error:
            for target in config.targets:
                status.of(target.name).fault = f"the mail could not be read for it: {describe_error(error)}"
            save_status(status)
            raise BackupError(f"no backup was made: {describe_error(error)}") from error
        status.targets = {target.name: status.of(target.name) for target in config.targets}
        archive, files = name_archive(config.host, datetime.now(UTC)), count_files(STAGES)
        try:
            for target in config.targets:
                if show_progress:
                    show_progress(f"to {target.name}")
                target_status = status.of(target.name)
                target_status.fault = _find_fault(Repository(target), archive, files, show_progress)
                if not target_status.fault:
                    target_status.succeeded, target_status.archive = time.time(), archive
                    target_status.messages = sum(counts.values())
                save_status(status)
        finally:  # a link would keep the space of a message that somebody deletes
            shutil.rmtree(mail_snapshot.STAGE / "mail", ignore_errors=True)
        return not any(target.fault for target in status.targets.values())


def take_snapshots(config: BackupConfig) -> dict[str, int]:
    """Links and copies all mailboxes, as `vmail`. Returns the messages of each account that has mail.

    Raises RuntimeError if the copy lacks the mail of an account that has some.
    """
    done = subprocess.run(
        (*mailboxes.AS_USER, sys.executable, "-IB", str(PACKAGE), "backup-snapshot"),
        input="\n".join(list_mailboxes(config)),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=SNAPSHOT_TIMEOUT,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["the copy of the mailboxes failed"])[-1])
    counts: dict[str, int] = json.loads(done.stdout)
    for account in list_mailboxes(config):
        if account not in counts and mail_snapshot.list_messages(mail_snapshot.find_home(account)):
            raise RuntimeError(f"the copy has no mail of {account}, whose mailbox has some")
    return counts


def list_mailboxes(config: BackupConfig, root: Path = Path(mailboxes.ROOT)) -> list[str]:
    """The accounts, and mailboxes that were left when an account was deleted."""
    homes = {f"{home.name}@{home.parent.name}" for home in root.glob("[!.]*.*/[!.]*") if home.is_dir()}
    return sorted({*config.accounts, *homes})


def count_files(stages: Iterable[Path]) -> int:
    """As borg counts them: a file with several names once. Dovecot links a message to several people."""
    inodes = set()
    for stage in stages:  # one is missing where nobody has mail yet
        for directory, _, names in os.walk(stage):
            for name in names:
                status = os.lstat(f"{directory}/{name}")  # a Path for each of 20,000 takes several times as long
                if stat.S_ISREG(status.st_mode):
                    inodes.add((status.st_dev, status.st_ino))
    return len(inodes)


def _find_fault(repository: Repository, archive: str, files: int, show_progress: ShowProgress | None) -> str:
    """Why the archive is not good; empty if it is."""
    try:
        statistics = repository.create_archive(archive, STAGES, show_progress)
    except BackupError as error:
        return str(error)
    stored = statistics["archive"]["stats"]["nfiles"]
    return "" if stored == files else f"the archive holds {stored} of {files} files"
