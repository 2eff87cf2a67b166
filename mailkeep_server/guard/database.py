"""What the guard must not forget, in SQLite: messages, tries, known recipients and networks, events.

Every answer to Postfix waits for the commit of what it counts. One commit serves all requests that came in at the
same time (`Batch` in guard.daemon). A commit is in the kernel's hands at once, so that nothing is lost when the guard
is killed; `sync`, called every second, puts it on the disk for when the power fails.
"""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mailkeep_server.guard.sliding_window import DAY

EVENTS_KEPT = 30 * DAY
RECIPIENTS_KEPT = 400 * DAY

# synchronous=NORMAL: in WAL mode a commit only writes; `sync` and checkpoints flush (sqlite.org/pragma.html).
# locking_mode: nobody who looks at it, as a backup does, can make Postfix wait.
_SCHEMA = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA wal_autocheckpoint = 4000;
PRAGMA journal_size_limit = 16777216;
PRAGMA cache_size = -2048;
CREATE TABLE IF NOT EXISTS sent (
    id INTEGER PRIMARY KEY, time INTEGER NOT NULL, account TEXT NOT NULL, recipients INTEGER NOT NULL,
    new INTEGER NOT NULL, network TEXT NOT NULL, queue_id TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS tries (
    id INTEGER PRIMARY KEY, time INTEGER NOT NULL, account TEXT NOT NULL, kind TEXT NOT NULL, what TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS recipients (
    account TEXT NOT NULL, recipient INTEGER NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (account, recipient)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS networks (
    account TEXT NOT NULL, network TEXT NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (account, network)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, kind TEXT NOT NULL, account TEXT NOT NULL,
    detail TEXT NOT NULL
);
"""


class Message(NamedTuple):
    """One that was accepted."""

    id: int
    time: int
    account: str
    recipients: int
    new: int
    network: str
    queue_id: str


class Try(NamedTuple):
    """One that was not: over a limit (`refused`), as somebody else (`foreign`), to somebody new (`new`)."""

    time: int
    account: str
    kind: str
    what: str


class Event(NamedTuple):
    id: int
    time: int
    kind: str
    account: str
    detail: str


class Store:
    """Writes are seen by later reads at once, and are kept by `commit`. Raises sqlite3.Error, on a full disk say."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(_SCHEMA)
        self._wal = os.open(f"{path}-wal", os.O_RDONLY)
        self._next_id: int = self._db.execute("SELECT ifnull(max(id), 0) + 1 FROM sent").fetchone()[0]
        self._unsynced = False
        self._rows: dict[str, list[tuple[object, ...]]] = {}
        """To be written, by statement: many at once cost a fraction of one after another."""

    def sent(self, time: int, account: str, recipients: int, new: int, network: str, queue_id: str) -> Message:
        message = Message(self._next_id, time, account, recipients, new, network, queue_id)
        self._add("INSERT INTO sent VALUES (?, ?, ?, ?, ?, ?, ?)", message)
        self._next_id += 1
        return message

    def take_back(self, message: Message) -> None:
        self._change("DELETE FROM sent WHERE id = ?", message.id)

    def tried(self, time: int, account: str, kind: str, what: str) -> None:
        self._add("INSERT INTO tries (time, account, kind, what) VALUES (?, ?, ?, ?)", (time, account, kind, what))

    def forgive(self, account: str) -> None:
        self._change("DELETE FROM tries WHERE account = ?", account)

    def knows_recipient(self, account: str, recipient: int) -> bool:
        query = "SELECT 1 FROM recipients WHERE account = ? AND recipient = ?"
        return self._read(query, account, recipient).fetchone() is not None

    def wrote_to(self, time: int, account: str, recipient: int) -> None:
        self._add("INSERT OR REPLACE INTO recipients VALUES (?, ?, ?)", (account, recipient, time))

    def networks(self, account: str) -> set[str]:
        """All that it has ever sent from."""
        return {row[0] for row in self._read("SELECT network FROM networks WHERE account = ?", account)}

    def sent_from(self, time: int, account: str, network: str) -> None:
        self._add("INSERT OR REPLACE INTO networks VALUES (?, ?, ?)", (account, network, time))

    def event(self, time: int, kind: str, account: str, detail: str) -> None:
        row = (time, kind, account, detail)
        self._add("INSERT INTO events (time, kind, account, detail) VALUES (?, ?, ?, ?)", row)

    def frozen(self) -> set[str]:
        """The accounts that were frozen, going by what has happened; a thaw while nobody looked is not known here."""
        # Beside max(), SQLite gives the other columns of the row that has it.
        query = "SELECT account, kind, max(id) FROM events WHERE kind IN ('frozen', 'thawed') GROUP BY account"
        return {account for account, kind, _ in self._read(query) if kind == "frozen"}

    def messages_since(self, time: int) -> Iterator[Message]:
        query = "SELECT * FROM sent WHERE time > ? ORDER BY id"
        return map(Message._make, self._read(query, time))

    def tries_since(self, time: int) -> Iterator[Try]:
        query = "SELECT time, account, kind, what FROM tries WHERE time > ? ORDER BY id"
        return map(Try._make, self._read(query, time))

    def events_after(self, last: int, most: int = 1000) -> list[Event]:
        query = "SELECT * FROM events WHERE id > ? ORDER BY id LIMIT ?"
        return [Event._make(row) for row in self._read(query, last, most)]

    def last_event(self) -> int:
        row = self._read("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return row[0] if row else 0

    def latest(self) -> int:
        """When the last message counts, or 0."""
        return int(self._read("SELECT ifnull(max(time), 0) FROM sent").fetchone()[0])

    def go_back(self, now: int) -> None:
        """What is later than now was just now: the clock was ahead."""
        for table in ("sent", "tries"):
            self._change(f"UPDATE {table} SET time = ? WHERE time > ?", now, now)  # noqa: S608

    def prune(self, now: int) -> None:
        for table, age in {"sent": DAY, "tries": DAY, "events": EVENTS_KEPT}.items():
            self._change(f"DELETE FROM {table} WHERE time < ?", now - age)  # noqa: S608
        for table in ("recipients", "networks"):
            self._change(f"DELETE FROM {table} WHERE time < ?", now - RECIPIENTS_KEPT)  # noqa: S608
        self.commit()

    @property
    def pending(self) -> bool:
        """Whether there is something to commit."""
        return bool(self._rows) or self._db.in_transaction

    def commit(self) -> None:
        self._write()
        if self._db.in_transaction:
            self._db.execute("COMMIT")
            self._unsynced = True

    def rollback(self) -> None:
        """What was not committed is gone."""
        self._rows = {}
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def sync(self) -> None:
        """On the disk with what is committed. Takes a while: for a thread. Raises OSError."""
        if self._unsynced:
            self._unsynced = False
            os.fdatasync(self._wal)

    def close(self) -> None:
        self.commit()
        os.close(self._wal)
        self._db.close()

    def _add(self, statement: str, row: tuple[object, ...]) -> None:
        self._rows.setdefault(statement, []).append(row)

    def _change(self, statement: str, *values: object) -> None:
        self._write()
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        self._db.execute(statement, values)

    def _read(self, query: str, *values: object) -> sqlite3.Cursor:
        self._write()
        return self._db.execute(query, values)

    def _write(self) -> None:
        if self._rows:
            if not self._db.in_transaction:
                self._db.execute("BEGIN")
            for statement, rows in self._rows.items():
                self._db.executemany(statement, rows)
            self._rows = {}
