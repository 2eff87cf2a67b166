"""Numbers of past days, kept after the log's lines are gone: by day, account, remote and fate, without recipients.

`mailkeep-history.timer` runs `mail-digest DAYS` each night. It counts all whole days that the log has, and replaces
what was kept of them. A recipient that waited then may have got the message since. Of a day, MAX_ROWS are kept, some 20
bytes each; the smallest are added up. So a year takes 6 MB at most.
"""

import hashlib
import sqlite3
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mailkeep_server.common import paths
from mailkeep_server.mail_log.counting import LogCounter
from mailkeep_server.mail_log.line_words import Needs
from mailkeep_server.mail_log.sources import LogError, find_first_time, read_server_log
from mailkeep_server.mail_log.tally import OTHERS, Event, Moment, Origin, Tally

DATABASE = Path(paths.HISTORY_DATABASE)
MAX_ROWS = 800
REMOVED = "(removed)"
MEASURES = ("messages", "people", "bytes", "logins", "failed_logins", "deferrals")
"""What is counted beside fates. Their names are in the same column."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS rows (day INTEGER, account INTEGER, remote INTEGER, kind INTEGER, number INTEGER,
  PRIMARY KEY (day, account, remote, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS removed (account_hash TEXT PRIMARY KEY) WITHOUT ROWID;
PRAGMA secure_delete = ON;
"""
ADD_ROW = """
INSERT INTO rows VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET number = number + excluded.number
"""
Row = tuple[str, str, str]
"""Account, remote and kind: a fate, or one of MEASURES."""


