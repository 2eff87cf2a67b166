"""Exact sliding windows: how much was sent in the last ten minutes, hour and day, at any moment.

Each message is a row that leaves a window to the millisecond, once it is as old as the window is long. Fixed windows
would let twice the limit through around the moment when one ends and the next begins.
"""

from array import array
from bisect import bisect_left, bisect_right
from time import time_ns
from typing import NamedTuple

TEN_MINUTES, HOUR, DAY = 600_000, 3_600_000, 86_400_000
"""Milliseconds. All times are milliseconds since the epoch."""

MAX_CLOCK_STEP = TEN_MINUTES
"""A clock that goes back by no more is being set. If it goes back by more, it was wrong before."""

_TIME, _MESSAGES, _RECIPIENTS, _NEW_RECIPIENTS, _WIDTH = range(5)
_MAX_STALE_ROWS = 64


def read_clock() -> int:
    """Milliseconds since the epoch."""
    return time_ns() // 1_000_000


class Usage(NamedTuple):
    messages: int
    recipients: int
    new_recipients: int
    """Recipients to whom the account had never written."""


class SendHistory:
    """The messages of an account, in about 100 bytes and 32 a message.

    One flat array of rows (time, messages, recipients, new recipients). The last three are totals since the start, so
    that the usage in a window is the difference of two rows. The first row is the total before all windows.
    """

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows = array("q", (0,) * _WIDTH)

    def add_message(self, time: int, recipients: int, new_recipients: int) -> int:
        """Returns the time at which it counts: the latest one, if the clock has gone back a little."""
        rows = self._rows
        if time < rows[-_WIDTH]:
            time = rows[-_WIDTH]
        rows.extend((time, rows[-3] + 1, rows[-2] + recipients, rows[-1] + new_recipients))
        return time

    @property
    def latest_time(self) -> int:
        """The time at which the last message counts, or 0."""
        return self._rows[-_WIDTH]

    def clamp_times_to(self, now: int) -> None:
        """Messages later than `now` count as sent now: the clock was ahead."""
        for row in range(len(self._rows) - _WIDTH, -1, -_WIDTH):
            if self._rows[row] <= now:
                return
            self._rows[row] = now

    def uncount_message(self, time: int, recipients: int, new_recipients: int) -> None:
        """Removes a message that was added at this time, and was not sent after all."""
        amounts = (1, recipients, new_recipients)
        for row in range(len(self._rows) - _WIDTH, 0, -_WIDTH):
            if self._rows[row] < time:
                return
            if self._rows[row] == time and self._added_by(row) == amounts:
                for later in range(row, len(self._rows), _WIDTH):
                    for column, amount in enumerate(amounts, later + _MESSAGES):
                        self._rows[column] -= amount
                return

    def _added_by(self, row: int) -> tuple[int, ...]:
        """By how much the totals grew with the row that begins at this index."""
        columns = range(row + _MESSAGES, row + _WIDTH)
        return tuple(self._rows[column] - self._rows[column - _WIDTH] for column in columns)

    def usage_within(self, now: int, window: int) -> Usage:
        """The usage in the last `window` milliseconds before `now`."""
        start = self._last_row_until(now - window)
        _, messages, recipients, new_recipients = self._rows[-_WIDTH:]
        _, earlier_messages, earlier_recipients, earlier_new = self._rows[start : start + _WIDTH]
        return Usage(messages - earlier_messages, recipients - earlier_recipients, new_recipients - earlier_new)

    def usage_bound(self) -> Usage:
        """At least the usage in any window; quicker than `usage_within`."""
        rows = self._rows
        return Usage(rows[-3] - rows[1], rows[-2] - rows[2], rows[-1] - rows[3])

    def free_at(self, window: int, column: str, limit: int, more: int) -> int:
        """The time from which `more` of `column` (a field of Usage) fits into `limit`, if nothing else is sent."""
        offset = _MESSAGES + Usage._fields.index(column)
        must_have_left = self._rows[offset - _WIDTH] + more - limit
        rows = range(0, len(self._rows), _WIDTH)
        row = bisect_left(rows, must_have_left, key=lambda start: self._rows[start + offset])
        last = len(rows) - 1
        return self._rows[min(row, last) * _WIDTH] + window

    def forget_expired(self, now: int) -> bool:
        """Drops messages older than a day. Returns whether any are left."""
        stale = self._last_row_until(now - DAY)
        if stale >= _MAX_STALE_ROWS * _WIDTH or stale + _WIDTH == len(self._rows):
            del self._rows[:stale]
        return len(self._rows) > _WIDTH

    def _last_row_until(self, time: int) -> int:
        """The index of the last row no later than `time`; of the first row, if all are later."""
        rows = range(_WIDTH, len(self._rows), _WIDTH)
        return bisect_right(rows, time, key=self._rows.__getitem__) * _WIDTH
