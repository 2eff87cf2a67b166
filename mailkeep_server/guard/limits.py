"""How much may be sent in which time, and whether something more still fits."""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES, Sent, Used

WINDOWS = {"10_minutes": TEN_MINUTES, "hour": HOUR, "day": DAY}
NAMES = {TEN_MINUTES: "10 minutes", HOUR: "an hour", DAY: "a day"}
NEAR = 0.8
"""The part of a limit from which on the operator hears of it."""

_ANY = 1 << 62
_NOTHING = Used(0, 0, 0)


class Limit(NamedTuple):
    name: str
    column: str
    """A field of Used."""
    window: int
    most: int

    def __str__(self) -> str:
        what = {"new": "first-time recipients"}.get(self.column, self.column)
        return f"{self.most} {what} in {NAMES[self.window]}"


class Over(NamedTuple):
    """A limit that something would exceed, and from when on it would not."""

    limit: Limit
    free_at: int


@dataclass(frozen=True)
class Counted:
    """Numbers that are counted over time windows: the fields `WHAT_per_WINDOW` of a subclass."""

    counted: tuple[Limit, ...] = field(init=False, repr=False, compare=False)
    _tightest: Used = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counted", tuple(self._limits()))
        least = [
            min((one.most for one in self.counted if one.column == column), default=_ANY) for column in Used._fields
        ]
        object.__setattr__(self, "_tightest", Used(*least))

    def _limits(self) -> list[Limit]:
        found = []
        for one in fields(self):
            what, _, window = one.name.partition("_per_")
            column = {"new_recipients": "new"}.get(what, what)
            if window and column in Used._fields:
                found.append(Limit(one.name, column, WINDOWS[window], getattr(self, one.name)))
        return found

    def over(self, sent: Sent, now: int, more: Used) -> Over | None:
        """The limit that keeps `more` out for longest."""
        if self._far_from_all(sent, more, 1):
            return None
        exceeded = [
            Over(limit, sent.free_at(limit.window, limit.column, limit.most, getattr(more, limit.column)))
            for limit in self.counted
            if getattr(sent.used(now, limit.window), limit.column) + getattr(more, limit.column) > limit.most
        ]
        return max(exceeded, key=lambda one: one.free_at, default=None)

    def near(self, sent: Sent, now: int) -> list[tuple[Limit, int]]:
        """The limits that are nearly reached, with how much is used of each."""
        if self._far_from_all(sent, _NOTHING, NEAR):
            return []
        used = [(limit, getattr(sent.used(now, limit.window), limit.column)) for limit in self.counted]
        return [(limit, number) for limit, number in used if number >= limit.most * NEAR]

    def part(self, sent: Sent) -> float:
        """No more than this part of any limit is used, and maybe less."""
        return max(used / most for used, most in zip(sent.remembered(), self._tightest, strict=True))

    def _far_from_all(self, sent: Sent, more: Used, part: float) -> bool:
        """Whether even all that is remembered fits every window: one look instead of seven, for nearly all."""
        messages, recipients, new = sent.remembered()
        most_messages, most_recipients, most_new = self._tightest
        return (
            messages + more.messages < most_messages * part
            and recipients + more.recipients < most_recipients * part
            and new + more.new < most_new * part
        )


@dataclass(frozen=True)
class Limits(Counted):
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
class Ceiling(Counted):
    """How much many senders together may send."""

    recipients_per_hour: int
    recipients_per_day: int
