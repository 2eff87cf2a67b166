"""The frozen accounts, and the decision to freeze one: it has done something that no honest user does."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard.account import Account
from mailkeep_server.guard.config import FreezeThresholds, GuardConfig
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.ledger import Ledger
from mailkeep_server.guard.limits import WINDOW_NAMES
from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES


class Freezer:
    """`file` is the freeze list, which the operator and other servers' freezes change too."""

    def __init__(self, ledger: Ledger, database: Database, file: Path, now: int) -> None:
        self._ledger, self._database, self._file = ledger, database, file
        self._frozen: freeze_list.FrozenAccounts = {}
        self._file_status: tuple[int, ...] | None = None
        self._checked_at = 0
        self._unwritten: freeze_list.FrozenAccounts = {}
        for name in database.accounts_last_frozen() - self.frozen_accounts(now).keys():
            self._note_thaw(now, name)

    def frozen_accounts(self, now: int) -> freeze_list.FrozenAccounts:
        """Reads the file again when it has changed, which is checked at most once a millisecond."""
        if now != self._checked_at:
            self._checked_at = now
            self._refresh(now)
        return self._frozen | self._unwritten if self._unwritten else self._frozen

    def _refresh(self, now: int) -> None:
        try:
            status = self._file.stat()
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
        except FileNotFoundError:
            identity = (0, 0, 0)
        if identity != self._file_status:
            before, self._frozen = self._frozen, freeze_list.read_freezes(self._file)
            for name in self._frozen.keys() - before.keys() if self._file_status else ():
                record = self._frozen[name]
                self._database.add_event(now, "frozen", name, f"by {record.by}: {record.why}")
            for name in before.keys() - self._frozen.keys():
                self._note_thaw(now, name)
            self._file_status = identity

    def _note_thaw(self, now: int, name: str) -> None:
        self._ledger.reset_violations(now, name)
        self._database.add_event(now, "thawed", name, "may send and log in again")

    def freeze_abuser(self, now: int, name: str, account: Account, config: GuardConfig) -> None:
        """Freezes the account if it has reached a threshold; in mode `learn`, notes an event instead."""
        reason = describe_abuse(now, account, config.freeze_thresholds)
        if not reason or name in self.frozen_accounts(now):
            return
        if config.mode == "learn":
            if account.should_notify("would-freeze", now):
                self._database.add_event(now, "would-freeze", name, reason)
            return
        self._unwritten[name] = freeze_list.FreezeRecord(datetime.fromtimestamp(now / 1000, UTC), "guard", reason)
        self.write_freezes(now)

    def write_freezes(self, now: int) -> None:
        """To be called regularly. A freeze that cannot be written, as on a full disk, holds in memory until it can."""
        for name, record in [*self._unwritten.items()]:
            try:
                freeze_list.freeze_account(name, record.by, record.why, record.at, self._file)
            except OSError as error:
                print(
                    f"{self._file}: {error}; until it can be written, {name} cannot send but can log in",
                    file=sys.stderr,
                )
                return
            del self._unwritten[name]
        self._refresh(now)


def describe_abuse(now: int, account: Account, thresholds: FreezeThresholds) -> str | None:
    """Which threshold the account has reached, or None."""
    violations = account.violations
    over_limit = sum(time > now - TEN_MINUTES for time in violations.over_limit)
    unowned = sum(time > now - HOUR for time in violations.unowned_sender)
    networks = account.count_refused_networks(now)
    new = sum(time > now - DAY for time in violations.new_recipients.values())
    counts = (
        (over_limit, thresholds.refused_tries, f"{over_limit} messages over its limits in {WINDOW_NAMES[TEN_MINUTES]}"),
        (unowned, thresholds.foreign_senders, f"{unowned} messages as somebody else in {WINDOW_NAMES[HOUR]}"),
        (networks, thresholds.networks, f"{networks} networks beyond its limit in {WINDOW_NAMES[HOUR]}"),
        (new, thresholds.new_recipients, f"{new} first-time recipients over its limit in {WINDOW_NAMES[DAY]}"),
    )
    return next((reason for number, threshold, reason in counts if number >= threshold), None)
