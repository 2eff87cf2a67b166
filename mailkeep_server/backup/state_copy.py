"""Copies of the state that the server has made by itself: counters, freezes, bans, certificates.

SQLite's databases are copied by SQLite, so that the copy is of one moment while a service writes.
"""

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from mailkeep_server.backup import config

STAGE = config.STATE / "state"
SQLITE_HEADER = b"SQLite format 3\0"
SQLITE_SIDE_FILES = ("-wal", "-shm", "-journal")


def copy_state(kept: Iterable[str], stage: Path = STAGE) -> None:
    """Copies these files and directories into the stage, with owners and modes. Missing ones are left out.

    Raises OSError or sqlite3.Error.
    """
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(mode=0o700, parents=True)
    for top in map(Path, kept):
        # systemd keeps the state of a dynamic user elsewhere, behind a link of root's.
        if not top.exists():
            continue
        for path, status in _walk_tree(top.resolve()):
            target = stage / top.relative_to("/") / path.relative_to(top.resolve())
            if stat.S_ISDIR(status.st_mode):
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy_file(path, target)
            os.chown(target, status.st_uid, status.st_gid)
            target.chmod(stat.S_IMODE(status.st_mode))


def _walk_tree(top: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Plain files and directories. Links are left out: a service could make one to a file that only root may read."""
    status = top.lstat()
    if stat.S_ISDIR(status.st_mode):
        yield top, status
        for child in sorted(top.iterdir()):
            yield from _walk_tree(child)
    elif stat.S_ISREG(status.st_mode) and not top.name.endswith(SQLITE_SIDE_FILES):
        yield top, status


def _copy_file(source: Path, target: Path) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        is_database = file.read(len(SQLITE_HEADER)) == SQLITE_HEADER
        file.seek(0)
        if not is_database:
            with target.open("wb") as copy:
                shutil.copyfileobj(file, copy)
            os.utime(target, ns=(os.fstat(descriptor).st_atime_ns, os.fstat(descriptor).st_mtime_ns))
            return
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=30)) as database,
        closing(sqlite3.connect(target)) as copy_database,
    ):
        database.backup(copy_database)
