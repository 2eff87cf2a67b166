"""The guard's lasting memory, in SQLite: messages, violations, known recipients, senders
and networks, events.

Postfix gets an answer only once the message is committed. One commit serves all requests that arrived together
(`Batch`). A commit is in the kernel's hands at once, so nothing is lost when the guard is killed. Once a second
`sync_to_disk` brings it to the disk, in case the power fails.
"""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mailkeep_server.guard.schema import SCHEMA, TABLES
from mailkeep_server.guard.sliding_window import DAY, HOUR

EVENTS_KEPT = 30 * DAY
RECIPIENTS_KEPT = 400 * DAY
STRANGERS_KEPT = 7 * DAY
MESSAGE_IDS_KEPT = 30 * DAY
ROWS_KEPT = {
    "sent": DAY,
    "tries": DAY,
    "received": HOUR,
    "strangers": STRANGERS_KEPT,
    "message_ids": MESSAGE_IDS_KEPT,
    "events": EVENTS_KEPT,
}
ROWS_A_STEP = 20_000
"""Of `Database.forget_expired`: some ten milliseconds."""
MAX_PARAMETERS = 500
"""Of one query (SQLITE_MAX_VARIABLE_NUMBER is 999 at least)."""
_MAX_ID = (1 << 63) - 1

# Values of the column `kind` of the table `tries`. Databases of version 0.1.0 hold them: they stay as they are.
OVER_LIMIT, UNOWNED_SENDER, NEW_RECIPIENT, NEW_NETWORK, SPAM = "refused", "foreign", "new", "network", "spam"
RECEIPT, REDIRECT = "receipt", "redirect"
"""No violations, but rare, and bounded in the same way: one row for each recipient."""


class Message(NamedTuple):
    """A row of `sent`: a message that counts."""

    id: int
    time: int
    account: str
    recipients: int
    new_recipients: int
    network: str
    queue_id: str


class Violation(NamedTuple):
    """A row of `tries`: a message, recipient or network that was refused, or a message that looks like spam."""

    time: int
    account: str
    kind: str
    """OVER_LIMIT, UNOWNED_SENDER, NEW_RECIPIENT, NEW_NETWORK, SPAM, RECEIPT or REDIRECT."""
    detail: str
    """The limit, the address, the recipient's hash or the network."""


class Event(NamedTuple):
    """A row of `events`: something to tell the operator."""

    id: int
    time: int
    kind: str
    account: str
    detail: str


