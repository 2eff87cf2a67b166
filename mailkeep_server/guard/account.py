"""The guard's memory of one account."""

from typing import TypeVar

from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES, SendHistory

K = TypeVar("K")


class Violations:
    """What an account did that honest users rarely do, and when that was last reported."""

    __slots__ = ("exceptions", "last_notified", "new_recipients", "over_limit", "spam", "unowned_sender")

    def __init__(self) -> None:
        self.over_limit: list[int] = []
        """Times of messages refused over a limit."""
        self.unowned_sender: list[int] = []
        """Times of messages with an address of somebody else."""
        self.spam: list[int] = []
        """Times of messages that the spam filter is sure about. They were sent."""
        self.new_recipients: dict[int, int] = {}
        """First-time recipients refused over the limit: hash, and time."""
        self.exceptions: dict[str, list[int]] = {}
        """Times of read receipts and redirects, one for each recipient, by RECEIPT or REDIRECT. No violations."""
        self.last_notified: dict[str, int] = {}
        """By subject."""


class Account:
    __slots__ = ("_script_history", "_violations", "history", "is_first_use", "networks")

    def __init__(self) -> None:
        self.history = SendHistory()
        self.networks: dict[str, int] = {}
        """Networks it has sent from or tried to, with the time of the last try; negative where it was refused."""
        self.is_first_use = False
        """Whether it has never sent before, as far as the database goes back."""
        self._violations: Violations | None = None
        self._script_history: SendHistory | None = None

    @property
    def script_history(self) -> SendHistory:
        """What its Sieve script has sent, a part of `history`. Created when first needed: few have any."""
        if self._script_history is None:
            self._script_history = SendHistory()
        return self._script_history

    @property
    def violations(self) -> Violations:
        """Created when first needed: few of 100,000 accounts ever have any."""
        if self._violations is None:
            self._violations = Violations()
        return self._violations

    def used_networks(self, now: int) -> dict[str, int]:
        """The networks it has sent from in the last hour."""
        return {name: time for name, time in self.networks.items() if time > now - HOUR}

    def count_refused_networks(self, now: int) -> int:
        """In the last hour."""
        return sum(-time > now - HOUR for time in self.networks.values())

    def should_notify(self, subject: str, now: int, interval: int = HOUR) -> bool:
        """Whether to tell the operator; if so, not again within `interval`."""
        last_notified = self.violations.last_notified
        if now - last_notified.get(subject, -interval) < interval:
            return False
        last_notified[subject] = now
        return True

    def reset_violations(self, now: int) -> None:
        """After a thaw. Its messages still count."""
        self.networks = self.used_networks(now)
        violations = self.violations
        violations.over_limit, violations.unowned_sender, violations.new_recipients = [], [], {}
        violations.spam = []

    def clamp_times_to(self, now: int) -> None:
        """Times later than `now` become now: the clock was ahead."""
        self.history.clamp_times_to(now)
        if self._script_history:
            self._script_history.clamp_times_to(now)
        self.networks = {name: max(-now, min(now, time)) for name, time in self.networks.items()}
        if violations := self._violations:
            violations.over_limit = [min(now, time) for time in violations.over_limit]
            violations.unowned_sender = [min(now, time) for time in violations.unowned_sender]
            violations.spam = [min(now, time) for time in violations.spam]
            violations.new_recipients = _clamp_values(violations.new_recipients, now)
            violations.last_notified = _clamp_values(violations.last_notified, now)
            for kind, times in violations.exceptions.items():
                violations.exceptions[kind] = [min(now, time) for time in times]

    def forget_expired(self, now: int) -> bool:
        """Drops all entries older than their window. Returns whether anything is left."""
        self.networks = {name: time for name, time in self.networks.items() if abs(time) > now - HOUR}
        if violations := self._violations:
            violations.over_limit = [time for time in violations.over_limit if time > now - TEN_MINUTES]
            violations.unowned_sender = [time for time in violations.unowned_sender if time > now - HOUR]
            violations.spam = [time for time in violations.spam if time > now - HOUR]
            violations.new_recipients = _later_values(violations.new_recipients, now - DAY)
            violations.last_notified = _later_values(violations.last_notified, now - DAY)
            recent = {
                kind: [time for time in times if time > now - DAY] for kind, times in violations.exceptions.items()
            }
            violations.exceptions = {kind: times for kind, times in recent.items() if times}
            if not any(getattr(violations, name) for name in Violations.__slots__):
                self._violations = None
        if self._script_history and not self._script_history.forget_expired(now):
            self._script_history = None
        return self.history.forget_expired(now) or bool(self.networks) or self._violations is not None


def _clamp_values(times: dict[K, int], now: int) -> dict[K, int]:
    return {key: min(now, time) for key, time in times.items()}


def _later_values(times: dict[K, int], limit: int) -> dict[K, int]:
    return {key: time for key, time in times.items() if time > limit}
