"""The rows of reports, in SQLite: bounded by day, by sender and by age.

Whoever can send mail can send a report, in any name. So each sender has a share of the day. Senders that never reported
on an earlier day have a part of it together. The rows of ALL_BOUNDS for KEPT_DAYS are some 60 MB.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mailkeep_server.common.report_days import KEPT_DAYS
from mailkeep_server.reports.config import ReportsConfig
from mailkeep_server.reports.dmarc_report import DmarcReport, DmarcRow
from mailkeep_server.reports.explain import format_pairs
from mailkeep_server.reports.tls_report import TlsReport, TlsRow

DAY = 86_400  # seconds
MAX_REPORT_AGE = 30 * DAY
"""A late report is of last week. An old one tells nothing of today, or is made up."""
MAX_FUTURE = 2 * DAY
MAX_REPORT_SPAN = 8 * DAY
"""RFC 9990 section 3.5.4: a report covers a day, as a rule."""


@dataclass(frozen=True, slots=True)
class DailyBounds:
    """Reports and rows that are kept of one day."""

    reports: int
    rows: int


ALL_BOUNDS = DailyBounds(2000, 4000)
NEWCOMER_BOUNDS = DailyBounds(500, 1000)
"""Of senders that never reported on an earlier day, together."""
SENDER_BOUNDS = DailyBounds(100, 500)
MAX_COMPLAINTS, MAX_SENDER_COMPLAINTS = 1000, 200
"""In a day."""

COMPLAINT = "complaint"
"""That the guard hears of."""
UNPROVEN, NAMELESS = "complaint whose sender nothing proves", "complaint that names no message"
READ, REPEATED, OTHER_DOMAIN, OUT_OF_TIME, OVER_BOUND, UNREADABLE, OVERFLOW = (
    "read",
    "repeated",
    "of another domain",
    "of another time",
    "over the daily bound",
    "unreadable",
    "too many at once",
)
"""What becomes of a report, for `count_outcome`."""

_SCHEMA = """
PRAGMA foreign_keys = ON;
PRAGMA cache_size = -2048;
CREATE TABLE IF NOT EXISTS reports (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, sender TEXT NOT NULL, reporter TEXT NOT NULL, report_id TEXT NOT NULL,
    domain TEXT NOT NULL, policy TEXT NOT NULL, begin INTEGER NOT NULL, end INTEGER NOT NULL,
    received INTEGER NOT NULL, row_count INTEGER NOT NULL, unread_rows INTEGER NOT NULL,
    UNIQUE (kind, sender, reporter, report_id, domain, begin)
);
CREATE INDEX IF NOT EXISTS reports_received ON reports (received, sender);
CREATE INDEX IF NOT EXISTS reports_sender ON reports (sender, received);
CREATE TABLE IF NOT EXISTS dmarc_rows (
    report INTEGER NOT NULL REFERENCES reports ON DELETE CASCADE, domain TEXT NOT NULL, source TEXT NOT NULL,
    messages INTEGER NOT NULL, dkim INTEGER NOT NULL, spf INTEGER NOT NULL, disposition TEXT NOT NULL,
    signatures TEXT NOT NULL, spf_checks TEXT NOT NULL, reason TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS dmarc_rows_report ON dmarc_rows (report);
CREATE TABLE IF NOT EXISTS tls_rows (
    report INTEGER NOT NULL REFERENCES reports ON DELETE CASCADE, domain TEXT NOT NULL, policy TEXT NOT NULL,
    result TEXT NOT NULL, sessions INTEGER NOT NULL, server TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS tls_rows_report ON tls_rows (report);
CREATE TABLE IF NOT EXISTS complaints (
    id INTEGER PRIMARY KEY AUTOINCREMENT, received INTEGER NOT NULL, sender TEXT NOT NULL, messages TEXT NOT NULL,
    UNIQUE (sender, messages)
);
CREATE INDEX IF NOT EXISTS complaints_received ON complaints (received, sender);
CREATE TABLE IF NOT EXISTS outcomes (
    day INTEGER NOT NULL, outcome TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (day, outcome)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
    kind TEXT NOT NULL, domain TEXT NOT NULL, subject TEXT NOT NULL, description TEXT NOT NULL,
    last INTEGER NOT NULL, announced INTEGER NOT NULL, PRIMARY KEY (kind, domain, subject)
) WITHOUT ROWID;
"""


class ReportStore:
    """Times are seconds since the epoch. Methods raise sqlite3.Error."""

    def __init__(self, path: Path, config: ReportsConfig) -> None:
        self.config = config
        self.database = sqlite3.connect(path, isolation_level=None, timeout=30)
        self.database.executescript(_SCHEMA)

    def close(self) -> None:
        self.database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing: each commit waits for the disk."""
        self.database.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    def add_report(self, sender: str, report: DmarcReport | TlsReport, now: float) -> str:
        """Keeps the rows about our domains. Returns READ, or why it is not kept. Call it within a transaction."""
        kind = "dmarc" if isinstance(report, DmarcReport) else "tls"
        rows = self._select_rows(report)
        if not rows:
            return OTHER_DOMAIN
        if not _is_of_our_time(report, now):
            return OUT_OF_TIME
        if not self._has_room(sender, len(rows), now):
            return OVER_BOUND
        domain, policy = next(iter(rows))[0], getattr(report, "policy", "")
        head = (kind, sender, report.reporter, report.report_id, domain, policy, report.begin, report.end)
        cursor = self.database.execute(
            "INSERT OR IGNORE INTO reports (kind, sender, reporter, report_id, domain, policy, begin, end, received,"
            " row_count, unread_rows) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            (*head, int(now), len(rows), report.unread_rows),
        )
        if cursor.rowcount:
            places = ",".join("?" * (1 + len(rows[0])))
            statement = f"INSERT INTO {kind}_rows VALUES ({places})"  # noqa: S608 - two names of tables
            self.database.executemany(statement, [(cursor.lastrowid, *row) for row in rows])
        return READ if cursor.rowcount else REPEATED

    def _select_rows(self, report: DmarcReport | TlsReport) -> list[tuple[object, ...]]:
        """The columns of each row about one of our domains."""
        if isinstance(report, TlsReport):
            return [_tls_columns(row, domain) for row in report.rows if (domain := self.config.find_domain(row.domain))]
        return [
            _dmarc_columns(row, domain, messages)
            for row, messages in report.rows.items()
            if messages and (domain := self.config.find_domain(row.header_from or report.domain))
        ]

    def _has_room(self, sender: str, rows: int, now: float) -> bool:
        since = int(now) - DAY
        if not self._fits(SENDER_BOUNDS, rows, "received > ? AND sender = ?", (since, sender)):
            return False
        if not self._fits(ALL_BOUNDS, rows, "received > ?", (since,)):
            return False
        known = "SELECT 1 FROM reports AS earlier WHERE earlier.sender = {} AND earlier.received <= ?"
        if self.database.execute(known.format("?"), (sender, since)).fetchone():
            return True
        newcomers = f"received > ? AND NOT EXISTS ({known.format('reports.sender')})"
        return self._fits(NEWCOMER_BOUNDS, rows, newcomers, (since, since))

    def _fits(self, bounds: DailyBounds, rows: int, condition: str, values: tuple[object, ...]) -> bool:
        statement = f"SELECT count(*), total(row_count) FROM reports WHERE {condition}"  # noqa: S608 - constants
        number, kept_rows = self.database.execute(statement, values).fetchone()
        return bool(number < bounds.reports and kept_rows + rows <= bounds.rows)

    def add_complaint(self, sender: str, messages: str, now: float) -> str:
        """`messages` are digests. Returns COMPLAINT, or why it is not kept. Call it within a transaction."""
        count = "SELECT count(*), count(CASE WHEN sender = ? THEN 1 END) FROM complaints WHERE received > ?"
        number, of_sender = self.database.execute(count, (sender, int(now) - DAY)).fetchone()
        if number >= MAX_COMPLAINTS or of_sender >= MAX_SENDER_COMPLAINTS:
            return OVER_BOUND
        statement = "INSERT OR IGNORE INTO complaints (received, sender, messages) VALUES (?, ?, ?)"
        cursor = self.database.execute(statement, (int(now), sender, messages))
        return COMPLAINT if cursor.rowcount else REPEATED

    def list_complaints(self, now: float) -> Iterator[dict[str, object]]:
        """Of the last day, for the guard."""
        query = "SELECT id, received, sender, messages FROM complaints WHERE received > ? ORDER BY id"
        for number, received, sender, messages in self.database.execute(query, (int(now) - DAY,)):
            yield {"id": number, "time": received, "reporter": sender, "messages": messages.split()}

    def count_outcome(self, outcome: str, now: float, number: int = 1) -> None:
        """Of one day; `summary` shows what was not read."""
        self.database.execute(
            "INSERT INTO outcomes VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET number = number + excluded.number",
            (int(now) // DAY, outcome, number),
        )

    def forget_expired(self, now: float) -> None:
        oldest = int(now) - KEPT_DAYS * DAY
        self.database.execute("DELETE FROM reports WHERE received < ?", (oldest,))
        self.database.execute("DELETE FROM outcomes WHERE day < ?", (oldest // DAY,))
        self.database.execute("DELETE FROM complaints WHERE received < ?", (oldest,))


def _is_of_our_time(report: DmarcReport | TlsReport, now: float) -> bool:
    is_recent = now - MAX_REPORT_AGE < report.end < now + MAX_FUTURE
    return is_recent and 0 <= report.end - report.begin <= MAX_REPORT_SPAN


def _dmarc_columns(row: DmarcRow, domain: str, messages: int) -> tuple[object, ...]:
    checks = format_pairs(row.signatures), format_pairs(row.spf_checks)
    return (domain, row.source, messages, row.dkim, row.spf, row.disposition, *checks, row.reason)


def _tls_columns(row: TlsRow, domain: str) -> tuple[object, ...]:
    return (domain, row.policy, row.result, row.sessions, row.server, row.detail)
