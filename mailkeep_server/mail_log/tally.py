"""What is counted: who a message is from, what became of each recipient, and how often that happened.

Only the last fate of a recipient counts: whoever waits and gets the message at last is `sent`. Tries that ended in a
deferral are counted beside.
"""

from collections import Counter
from typing import NamedTuple

SENT, BOUNCED, WAITING, DELETED, UNKNOWN, REJECTED, HELD, UNCLEAR = (
    "sent",
    "bounced",
    "waiting",
    "deleted",
    "unknown",
    "rejected",
    "held",
    "unclear",
)
NO_LOGIN, THIS_SERVER, LOCAL, EARLIER = "(no login)", "(this server)", "(local {})", "(before this log)"
"""Accounts of messages that came without a login: from elsewhere, the server's own notices and forwards, from programs
on it. The last is of those that entered the queue before the log begins."""
NO_NAME = "(no name)"
"""The account of a login that the log does not name."""
OTHERS = "(others)"
MAX_NAMES = 5000
"""Different accounts, networks, remotes and domains, each. What is beyond is counted as `(others)`."""


class Origin(NamedTuple):
    """Where a message came from. `network` is empty unless it is asked for."""

    account: str
    network: str = ""


class Event(str):
    """A fate of one recipient. Fields are empty unless they are asked for. `time` is up to the hour. What is not
    `is_counted` lies outside of the time asked for, and is followed all the same.

    It is a text, because Python keeps the hash of a text: each line of a delivery looks one up.
    """

    __slots__ = ("code", "domain", "fate", "is_counted", "is_waiting", "remote", "time")
    fate: str
    time: str
    remote: str
    domain: str
    code: str
    is_counted: bool
    is_waiting: bool

    def __new__(
        cls, fate: str, time: str = "", remote: str = "", domain: str = "", code: str = "", is_counted: bool = True
    ) -> "Event":
        event = super().__new__(cls, "\t".join((fate, time, remote, domain, code, str(is_counted))))
        event.fate, event.time, event.remote, event.domain, event.code = fate, time, remote, domain, code
        event.is_counted, event.is_waiting = is_counted, fate == WAITING
        return event

    def __reduce__(self) -> tuple[type["Event"], tuple[str | bool, ...]]:
        return Event, (self.fate, self.time, self.remote, self.domain, self.code, self.is_counted)


class Moment(NamedTuple):
    """The hour of a line, if it is asked for, and whether the line lies within the time asked for."""

    hour: str = ""
    is_counted: bool = True


class Tally:
    """Sums, which add up over parts of a log."""

    def __init__(self) -> None:
        self.fates: Counter[tuple[Origin, Event]] = Counter()
        """By the last fate; a recipient that no longer waits is taken out where it waited."""
        self.deferrals: Counter[tuple[Origin, Event]] = Counter()
        self.arrivals: dict[tuple[Origin, Moment], list[int]] = {}
        """Messages that entered the queue, their recipients and bytes."""
        self.logins: Counter[tuple[Origin, Moment, bool]] = Counter()
        """With whether they were good."""
        self.first, self.last = "", ""
        """The times of the earliest and the latest line."""
        self.dropped = 0
        """Messages that waited while too many others did: their later fate is counted, but not as theirs."""

    def add_fate(self, origin: Origin, former: Event | None, event: Event, number: int = 1) -> None:
        """`number` recipients, of which each waited by `former`, if any."""
        if event.is_counted:
            self.fates[origin, event] += number
            if event.is_waiting:
                self.deferrals[origin, event] += number
        if former and former.is_counted:
            self.fates[origin, former] -= number

    def add_message(self, origin: Origin, moment: Moment, people: int, size: int) -> None:
        key = origin, moment
        if (sums := self.arrivals.get(key)) is None:
            sums = self.arrivals[key] = [0, 0, 0]
        sums[0] += 1
        sums[1] += people
        sums[2] += size

    def add_login(self, origin: Origin, moment: Moment, *, is_good: bool, number: int = 1) -> None:
        if moment.is_counted:
            self.logins[origin, moment, is_good] += number

    def add(self, other: "Tally") -> None:
        self.fates.update(other.fates)
        self.deferrals.update(other.deferrals)
        self.logins.update(other.logins)
        for key, numbers in other.arrivals.items():
            sums = self.arrivals.setdefault(key, [0, 0, 0])
            sums[:] = map(sum, zip(sums, numbers, strict=True))
        self.dropped += other.dropped
        self.note_times(other.first, other.last)

    def note_times(self, *times: str) -> None:
        known = [time for time in (self.first, self.last, *times) if time]
        self.first, self.last = min(known, default=""), max(known, default="")
