"""Copies of the state that the server has made by itself: counters, freezes, bans, certificates.

A database of SQLite must be of one moment while a service writes. With a write-ahead log, the file is copied first and
the log after it. All that changes in the file meanwhile is in the log, unless the log begins anew. Then both are copied
again (sqlite.org/walformat.html). SQLite itself could not copy it: the guard holds an exclusive lock. A database
without such a log is copied by SQLite.
"""

import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from mailkeep_server.backup import config

STAGE = config.STATE / "state"
SQLITE_HEADER = b"SQLite format 3\0"
LOG_HEADER_BYTES = 32
MAX_TRIES = 20
LOCK_TIMEOUT = 60.0  # seconds
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
    try:
        _copy_with_log(source, target)
    except FileNotFoundError:  # there is no log, or its service has just ended
        _copy_by_sqlite(source, target)


def _copy_with_log(source: Path, target: Path) -> None:
    """Raises sqlite3.DatabaseError if the copy is not intact, and TimeoutError if the log begins anew each time."""
    log, copied_log = (path.with_name(f"{path.name}-wal") for path in (source, target))
    for _ in range(MAX_TRIES):
        begin = _read_log_header(log)
        shutil.copyfile(source, target)
        shutil.copyfile(log, copied_log)
        if begin == _read_log_header(log):
            break
    else:
        raise TimeoutError(f"{source} has changed too much at each of {MAX_TRIES} tries")
    with closing(sqlite3.connect(target)) as database:  # puts the log into the file
        [result] = database.execute("PRAGMA quick_check").fetchone()
        if result != "ok":
            raise sqlite3.DatabaseError(f"{source}: {result}")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _read_log_header(log: Path) -> bytes:
    """Empty if the log has no frames. Its salts change when it begins anew."""
    with log.open("rb") as file:
        return file.read(LOG_HEADER_BYTES)


def _copy_by_sqlite(source: Path, target: Path) -> None:
    """Raises TimeoutError if the database is locked all the time."""
    deadline = time.monotonic() + LOCK_TIMEOUT

    def check_time(status: int, remaining: int, total: int) -> None:
        del status, remaining, total
        if time.monotonic() > deadline:
            raise TimeoutError(f"{source} is locked")

    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as database,
        closing(sqlite3.connect(target)) as copy,
    ):
        database.backup(copy, progress=check_time)
