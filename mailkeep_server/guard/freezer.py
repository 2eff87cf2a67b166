"""The frozen accounts, and the decision to freeze one: it has done something that no honest user does."""

import errno
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from mailkeep_server.common.spoilt_files import set_aside
from mailkeep_server.common.wording import count_noun
from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard.account import Account
from mailkeep_server.guard.config import FreezeThresholds, GuardConfig
from mailkeep_server.guard.database import SPAM, Database, Event
from mailkeep_server.guard.ledger import Ledger
from mailkeep_server.guard.limits import WINDOW_NAMES
from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES
from mailkeep_server.guard.stranger_store import StrangerStore

_MISSING = (0, 0, 0, 0)
_MAX_QUOTED, _MAX_NAMED = 100, 20
"""Characters of a bad line, and accounts, that an event names."""


class Freezer:
    """`file` is the freeze list, which the operator and other servers' freezes change too.

    A list that cannot be read freezes nobody anew and thaws nobody: who was frozen last stays so, by the memory or the
    database. The list is set aside and written anew.
    """

    def __init__(self, ledger: Ledger, database: Database, file: Path, now: int) -> None:
        self._ledger, self._database, self._file = ledger, database, file
        self._frozen: freeze_list.FrozenAccounts = {}
        self._file_status: tuple[int, ...] | None = None
        self._checked_at = 0
        self._unwritten: freeze_list.FrozenAccounts = {}
        self._must_rewrite = False
        self._last_failure = ""
        self.on_unreadable: Callable[[OSError], bool] = lambda _: False
        """Called when the list belongs to somebody else. Returns whether root will mend it."""
        last_frozen = {event.account: event for event in database.last_freezes()}
        if not self._is_readable():
            self._frozen = {name: _restore_record(event) for name, event in last_frozen.items()}
        for name in last_frozen.keys() - self.frozen_accounts(now).keys():
            self._note_thaw(now, name)

    def _is_readable(self) -> bool:
        """A list that is missing freezes nobody, but it is no way to thaw: Dovecot then refuses every login."""
        try:
            freeze_list.read_list(self._file)
        except OSError:
            return False
        return self._file.exists()

    def frozen_accounts(self, now: int) -> freeze_list.FrozenAccounts:
        """Reads the file again when it has changed, which is checked at most once a millisecond."""
        if now != self._checked_at:
            self._checked_at = now
            self._refresh(now)
        return self._frozen | self._unwritten if self._unwritten else self._frozen

    def _refresh(self, now: int) -> None:
        try:
            identity = self._identify_file()
            if identity == _MISSING and (self._frozen or self._file_status):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._file))
            if identity != self._file_status:
                self._take_list(now, freeze_list.read_list(self._file))
                self._file_status = identity
        except OSError as error:
            self._replace_list(now, error)

    def _identify_file(self) -> tuple[int, ...]:
        try:
            status = self._file.lstat()
        except FileNotFoundError:
            return _MISSING
        return (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)

    def _take_list(self, now: int, content: freeze_list.FreezeList) -> None:
        before, self._frozen = self._frozen, content.accounts
        for name in self._frozen.keys() - before.keys() if self._file_status else ():
            record = self._frozen[name]
            self._database.add_event(now, "frozen", name, f"by {record.by}: {record.why}")
        for name in before.keys() - self._frozen.keys():
            self._note_thaw(now, name)
        for number, line in content.bad_lines:
            detail = f"line {number} of {self._file} names no account and freezes nobody: {line[:_MAX_QUOTED]}"
            self._database.add_event(now, "state", "", f"{detail}. `mailkeepctl freeze ACCOUNT` freezes")
        self._must_rewrite = not content.is_canonical

    def _replace_list(self, now: int, error: OSError) -> None:
        """Without a readable list, Dovecot refuses every login."""
        if str(error) != self._last_failure:
            self._last_failure = str(error)
            print(f"the freeze list cannot be read: {error}; who was frozen stays frozen", file=sys.stderr)
        if isinstance(error, PermissionError) and not self._file.is_symlink() and self.on_unreadable(error):
            return
        try:
            if self._file.parent.is_dir() and (self._file.is_symlink() or self._file.exists()):
                kept = f"; it is kept as {set_aside(self._file).name}"
            else:
                kept = ""
            freeze_list.restore_list(self._frozen, self._file)
        except OSError as failure:
            print(f"{self._file}: {failure}; tried again in a second", file=sys.stderr)
            return
        self._file_status, self._last_failure = self._identify_file(), ""
        names = ", ".join(sorted(self._frozen)[:_MAX_NAMED]) or "nobody"
        detail = f"{self._file} could not be read ({error}){kept}. Written anew, frozen as before: {names}"
        self._database.add_event(now, "state", "", detail)

    def _note_thaw(self, now: int, name: str) -> None:
        self._ledger.reset_violations(now, name)
        store = StrangerStore(self._database)
        store.end_hold(now, name)
        store.keep_held(name)
        self._database.add_event(now, "thawed", name, "may send and log in again")

    def freeze_abuser(self, now: int, name: str, account: Account, config: GuardConfig, source: str = "") -> None:
        """Freezes the account if it has reached a threshold; in mode `learn`, notes an event instead. `source` ends the
        reason: where the last try came from."""
        if abuse := describe_abuse(now, account, config.freeze_thresholds):
            self.freeze_for(now, name, account, config, f"{abuse}{source}")

    def freeze_for(self, now: int, name: str, account: Account, config: GuardConfig, reason: str) -> None:
        """As `freeze_abuser`, for a reason that is certain."""
        if name in self.frozen_accounts(now):
            return
        if config.mode == "learn":
            if account.should_notify("would-freeze", now):
                self._database.add_event(now, "would-freeze", name, reason)
            return
        self._unwritten[name] = freeze_list.FreezeRecord(datetime.fromtimestamp(now / 1000, UTC), "guard", reason)
        self.write_freezes(now)

    def note_spam(self, now: int, name: str, account: Account, config: GuardConfig, source: str) -> None:
        """Counts a message that the spam filter is sure about, reports it, and freezes whoever sends many."""
        account.violations.spam.append(now)
        self._database.add_violation(now, name, SPAM, "")
        if account.should_notify("spam", now):
            count, threshold = count_spam(now, account), config.freeze_thresholds.spam_messages
            tries = f"{count_noun(count, 'such message')} in {WINDOW_NAMES[HOUR]}, {threshold} freeze it"
            self._database.add_event(now, "spam", name, f"sent what looks like spam; {tries}{source}")
        self.freeze_abuser(now, name, account, config, source)

    def write_freezes(self, now: int) -> None:
        """To be called regularly. A freeze that cannot be written, as on a full disk, holds in memory until it can."""
        if self._must_rewrite:
            self._rewrite_list()
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

    def _rewrite_list(self) -> None:
        """What a person wrote by hand, as Dovecot reads it: it would let `ANNA@example.org ` log in."""
        try:
            freeze_list.create_if_missing(self._file)
            self._must_rewrite = False
        except OSError as error:
            print(f"{self._file}: {error}; until it can be written, Dovecot may not see all of it", file=sys.stderr)


