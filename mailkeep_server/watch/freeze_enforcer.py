"""Enforces freezes: cuts sessions and holds mail at once, every two seconds in the first minute, then every minute.

A thread of its own reads the list of frozen accounts twice a second. Another enforces the freezes, which may take long
on a full queue. An alert reports the result, or after a few seconds that the enforcement is under way.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from mailkeep_server.common.wording import count_noun, describe_error
from mailkeep_server.freezes import freeze_list
from mailkeep_server.freezes.enforce import Enforcement
from mailkeep_server.freezes.freeze_list import FreezeRecord
from mailkeep_server.watch.alert_queue import AlertQueue

LOOP_SECONDS = 0.5
FIRST_MINUTE = 60.0  # seconds
FIRST_INTERVAL, LATER_INTERVAL = 2.0, 60.0  # seconds between enforcements, in the first minute and later
STUCK_SECONDS = 300.0  # for one step of a thread: a read of the list, or one account's enforcement
REPORT_SECONDS = 4.0  # until a freeze is reported, whatever has been done

Enforce = Callable[[str, Collection[str]], Enforcement]


class FreezeCase:
    """A frozen account: what has been done, and when it is due again. Times are monotonic seconds."""

    def __init__(self, freeze: FreezeRecord, now: float) -> None:
        self.freeze, self.since, self.due = freeze, now, now
        self.messages_held, self.sessions_cut, self.sample, self.error = 0, 0, "", ""
        self.was_enforced = False

    def add_result(self, result: Enforcement, now: float) -> None:
        self.messages_held += result.messages_held
        self.sessions_cut += result.sessions_cut
        self.sample = self.sample or result.sample
        self.error, self.was_enforced = result.error, True
        self.due = now + (FIRST_INTERVAL if now - self.since < FIRST_MINUTE else LATER_INTERVAL)

    def describe(self, account: str) -> str:
        held, cut = count_noun(self.messages_held, "message"), count_noun(self.sessions_cut, "session")
        result = f"{held} held, {cut} cut" if self.was_enforced else "Its mail is being held"
        sample = f"; a sample is in {self.sample}" if self.sample else ""
        error = f"; NOT ALL was done: {self.error}" if self.error else ""
        next_step = f"`mailkeepctl queue --account {account}` shows its mail; docs/after-a-break-in.md says what to do"
        return f"{account} is frozen by {self.freeze.by}: {self.freeze.why}. {result}{sample}{error}. {next_step}"


class FreezeEnforcer:
    def __init__(
        self, file: Path, enforce: Enforce, addresses: Mapping[str, Collection[str]], alerts: AlertQueue
    ) -> None:
        self.file, self.enforce, self.addresses, self.alerts = file, enforce, addresses, alerts
        self.cases: dict[str, FreezeCase] = {}
        self.file_identity: tuple[int, int, int] | None = (0, 0, 0)
        self.lock = threading.Lock()
        self.changed = threading.Event()
        self.last_steps = dict.fromkeys(("read", "enforce"), time.monotonic())

    def is_stuck(self, now: float) -> bool:
        """Whether one of the threads hangs. Messages already held stay so: the next start goes on from there."""
        return now - min(self.last_steps.values()) > STUCK_SECONDS

    def start(self) -> None:
        for name, step, pause in (
            ("read", self.read_freezes, lambda: time.sleep(LOOP_SECONDS)),
            ("enforce", self.enforce_due, self.await_due),
        ):
            threading.Thread(target=self._repeat, args=(name, step, pause), name=name, daemon=True).start()

    def _repeat(self, name: str, step: Callable[[], None], pause: Callable[[], None]) -> None:
        while True:
            try:
                step()
                self.alerts.end_trouble(f"freezes:{name}")
            except Exception as error:  # whatever it is, the next step is due
                text = f"Freezes are not enforced: {describe_error(error)}"
                self.alerts.report_trouble(f"freezes:{name}", text, "Freezes are enforced again")
            pause()

    def await_due(self) -> None:
        """Until an enforcement is due, or the list has changed: on most days there is none."""
        self.changed.clear()
        with self.lock:
            due = min((case.due for case in self.cases.values()), default=float("inf"))
        self.changed.wait(max(LOOP_SECONDS, min(due - time.monotonic(), LATER_INTERVAL)))

    def read_freezes(self) -> None:
        """Which accounts are frozen now. Raises OSError."""
        now = self.last_steps["read"] = time.monotonic()
        if (identity := _identify_file(self.file)) != self.file_identity:
            freezes = freeze_list.read_freezes(self.file)
            self.file_identity = identity
            with self.lock:
                kept = {account: case for account, case in self.cases.items() if account in freezes}
                new = {account: FreezeCase(freeze, now) for account, freeze in freezes.items() if account not in kept}
                self.cases = kept | new
            self.changed.set()
        self._report(now)

    def _report(self, now: float) -> None:
        with self.lock:
            troubles = {
                account: (case.describe(account), f"{account} is no longer frozen")
                for account, case in self.cases.items()
                if case.was_enforced or now - case.since > REPORT_SECONDS
            }
            waiting = set(self.cases) - set(troubles)
        for account in waiting:  # reported before this start, and still frozen
            if trouble := self.alerts.open_troubles.get(f"frozen:{account}"):
                troubles[account] = trouble.text, trouble.end_text
        self.alerts.update_troubles("frozen", troubles)

    def enforce_due(self) -> None:
        now = self.last_steps["enforce"] = time.monotonic()
        with self.lock:
            due = [(account, case) for account, case in self.cases.items() if case.due <= now]
        for account, case in due:
            result = self.enforce(account, self.addresses.get(account, (account,)))
            with self.lock:
                now = self.last_steps["enforce"] = time.monotonic()
                case.add_result(result, now)


def _identify_file(file: Path) -> tuple[int, int, int] | None:
    """It changes whenever the file is replaced; None: there is no file."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
