"""`report-reader`, by `mailkeep-reports.timer`: reads the copies that wait, keeps rows, announces what is new.

A message that ends the reader must not end each later run, too. So the file `current` has its name while it is read: if
there is one at the start, that message counts as unreadable. The mail itself is in the mailbox. Messages are removed
after their rows are committed; a run that is killed between reads them again, and each report counts once.
"""

import json
import sqlite3
import sys
import time
from pathlib import Path

from mailkeep_server.common import paths
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.spoilt_files import set_aside
from mailkeep_server.common.wording import count_noun
from mailkeep_server.reports import config
from mailkeep_server.reports.announcements import (
    announce_failures,
    list_failures,
    note_failures,
    write_announcements,
)
from mailkeep_server.reports.complaint import Complaint, find_proven_sender, read_complaint
from mailkeep_server.reports.config import ReportsConfig
from mailkeep_server.reports.intake import OVERFLOW_FILE, PARTIAL
from mailkeep_server.reports.report_mail import read_report_mail
from mailkeep_server.reports.store import NAMELESS, OVERFLOW, READ, UNPROVEN, UNREADABLE, ReportStore

STATE = Path(paths.REPORTS_STATE)
BATCH = 50
"""Messages whose rows are committed together: a commit waits for the disk."""
PARTIAL_SECONDS = 3600.0
"""Postfix ends an intake after a minute (reports_time_limit)."""
MAX_LOGGED = 20
"""Lines of the journal in one run about what could not be read."""


class Reader:
    def __init__(self, state: Path, settings: ReportsConfig) -> None:
        self.state, self.settings = state, settings
        self.spool, self.current = state / "new", state / "current"
        self.store = open_store(state / paths.REPORTS_DATABASE_NAME, settings)
        self.logged = 0

    def read_spool(self, now: float) -> int:
        """The number of messages that were read. Raises OSError and sqlite3.Error."""
        with self.store.transaction():
            self._skip_last_message(now)
            self._count_overflow(now)
        self._remove_partial_copies(now)
        messages = sorted(path for path in self.spool.iterdir() if path.is_file() and not path.is_symlink())
        for begin in range(0, len(messages), BATCH):
            self._read_batch(messages[begin : begin + BATCH], now)
        return len(messages)

    def _read_batch(self, messages: list[Path], now: float) -> None:
        with self.store.transaction(), self.current.open("w") as current:
            for message in messages:
                current.seek(0)
                current.write(f"{message.name}\n")
                current.flush()
                self.read_message(message.read_bytes(), now)
        self.current.unlink()
        for message in messages:
            message.unlink()

    def _skip_last_message(self, now: float) -> None:
        try:
            name = self.current.read_text().partition("\n")[0]
        except FileNotFoundError:
            return
        self._note_fault("the reader ended while it read a message", now)
        if name:
            (self.spool / Path(name).name).unlink(missing_ok=True)
        self.current.unlink()

    def read_message(self, message: bytes, now: float) -> None:
        if (complaint := read_complaint(message)) and complaint.counts:
            self._take_complaint(message, complaint, now)
            return
        mail = read_report_mail(message)
        for fault in mail.faults:
            self._note_fault(f"a report of {mail.sender or 'nobody'} cannot be read: {fault}", now)
        for report in mail.reports:
            outcome = self.store.add_report(mail.sender, report, now)
            self.store.count_outcome(outcome, now)
            if outcome == READ:
                failures = list_failures(report, mail.sender, self.settings)
                note_failures(self.store.database, failures, now)

    def _take_complaint(self, message: bytes, complaint: Complaint, now: float) -> None:
        """The guard hears of it by `write_complaints`, if it can be believed. The message is in the mailbox."""
        sender = find_proven_sender(message, self.settings.host)
        if not complaint.messages:
            outcome = NAMELESS
        elif not sender:
            outcome = UNPROVEN
        else:
            outcome = self.store.add_complaint(sender, " ".join(complaint.messages), now)
        self.store.count_outcome(outcome, now)

    def write_complaints(self, now: float) -> None:
        """For the watch, which remembers the number of the last that the guard has heard of. Raises OSError."""
        if complaints := list(self.store.list_complaints(now)):
            content = {"last": complaints[-1]["id"], "complaints": complaints}
            atomic_write(self.state / paths.REPORTS_COMPLAINTS_NAME, json.dumps(content))

    def announce(self, now: float) -> None:
        with self.store.transaction():
            sentences = list(announce_failures(self.store.database, now))
            # Before the commit: a run that is killed here announces twice, not never.
            write_announcements(self.state / paths.REPORTS_ANNOUNCEMENTS_NAME, sentences, now)

    def _note_fault(self, text: str, now: float) -> None:
        self.store.count_outcome(UNREADABLE, now)
        self.logged += 1
        if self.logged <= MAX_LOGGED:
            print(text, file=sys.stderr)

    def _remove_partial_copies(self, now: float) -> None:
        """An intake that was killed leaves one."""
        for path in self.state.glob(f"{PARTIAL}*"):
            if now - path.stat().st_mtime > PARTIAL_SECONDS:
                path.unlink()

    def _count_overflow(self, now: float) -> None:
        marker = self.state / OVERFLOW_FILE
        if marker.exists():
            self.store.count_outcome(OVERFLOW, now, marker.stat().st_size)
            marker.unlink()


def open_store(path: Path, settings: ReportsConfig) -> ReportStore:
    """A database that cannot be read is set aside: a new one costs history, and nothing else. Raises sqlite3.Error."""
    try:
        return ReportStore(path, settings)
    except sqlite3.OperationalError:  # no disk, no rights: a new file would not help
        raise
    except sqlite3.DatabaseError as error:
        print(f"{path}: {error}: it is kept as {set_aside(path).name}, and a new one begins", file=sys.stderr)
        return ReportStore(path, settings)


def main(arguments: list[str]) -> int:
    settings = config.load_config()
    if arguments == ["--check"]:
        return 0
    now = time.time()
    reader = Reader(STATE, settings)
    number = reader.read_spool(now)
    with reader.store.transaction():
        reader.store.forget_expired(now)
    reader.announce(now)
    reader.write_complaints(now)
    reader.store.close()
    print(f"{count_noun(number, 'message')} looked at for reports")
    return 0