def _restore_record(event: Event) -> freeze_list.FreezeRecord:
    """From the event of a freeze, whose detail is `by NAME: WHY`."""
    by, _, why = event.detail.removeprefix("by ").partition(": ")
    return freeze_list.FreezeRecord(datetime.fromtimestamp(event.time // 1000, UTC), by, why)


def count_over_limit(now: int, account: Account) -> int:
    """Messages refused over a limit, in ten minutes."""
    return sum(time > now - TEN_MINUTES for time in account.violations.over_limit)


def count_unowned(now: int, account: Account) -> int:
    """Messages as somebody else, in an hour."""
    return sum(time > now - HOUR for time in account.violations.unowned_sender)


def count_spam(now: int, account: Account) -> int:
    """Messages that the spam filter is sure about, in an hour."""
    return sum(time > now - HOUR for time in account.violations.spam)


def describe_abuse(now: int, account: Account, thresholds: FreezeThresholds) -> str | None:
    """Which threshold the account has reached, or None."""
    violations = account.violations
    over_limit, unowned = count_over_limit(now, account), count_unowned(now, account)
    networks, spam = account.count_refused_networks(now), count_spam(now, account)
    new = sum(time > now - DAY for time in violations.new_recipients.values())
    counts = (
        (over_limit, thresholds.refused_tries, f"{over_limit} messages over its limits in {WINDOW_NAMES[TEN_MINUTES]}"),
        (unowned, thresholds.foreign_senders, f"{unowned} messages as somebody else in {WINDOW_NAMES[HOUR]}"),
        (spam, thresholds.spam_messages, f"{spam} messages that look like spam in {WINDOW_NAMES[HOUR]}"),
        (networks, thresholds.networks, f"{networks} networks beyond its limit in {WINDOW_NAMES[HOUR]}"),
        (new, thresholds.new_recipients, f"{new} first-time recipients over its limit in {WINDOW_NAMES[DAY]}"),
    )
    return next((reason for number, threshold, reason in counts if number >= threshold), None)