class Database:
    """Reads see uncommitted writes; `commit` keeps them. All methods raise sqlite3.Error, as on a full disk.

    Times are milliseconds since the epoch.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            is_new = not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            self._db.executescript(SCHEMA)
            if is_new:  # in the file's header, which is otherwise unused
                self._db.execute(f"PRAGMA user_version = {int(time.time()) // 60}")
            self.began_at: int = self._db.execute("PRAGMA user_version").fetchone()[0] * 60_000
            """Milliseconds since the epoch; 0 of a database of a former version."""
            for table, types in TABLES.items():  # another program's, or one that was changed by hand
                insert = f"EXPLAIN INSERT INTO {table} VALUES ({_marks_for(types)})"  # noqa: S608
                self._db.execute(insert, [None] * len(types))
            self._next_id: int = self._db.execute("SELECT ifnull(max(id), 0) + 1 FROM sent").fetchone()[0]
            self._wal = os.open(f"{path}-wal", os.O_RDONLY)
        except (sqlite3.Error, OSError):
            self._db.close()  # else its locks would stay
            raise
        self._unsynced = False
        self._rows: dict[str, list[tuple[object, ...]]] = {}
        """To be inserted, by statement: executemany() costs a fraction of single inserts."""

    # --- messages -----------------------------------------------------------------------------------------------------

    def add_message(
        self, time: int, account: str, recipients: int, new_recipients: int, network: str, queue_id: str
    ) -> Message:
        message = Message(self._next_id, time, account, recipients, new_recipients, network, queue_id)
        self.add_row("INSERT INTO sent VALUES (?, ?, ?, ?, ?, ?, ?)", message)
        self._next_id += 1
        return message

    def uncount_message(self, message: Message) -> None:
        self.change("DELETE FROM sent WHERE id = ?", message.id)

    def messages_since(self, time: int) -> Iterator[Message]:
        query = "SELECT * FROM sent WHERE time > ? ORDER BY id"
        return map(Message._make, self.read(query, time))

    def latest_message_time(self) -> int:
        """0 if there is no message."""
        return int(self.read("SELECT ifnull(max(time), 0) FROM sent").fetchone()[0])

    # --- violations ---------------------------------------------------------------------------------------------------

    def add_violation(self, time: int, account: str, kind: str, detail: str) -> None:
        row = (time, account, kind, detail)
        self.add_row("INSERT INTO tries (time, account, kind, what) VALUES (?, ?, ?, ?)", row)

    def reset_violations(self, account: str) -> None:
        """Read receipts and redirects still count."""
        self.change("DELETE FROM tries WHERE account = ? AND kind NOT IN (?, ?)", account, RECEIPT, REDIRECT)

    def violations_since(self, time: int) -> Iterator[Violation]:
        query = "SELECT time, account, kind, what FROM tries WHERE time > ? ORDER BY id"
        return map(Violation._make, self.read(query, time))

    # --- recipients and networks --------------------------------------------------------------------------------------

    def knows_recipient(self, account: str, recipient: int) -> bool:
        """Whether the account has written to this recipient (a hash) before."""
        query = "SELECT 1 FROM recipients WHERE account = ? AND recipient = ?"
        return self.read(query, account, recipient).fetchone() is not None

    def find_known_recipients(self, account: str, recipients: Sequence[int]) -> set[int]:
        """Those of the recipients (hashes) to whom the account has written before."""
        known: set[int] = set()
        for start in range(0, len(recipients), MAX_PARAMETERS):
            batch = recipients[start : start + MAX_PARAMETERS]
            query = f"SELECT recipient FROM recipients WHERE account = ? AND recipient IN ({_marks_for(batch)})"  # noqa: S608
            known.update(row[0] for row in self.read(query, account, *batch))
        return known

    def remember_recipient(self, time: int, account: str, recipient: int) -> None:
        self.add_row("INSERT OR REPLACE INTO recipients VALUES (?, ?, ?)", (account, recipient, time))

    def networks_of(self, account: str) -> set[str]:
        """All networks that the account has sent from within RECIPIENTS_KEPT."""
        return {row[0] for row in self.read("SELECT network FROM networks WHERE account = ?", account)}

    def remember_network(self, time: int, account: str, network: str) -> None:
        self.add_row("INSERT OR REPLACE INTO networks VALUES (?, ?, ?)", (account, network, time))

    def rename_account(self, old: str, new: str) -> None:
        """What was counted of the old address counts of the new one. Both may have rows."""
        for table in TABLES:
            if table not in ("events", "message_keys"):
                self.change(f"UPDATE OR IGNORE {table} SET account = ? WHERE account = ?", new, old)  # noqa: S608
                self.change(f"DELETE FROM {table} WHERE account = ?", old)  # noqa: S608

    # --- mail that comes in -------------------------------------------------------------------------------------------

    def add_received(self, time: int, account: str, network: int, rank: int, origin: int) -> None:
        """`network` is a hash, 0 if it is exempt; `rank` is a sender's; `origin` a first-time sender's hash, else 0."""
        statement = "INSERT INTO received (time, account, network, rank, origin) VALUES (?, ?, ?, ?, ?)"
        self.add_row(statement, (time, account, network, int(rank), origin))

    def received_since(self, time: int) -> Iterator[tuple[int, str, int, int, int]]:
        """Rows as of `add_received`."""
        query = "SELECT time, account, network, rank, origin FROM received WHERE time > ? ORDER BY id"
        yield from self.read(query, time)

    def sender_time(self, account: str, sender: int) -> int:
        """When a sender (a hash) was last remembered; 0 if it is not known."""
        query = "SELECT time FROM senders WHERE account = ? AND sender = ?"
        row = self.read(query, account, sender).fetchone()
        return row[0] if row else 0

    def knows_senders(self, account: str) -> bool:
        return self.read("SELECT 1 FROM senders WHERE account = ? LIMIT 1", account).fetchone() is not None

    def remember_sender(self, time: int, account: str, sender: int) -> None:
        self.add_row("INSERT OR REPLACE INTO senders VALUES (?, ?, ?)", (account, sender, time))

    def forget_sender(self, account: str, sender: int) -> None:
        self.change("DELETE FROM senders WHERE account = ? AND sender = ?", account, sender)

    # --- events -------------------------------------------------------------------------------------------------------

    def add_event(self, time: int, kind: str, account: str, detail: str) -> None:
        row = (time, kind, account, detail)
        self.add_row("INSERT INTO events (time, kind, account, detail) VALUES (?, ?, ?, ?)", row)

    def events_after(self, last: int, maximum: int = 1000) -> list[Event]:
        query = "SELECT * FROM events WHERE id > ? ORDER BY id LIMIT ?"
        return [Event._make(row) for row in self.read(query, last, maximum)]

    def last_event_id(self) -> int:
        row = self.read("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return row[0] if row else 0

    def last_freezes(self) -> list[Event]:
        """The freeze of each account whose last event of this kind was one. A thaw while the guard was down has no
        event yet."""
        return self.open_events("frozen", "thawed")

    def open_events(self, beginning: str, end: str) -> list[Event]:
        """Of each account whose last event of these two kinds is the beginning: that one."""
        # Beside max(), SQLite gives the other columns of the same row (sqlite.org/lang_select.html, bare columns).
        query = "SELECT max(id), time, kind, account, detail FROM events WHERE kind IN (?, ?) GROUP BY account"
        return [event for event in map(Event._make, self.read(query, beginning, end)) if event.kind == beginning]

    def latest_event_time(self, kind: str) -> int:
        """0 if there is none."""
        return int(self.read("SELECT ifnull(max(time), 0) FROM events WHERE kind = ?", kind).fetchone()[0])

    # --- all of it ----------------------------------------------------------------------------------------------------

    def clamp_times_to(self, now: int) -> None:
        """Times later than `now` become now: the clock was ahead."""
        for table in ("sent", "tries", "received", "strangers", "message_ids", "confirmations"):
            self.change(f"UPDATE {table} SET time = ? WHERE time > ?", now, now)  # noqa: S608

    def forget_expired(self, now: int) -> Iterator[None]:
        """Forgets step by step, one for each item: nobody can send while a step lasts.

        Reading ten million recipients at once would take seconds.
        """
        for table, age in ROWS_KEPT.items():
            # Rows are added in the order of their times, so the first that is kept ends the expired ones.
            first_kept = f"SELECT min(id) FROM (SELECT id FROM {table} WHERE time >= ? ORDER BY id LIMIT 1)"  # noqa: S608
            self.change(f"DELETE FROM {table} WHERE id < ifnull(({first_kept}), {_MAX_ID})", now - age)  # noqa: S608
        self.commit()
        yield
        for table, key in (("recipients", "recipient"), ("networks", "network"), ("senders", "sender")):
            yield from self._forget_keys(table, key, now - RECIPIENTS_KEPT)

    def _forget_keys(self, table: str, key: str, before: int) -> Iterator[None]:
        """A step looks at ROWS_A_STEP rows, in the order of the table's primary key."""
        where, order = f"FROM {table} WHERE (account, {key}) > (?, ?)", f"ORDER BY account, {key} LIMIT 1 OFFSET ?"
        start: tuple[object, ...] | None = ("", 0)
        while start:
            end = self.read(f"SELECT account, {key} {where} {order}", *start, ROWS_A_STEP).fetchone()
            bound = f" AND (account, {key}) <= (?, ?)" if end else ""
            self.change(f"DELETE {where}{bound} AND time < ?", *start, *(end or ()), before)
            self.commit()
            start = end
            yield

    @property
    def has_uncommitted(self) -> bool:
        return bool(self._rows) or self._db.in_transaction

    def commit(self) -> None:
        self._write_rows()
        if self._db.in_transaction:
            self._db.execute("COMMIT")
            self._unsynced = True

    def rollback(self) -> None:
        """Discards everything since the last commit."""
        self._rows = {}
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def sync_to_disk(self) -> None:
        """Flushes all commits. Slow, so for another thread. Raises OSError."""
        if self._unsynced:
            self._unsynced = False
            os.fdatasync(self._wal)

    def close(self) -> None:
        self.commit()
        os.close(self._wal)
        self._db.close()

    def abandon(self) -> None:
        """Closes it without writing: it is spoilt."""
        os.close(self._wal)
        with suppress(sqlite3.Error):
            self._db.close()

    def insert_rows(self, table: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Rows of another database; those that are there already stay."""
        self._write_rows()
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        self._db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({_marks_for(TABLES[table])})", rows)  # noqa: S608

    def add_row(self, statement: str, row: tuple[object, ...]) -> None:
        self._rows.setdefault(statement, []).append(row)

    def change(self, statement: str, *values: object) -> None:
        self._write_rows()
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        self._db.execute(statement, values)

    def read(self, query: str, *values: object) -> sqlite3.Cursor:
        self._write_rows()
        return self._db.execute(query, values)

    def _write_rows(self) -> None:
        if self._rows:
            if not self._db.in_transaction:
                self._db.execute("BEGIN")
            for statement, rows in self._rows.items():
                self._db.executemany(statement, rows)
            self._rows = {}


def _marks_for(values: Sized) -> str:
    return ", ".join("?" * len(values))
