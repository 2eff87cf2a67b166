"""A database that cannot be read is set aside, and a new one takes over the rows that can still be read.

Counts are not worth a standstill: for a day each account may then send less (`GuardConfig.tighten`).
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from mailkeep_server.common.paths import GUARD_DATABASE_FILES
from mailkeep_server.common.spoilt_files import set_aside, set_aside_unless_plain
from mailkeep_server.common.wording import count_noun
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.schema import TABLES

LOST_COUNTS = "counts-lost"
"""The kind of the event that a database was begun anew."""
SALVAGE_SECONDS = 2.0
"""For reading what is left of the former database. Meanwhile nobody can send."""
_ROWS_AT_ONCE = 1000
_PASSING_CODES = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_ERROR,  # a table without a column, say
}
"""Of a spoilt database, or of what the machine lacks at this moment."""
_SPOILT_CODES = _PASSING_CODES | {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_CONSTRAINT,
}
_SPOILT_IO_CODES = {sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}


def is_spoilt(error: Exception) -> bool:
    """Whether the database itself is at fault. A full disk and a lock are not, and pass."""
    if not isinstance(error, sqlite3.Error):
        return isinstance(error, ValueError | TypeError | OverflowError)  # a value that no row has
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # of the module itself: text that is not UTF-8
        return isinstance(error, sqlite3.OperationalError)
    return (code & 0xFF) in _SPOILT_CODES or code in _SPOILT_IO_CODES


def can_pass(error: sqlite3.Error) -> bool:
    """Whether a running guard can get this error from a good database, as without file descriptors or inodes."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _PASSING_CODES


def clear_way(path: Path) -> list[str]:
    """Sets aside what is no plain file where SQLite expects one. Returns a sentence for each. Raises OSError."""
    files = map(path.with_name, GUARD_DATABASE_FILES)
    return [sentence for file in files if (sentence := set_aside_unless_plain(file))]


def describe_loss(path: Path) -> str:
    """Why there is no database to open where there was one; "" if there is, or never was.

    SQLite would begin a new one without a word. `frozen` is made by the first start, before any count.
    """
    if path.exists():
        return "it is empty" if path.stat().st_size == 0 else ""
    return "it is missing" if (path.parent / "frozen" / "accounts").exists() else ""


def begin_anew(path: Path, now: int, error: Exception, *, salvage: bool = True) -> Database:
    """A new database in the place of a spoilt one, which no connection may be using. Raises sqlite3.Error, OSError."""
    aside = set_aside(path) if path.exists() or path.is_symlink() else None
    kept_at = aside or path.with_name(f"{path.name}.spoilt-gone")
    side_files = [path.with_name(name) for name in GUARD_DATABASE_FILES if name != path.name]
    moved = [(file, kept_at.with_name(kept_at.name + file.name.removeprefix(path.name))) for file in side_files]
    for file, kept in moved:
        with suppress(FileNotFoundError):
            file.rename(kept)
    try:
        database = Database(path)
    except (sqlite3.Error, OSError):  # as on a full disk: the next start tries again
        for file, kept in (*moved, (path, kept_at)):
            with suppress(FileNotFoundError):
                kept.rename(file)
        raise
    number = _salvage_rows(aside, database) if aside and salvage else 0
    detail = (
        f"The guard's database could not be read ({error}). It is {f'kept as {aside}' if aside else 'gone'}; "
        f"{count_noun(number, 'row')} of it taken over. For a day, each account may send half of its limits"
    )
    database.add_event(now, LOST_COUNTS, "", detail)
    database.commit()
    return database


def _salvage_rows(aside: Path, database: Database) -> int:
    end = time.monotonic() + SALVAGE_SECONDS
    number = 0
    for table in TABLES:
        try:
            with closing(sqlite3.connect(aside)) as former:
                former.text_factory = lambda text: text.decode(errors="replace")
                for rows in _read_rows(former, table):
                    database.insert_rows(table, rows)
                    number += len(rows)
                    if time.monotonic() > end:
                        break
        except (sqlite3.Error, OSError):
            continue
    return number


def _read_rows(former: sqlite3.Connection, table: str) -> Iterator[list[tuple[object, ...]]]:
    """The rows before the first that cannot be read."""
    types = TABLES[table]
    rows: list[tuple[object, ...]] = []
    cursor = former.execute(f"SELECT * FROM {table}")  # noqa: S608
    try:
        for row in cursor:
            if tuple(map(type, row)) == types and all(_is_sane(value) for value in row):
                rows.append(row)
            if len(rows) == _ROWS_AT_ONCE:
                yield rows
                rows = []
    except sqlite3.Error:
        pass
    if rows:
        yield rows


def _is_sane(value: object) -> bool:
    return not isinstance(value, str) or "\ufffd" not in value
