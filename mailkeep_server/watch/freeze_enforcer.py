"""Carries out freezes: sessions cut and mail held at once, again and again in the first minute, later every minute.

The file of frozen accounts is looked at twice a second, in a thread of its own; what a freeze needs may take long on
a full queue, and is done in another. The operator is told what came of it, or after a few seconds that it is under way.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from mailkeep_server.freezes import freeze_list
from mailkeep_server.freezes.enforce import Enforcement
from mailkeep_server.freezes.freeze_list import FreezeRecord
from mailkeep_server.watch.alert_queue import Desk

LOOK = 0.5  # seconds
OFTEN, FIRST_MINUTE, LATER = 2.0, 60.0, 60.0  # seconds between, for how long, and afterwards
STUCK = 300.0  # seconds for one look, or for one account
PATIENCE = 4.0  # seconds until an account is told to be frozen, whatever came of it

Enforce = Callable[[str, Collection[str]], Enforcement]


class Case:
    """One frozen account: what was done, and when it is due again (seconds, monotonic)."""

    def __init__(self, why: FreezeRecord, now: float) -> None:
        self.why, self.since, self.due = why, now, now
        self.held, self.kicked, self.sample, self.error, self.done = 0, 0, "", "", False

    def text(self, account: str) -> str:
        what = f"{self.held} messages held, {self.kicked} sessions cut" if self.done else "being carried out"
        sample = f"; a sample is in {self.sample}" if self.sample else ""
        error = f"; NOT ALL: {self.error}" if self.error else ""
        return f"{account} is frozen by {self.why.by}: {self.why.why}. {what}{sample}{error}"


class Freezes:
    def __init__(self, file: Path, enforce: Enforce, addresses: Mapping[str, Collection[str]], desk: Desk) -> None:
        self.file, self.enforce, self.addresses, self.desk = file, enforce, addresses, desk
        self.cases: dict[str, Case] = {}
        self.seen: tuple[int, int, int] | None = (0, 0, 0)
        self.lock = threading.Lock()
        self.alive = dict.fromkeys(("look", "carry_out"), time.monotonic())

    def stuck(self, now: float) -> bool:
        """Whether one of the threads hangs. What was held stays held, so that the next start goes on from there."""
        return now - min(self.alive.values()) > STUCK

    def start(self) -> None:
        for name, step in (("freezes", self.look), ("enforce", self.carry_out)):
            threading.Thread(target=self._forever, args=(step,), name=name, daemon=True).start()

    def _forever(self, step: Callable[[], None]) -> None:
        while True:
            try:
                step()
                self.desk.over(f"freezes:{step.__name__}")
            except Exception as error:  # whatever it is, the next look is due
                text = f"Freezes are not carried out: {type(error).__name__}: {error}"
                self.desk.trouble(f"freezes:{step.__name__}", text, "Freezes are carried out again")
            time.sleep(LOOK)

    def look(self) -> None:
        """Who is frozen, and who no longer."""
        now = self.alive["look"] = time.monotonic()
        if (seen := _identity(self.file)) != self.seen:
            there = freeze_list.read_freezes(self.file)
            self.seen = seen
            with self.lock:
                kept = {account: case for account, case in self.cases.items() if account in there}
                new = {account: Case(why, now) for account, why in there.items() if account not in kept}
                self.cases = kept | new
        with self.lock:
            told = {
                account: (case.text(account), f"{account} is no longer frozen")
                for account, case in self.cases.items()
                if case.done or now - case.since > PATIENCE
            }
            waiting = set(self.cases) - set(told)
        for account in waiting:  # told before this start, and not over
            if one := self.desk.open.get(f"frozen:{account}"):
                told[account] = one.text, one.over
        self.desk.troubles("frozen", told)

    def carry_out(self) -> None:
        """All that is due."""
        now = self.alive["carry_out"] = time.monotonic()
        with self.lock:
            due = [(account, case) for account, case in self.cases.items() if case.due <= now]
        for account, case in due:
            did = self.enforce(account, self.addresses.get(account, (account,)))
            with self.lock:
                case.held += did.messages_held
                case.kicked += did.sessions_cut
                case.sample = case.sample or did.sample
                case.error, case.done = did.error, True
                now = self.alive["carry_out"] = time.monotonic()
                case.due = now + (OFTEN if now - case.since < FIRST_MINUTE else LATER)


def _identity(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
