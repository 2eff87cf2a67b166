"""Limits on how much may be sent in which time, and whether something more still fits."""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES, SendHistory, Usage

WINDOWS = {"10_minutes": TEN_MINUTES, "hour": HOUR, "day": DAY}
WINDOW_NAMES = {TEN_MINUTES: "10 minutes", HOUR: "an hour", DAY: "a day"}
NEAR_FRACTION = 0.8
"""The fraction of a limit from which on the operator gets an alert."""

_UNLIMITED = 1 << 62
_NO_USAGE = Usage(0, 0, 0)


class Limit(NamedTuple):
    name: str
    """As in mail.yml: `recipients_per_hour`."""
    column: str
    """A field of Usage."""
    window: int
    maximum: int

    def __str__(self) -> str:
        noun = "first-time recipients" if self.column == "new_recipients" else self.column
        return f"{self.maximum} {noun} in {WINDOW_NAMES[self.window]}"


class ExceededLimit(NamedTuple):
    """A limit that something more would exceed, and the time from which it would fit."""

    limit: Limit
    free_at: int


@dataclass(frozen=True)
class RateLimits:
    """Limits over time windows: the fields of a subclass whose names are `COLUMN_per_WINDOW`."""

    rate_limits: tuple[Limit, ...] = field(init=False, repr=False, compare=False)
    _tightest: Usage = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rate_limits = tuple(self._list_rate_limits())
        tightest = [
            min((limit.maximum for limit in rate_limits if limit.column == column), default=_UNLIMITED)
            for column in Usage._fields
        ]
        object.__setattr__(self, "rate_limits", rate_limits)
        object.__setattr__(self, "_tightest", Usage(*tightest))

    def _list_rate_limits(self) -> list[Limit]:
        parts = {name: name.partition("_per_") for name in (spec.name for spec in fields(self))}
        return [
            Limit(name, column, WINDOWS[window], getattr(self, name))
            for name, (column, _, window) in parts.items()
            if column in Usage._fields
        ]

    def find_exceeded(self, history: SendHistory, now: int, more: Usage) -> ExceededLimit | None:
        """The limit that keeps `more` out for longest, or None if it fits."""
        if self._is_below_all(history, more, 1):
            return None
        exceeded = [
            ExceededLimit(
                limit, history.free_at(limit.window, limit.column, limit.maximum, getattr(more, limit.column))
            )
            for limit in self.rate_limits
            if getattr(history.usage_within(now, limit.window), limit.column) + getattr(more, limit.column)
            > limit.maximum
        ]
        return max(exceeded, key=lambda excess: excess.free_at, default=None)

    def find_nearly_reached(self, history: SendHistory, now: int) -> list[tuple[Limit, int]]:
        """The limits of which NEAR_FRACTION is used, each with the number used."""
        if self._is_below_all(history, _NO_USAGE, NEAR_FRACTION):
            return []
        used = [(limit, getattr(history.usage_within(now, limit.window), limit.column)) for limit in self.rate_limits]
        return [(limit, number) for limit, number in used if number >= limit.maximum * NEAR_FRACTION]

    def max_used_fraction(self, history: SendHistory) -> float:
        """No limit is used beyond this fraction; the real one may be less."""
        return max(used / maximum for used, maximum in zip(history.usage_bound(), self._tightest, strict=True))

    def _is_below_all(self, history: SendHistory, more: Usage, fraction: float) -> bool:
        """Whether even the whole history fits every window: one look instead of seven, for nearly all accounts."""
        messages, recipients, new_recipients = history.usage_bound()
        max_messages, max_recipients, max_new_recipients = self._tightest
        return (
            messages + more.messages < max_messages * fraction
            and recipients + more.recipients < max_recipients * fraction
            and new_recipients + more.new_recipients < max_new_recipients * fraction
        )


@dataclass(frozen=True)
class AccountLimits(RateLimits):
    """How much an account may send: in any ten minutes, any hour, any day."""

    messages_per_10_minutes: int
    messages_per_hour: int
    messages_per_day: int
    recipients_per_10_minutes: int
    recipients_per_hour: int
    recipients_per_day: int
    new_recipients_per_day: int
    networks_per_hour: int


@dataclass(frozen=True)
class ListLimits:
    """How much strangers may send to one alias or catch-all. Only members elsewhere count."""

    recipients_per_hour: int
    recipients_per_day: int
    messages_per_hour: int
    """However long a list is, as many messages fit."""
    messages_per_day: int

    def for_list(self, members: int) -> "Ceiling":
        """For a list with as many members elsewhere."""
        return Ceiling(
            recipients_per_hour=max(self.recipients_per_hour, self.messages_per_hour * members),
            recipients_per_day=max(self.recipients_per_day, self.messages_per_day * members),
        )


@dataclass(frozen=True)
class ReceivingLimits:
    """How much an account receives in any hour."""

    messages_per_hour: int
    """From senders of each `Rank`."""
    network_messages_per_hour: int
    """Of these, from one network."""
    new_senders_per_hour: int
    """First-time senders, by domain, at which a mail bomb begins."""


@dataclass(frozen=True)
class Ceiling(RateLimits):
    """How much many senders together may send."""

    recipients_per_hour: int
    recipients_per_day: int
