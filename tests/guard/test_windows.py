"""Sliding windows are exact: whatever happens, they say what a list of all messages would."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES, SendHistory, Usage

WINDOWS = (TEN_MINUTES, HOUR, DAY)
STEPS = st.sampled_from((0, 1, 1000, TEN_MINUTES - 1, TEN_MINUTES, HOUR - 1, HOUR, DAY - 1, DAY, -5000))
SEND = st.tuples(st.just("send"), STEPS, st.integers(1, 2), st.integers(0, 1))
TAKE_BACK = st.tuples(st.just("take back"), st.integers(0, 100))
PRUNE = st.tuples(st.just("prune"))


class Model:
    """The same, by looking at every message each time."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, int, int]] = []
        self.latest = 0

    def used(self, now: int, window: int) -> Usage:
        inside = [(recipients, new) for time, recipients, new in self.messages if time > now - window]
        return Usage(len(inside), sum(recipients for recipients, _ in inside), sum(new for _, new in inside))

    def free_at(self, now: int, window: int, column: str, limit: int, more: int) -> int:
        moments = sorted({now, *(time + window for time, _, _ in self.messages if time + window > now)})
        return next(at for at in moments if getattr(self.used(at, window), column) + more <= limit)


@given(st.lists(st.one_of(SEND, SEND, SEND, TAKE_BACK, PRUNE), max_size=30))
def test_a_window_holds_what_was_sent_in_it_at_any_moment(steps: list[tuple]) -> None:
    sent, model, now, pruned = SendHistory(), Model(), 10 * DAY, 0
    for kind, *values in steps:
        if kind == "send":
            step, recipients, new = values
            now += step
            time = sent.add_message(now, recipients, new)
            assert time == max(now, model.latest)
            model.latest = time
            model.messages.append((time, recipients, new))
        elif kind == "take back" and model.messages:
            message = model.messages.pop(values[0] % len(model.messages))
            sent.uncount_message(*message)
        elif kind == "prune":
            sent.forget_expired(now)
            pruned = now
        for window in WINDOWS:
            at = max(now, pruned)  # what was forgotten then does not come back when the clock goes back
            assert sent.usage_within(at, window) == model.used(at, window)


@given(
    st.lists(st.tuples(STEPS.map(abs), st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=30),
    st.sampled_from(WINDOWS),
    st.sampled_from(Usage._fields),
    st.integers(1, 100),
)
def test_the_time_told_to_a_refused_user_is_the_first_when_it_fits(
    messages: list[tuple[int, int, int]], window: int, column: str, more: int
) -> None:
    sent, model, now = SendHistory(), Model(), 10 * DAY
    for step, recipients, new in messages:
        now += step
        model.messages.append((sent.add_message(now, recipients, new), recipients, new))
    limit = more + getattr(model.used(now, window), column) // 2
    if getattr(model.used(now, window), column) + more > limit:
        assert sent.free_at(window, column, limit, more) == model.free_at(now, window, column, limit, more)


def test_more_than_the_limit_itself_fits_at_the_latest_when_the_window_is_empty() -> None:
    sent = SendHistory()
    sent.add_message(DAY, 3, 0)
    assert sent.free_at(HOUR, "recipients", 5, 6) == DAY + HOUR


def test_twice_the_limit_does_not_fit_around_any_moment() -> None:
    """What a fixed window lets through around the moment when one ends and the next begins."""
    sent, accepted = SendHistory(), []
    for now in range(DAY, DAY + 3 * HOUR, 10_000):
        if sent.usage_within(now, HOUR).messages < 10:
            accepted.append(sent.add_message(now, 1, 0))
    assert len(accepted) == 30
    assert all(later - earlier >= HOUR for earlier, later in zip(accepted, accepted[10:], strict=False))
    assert all(later > earlier for earlier, later in pairwise(accepted))


def test_a_sender_of_every_day_does_not_grow() -> None:
    sent = SendHistory()
    for number in range(20_000):
        now = DAY + number * TEN_MINUTES
        sent.add_message(now, 2, 1)
        sent.forget_expired(now)
    assert sent.usage_within(now, DAY) == (144, 288, 144)
    assert len(sent._rows) / 4 < 144 + 70
