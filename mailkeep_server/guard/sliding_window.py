"""Exact sliding windows: how much was sent in the last ten minutes, hour and day, at any moment.

Each message is a row that leaves a window to the millisecond when it is as old as the window is long. Fixed windows
would let twice the limit through around the moment when one ends and the next begins.
"""

from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

TEN_MINUTES, HOUR, DAY = 600_000, 3_600_000, 86_400_000
"""Milliseconds, as all times here since the epoch."""

MOST_BACK = TEN_MINUTES
"""A clock that goes back by more was wrong before; by less, it is being set."""

_TIME, _MESSAGES, _RECIPIENTS, _NEW, _WIDTH = range(5)
_STALE_ROWS = 64


class Used(NamedTuple):
    messages: int
    recipients: int
    new: int
    """Recipients whom the account had never written to."""


class Sent:
    """What an account has sent. One flat array of rows (time, messages, recipients, new recipients): the last three
    are totals since the start, so that what lies within a window is a difference of two rows. The first row is what
    was before all windows. About 100 bytes, and 32 a message."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows = array("q", (0,) * _WIDTH)

    def add(self, time: int, recipients: int, new: int) -> int:
        """A message; returns the time under which it counts. When the clock goes back a little, that is the latest."""
        rows = self._rows
        if time < rows[-_WIDTH]:
            time = rows[-_WIDTH]
        rows.extend((time, rows[-3] + 1, rows[-2] + recipients, rows[-1] + new))
        return time

    @property
    def latest(self) -> int:
        """When the last message counts, or 0."""
        return self._rows[-_WIDTH]

    def go_back(self, now: int) -> None:
        """What is counted later than now counts as sent now: the clock was ahead."""
        for row in range(len(self._rows) - _WIDTH, -1, -_WIDTH):
            if self._rows[row] <= now:
                return
            self._rows[row] = now

    def take_back(self, time: int, recipients: int, new: int) -> None:
        """A message that was added under this time and was not sent after all."""
        amounts = (1, recipients, new)
        for row in range(len(self._rows) - _WIDTH, 0, -_WIDTH):
            if self._rows[row] < time:
                return
            if self._rows[row] == time and self._added(row) == amounts:
                for later in range(row, len(self._rows), _WIDTH):
                    for column, amount in enumerate(amounts, later + _MESSAGES):
                        self._rows[column] -= amount
                return

    def _added(self, row: int) -> tuple[int, ...]:
        """What came with the row that begins there."""
        columns = range(row + _MESSAGES, row + _WIDTH)
        return tuple(self._rows[column] - self._rows[column - _WIDTH] for column in columns)

    def used(self, now: int, window: int) -> Used:
        """What was sent in the `window` before `now`."""
        start = self._last_before(now - window)
        _, messages, recipients, new = self._rows[-_WIDTH:]
        _, messages_then, recipients_then, new_then = self._rows[start : start + _WIDTH]
        return Used(messages - messages_then, recipients - recipients_then, new - new_then)

    def remembered(self) -> Used:
        """At least what was sent in any window, and quick to say."""
        rows = self._rows
        return Used(rows[-3] - rows[1], rows[-2] - rows[2], rows[-1] - rows[3])

    def free_at(self, window: int, column: str, limit: int, more: int) -> int:
        """When `more` of `column` (a field of Used) will fit below `limit`, if nothing else is sent meanwhile."""
        offset = _MESSAGES + Used._fields.index(column)
        must_have_left = self._rows[offset - _WIDTH] + more - limit
        rows = range(0, len(self._rows), _WIDTH)
        row = bisect_left(rows, must_have_left, key=lambda at: self._rows[at + offset])
        last = len(rows) - 1
        return self._rows[min(row, last) * _WIDTH] + window

    def prune(self, now: int) -> bool:
        """Forgets what is older than a day; whether anything is left."""
        stale = self._last_before(now - DAY)
        if stale >= _STALE_ROWS * _WIDTH or stale + _WIDTH == len(self._rows):
            del self._rows[:stale]
        return len(self._rows) > _WIDTH

    def _last_before(self, time: int) -> int:
        """Where the last row of this time or an earlier one begins; the first row counts as such in any case."""
        rows = range(_WIDTH, len(self._rows), _WIDTH)
        return bisect_right(rows, time, key=self._rows.__getitem__) * _WIDTH