class Digest:
    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error."""
        self.database = sqlite3.connect(path, timeout=30)
        self.database.executescript(SCHEMA)

    def close(self) -> None:
        self.database.close()

    def replace_days(self, days: dict[str, Counter[Row]]) -> None:
        removed = {account_hash for (account_hash,) in self.database.execute("SELECT account_hash FROM removed")}
        with self.database:
            for day, rows in days.items():
                number = _number_day(day)
                self.database.execute("DELETE FROM rows WHERE day = ?", (number,))
                kept = bound_rows(_hide_accounts(rows, removed))
                values = [(number, *map(self._find_name, row), count) for row, count in kept.items() if count]
                self.database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", values)

    def _find_name(self, name: str) -> int:
        self.database.execute("INSERT OR IGNORE INTO names (name) VALUES (?)", (name,))
        number: int = self.database.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()[0]
        return number

    def forget_before(self, day: str) -> None:
        with self.database:
            self.database.execute("DELETE FROM rows WHERE day < ?", (_number_day(day),))
            self._forget_unused_names()

    def remove_account(self, account: str) -> int:
        """Its numbers go to REMOVED, in what is kept and in what is counted from now on. Returns the number of days."""
        query = (
            "SELECT day, remote.name, kind.name, number FROM rows JOIN names AS account ON account.id = rows.account"
        )
        query += (
            " JOIN names AS remote ON remote.id = remote JOIN names AS kind ON kind.id = kind WHERE account.name = ?"
        )
        found_rows = self.database.execute(query, (account,)).fetchall()
        with self.database:
            self.database.execute("INSERT OR IGNORE INTO removed VALUES (?)", (_hash_name(account),))
            for day, remote, kind, number in found_rows:
                key = (day, *map(self._find_name, (REMOVED, remote, kind)))
                self.database.execute(ADD_ROW, (*key, number))
            self.database.execute("DELETE FROM rows WHERE account = (SELECT id FROM names WHERE name = ?)", (account,))
            self._forget_unused_names()
        return len({row[0] for row in found_rows})

    def _forget_unused_names(self) -> None:
        used = "SELECT account FROM rows UNION SELECT remote FROM rows UNION SELECT kind FROM rows"
        self.database.execute(f"DELETE FROM names WHERE id NOT IN ({used})")  # noqa: S608 - a constant

    def read_days(self, since: str, until: str) -> Iterator[tuple[str, Row, int]]:
        """Of the days from `since` on and before `until`."""
        query = "SELECT day, account.name, remote.name, kind.name, number FROM rows JOIN names AS account"
        query += " ON account.id = account JOIN names AS remote ON remote.id = remote JOIN names AS kind"
        query += " ON kind.id = kind WHERE day >= ? AND day < ? ORDER BY day"
        rows = self.database.execute(query, (_number_day(since), _number_day(until)))
        for day, account, remote, kind, number in rows:
            yield _name_day(day), (account, remote, kind), number


def _hash_name(account: str) -> str:
    """The log may have the account for a while: it must be left out without its name being kept."""
    return hashlib.sha256(account.encode()).hexdigest()


def _number_day(day: str) -> int:
    return datetime.fromisoformat(day).toordinal()


def _name_day(number: int) -> str:
    return datetime.fromordinal(number).date().isoformat()


def _hide_accounts(rows: Counter[Row], removed: set[str]) -> Counter[Row]:
    hidden: Counter[Row] = Counter()
    for (account, remote, kind), number in rows.items():
        hidden[REMOVED if _hash_name(account) in removed else account, remote, kind] += number
    return hidden


def bound_rows(rows: Counter[Row], most: int = MAX_ROWS) -> Counter[Row]:
    """The largest; of the others the account first loses its remotes, then its name. Strangers choose remotes, and the
    names of logins that fail."""
    if len(rows) <= most:
        return rows
    kept: Counter[Row] = Counter()
    for place, ((account, remote, kind), number) in enumerate(rows.most_common()):
        if place < most // 2:
            kept[account, remote, kind] += number
        else:
            key = account, OTHERS if remote else "", kind
            kept[key if key in kept or len(kept) < most * 9 // 10 else (OTHERS, OTHERS if remote else "", kind)] += (
                number
            )
    return kept


def split_by_day(tally: Tally) -> dict[str, Counter[Row]]:
    days: defaultdict[str, Counter[Row]] = defaultdict(Counter)
    for (origin, event), number in tally.fates.items():
        days[event.time[:10]][origin.account, event.remote, event.fate] += number
    for (origin, event), number in tally.deferrals.items():
        days[event.time[:10]][origin.account, event.remote, "deferrals"] += number
    for (origin, moment), numbers in tally.arrivals.items():
        for name, number in zip(MEASURES, numbers, strict=False):
            days[moment.hour[:10]][origin.account, "", name] += number
    for (origin, moment, is_good), number in tally.logins.items():
        days[moment.hour[:10]][origin.account, "", "logins" if is_good else "failed_logins"] += number
    return days


def add_days(tally: Tally, rows: Iterable[tuple[str, Row, int]]) -> None:
    """What is kept of past days, as if the log still had it."""
    for day, (account, remote, kind), number in rows:
        origin, moment = Origin(account), Moment(day)
        tally.note_times(f"{day}T00:00:00")
        if kind in MEASURES[:3]:
            tally.arrivals.setdefault((origin, moment), [0, 0, 0])[MEASURES.index(kind)] += number
        elif kind in ("logins", "failed_logins"):
            tally.logins[origin, moment, kind == "logins"] += number
        elif kind == "deferrals":
            tally.deferrals[origin, Event("waiting", day, remote)] += number
        else:
            tally.fates[origin, Event(kind, day, remote)] += number


def read_past(since: str, until: str, log_begins: str) -> tuple[list[tuple[str, Row, int]], str]:
    """The kept days from `since` on that the log does not have whole; and the time from which on the log counts."""
    if not DATABASE.exists() or not since or since >= log_begins:
        return [], since
    end = _next_day(log_begins)
    first = since[:10] if since[10:] in ("", "T00:00:00") else _next_day(since)
    with closing(Digest(DATABASE)) as digest:
        rows = list(digest.read_days(first, min(filter(None, (end, until[:10])))))
    last = max((day for day, _, _ in rows), default="")
    return rows, max(since, f"{_next_day(last)}T00:00:00" if last else since)


def _next_day(day: str) -> str:
    return (datetime.fromisoformat(day[:10]) + timedelta(days=1)).date().isoformat()


def keep_days(digest: Digest, days_to_keep: int, now: datetime) -> int:
    """Counts the log's whole days. Returns how many there are. Raises LogError and sqlite3.Error."""
    today = now.date().isoformat()
    first = _next_day(find_first_time() or today)
    days = split_by_day(LogCounter(Needs(hours=True, remotes=True)).read(read_server_log()).finish())
    whole = {day: rows for day, rows in days.items() if first <= day < today}
    oldest = (now - timedelta(days=days_to_keep)).date().isoformat()
    digest.replace_days({day: rows for day, rows in whole.items() if day >= oldest})
    digest.forget_before(oldest)
    return len(whole)


def main(arguments: list[str]) -> int:
    """`mail-digest DAYS`, of which so many are kept."""
    [days_to_keep] = arguments
    try:
        with closing(Digest(DATABASE)) as digest:
            number = keep_days(digest, int(days_to_keep), datetime.now(UTC).replace(tzinfo=None))
    except (LogError, sqlite3.Error, OSError) as error:
        print(f"numbers of past days cannot be kept: {error}", file=sys.stderr)
        return 1
    print(f"numbers of {number} days are kept anew")
    return 0
