"""Sliding windows are exact: at any moment they say what a list of all messages would."""

from __future__ import annotations

from itertools import pairwise

import hypothesis
import pytest
from hypothesis import strategies

from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES, SendHistory, Usage

WINDOWS = (TEN_MINUTES, HOUR, DAY)
STEPS = strategies.sampled_from((0, 1, 1000, TEN_MINUTES - 1, TEN_MINUTES, HOUR - 1, HOUR, DAY - 1, DAY, -5000))
SEND = strategies.tuples(strategies.just("send"), STEPS, strategies.integers(1, 2), strategies.integers(0, 1))
UNCOUNT = strategies.tuples(strategies.just("uncount"), strategies.integers(0, 100))
FORGET = strategies.tuples(strategies.just("forget"))


class Model:
    """The same, by going through every message each time."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, int, int]] = []
        self.latest_time = 0

    def usage_within(self, now: int, window: int) -> Usage:
        inside = [(recipients, new) for time, recipients, new in self.messages if time > now - window]
        return Usage(len(inside), sum(recipients for recipients, _ in inside), sum(new for _, new in inside))

    def free_at(self, now: int, window: int, column: str, limit: int, more: int) -> int:
        moments = sorted({now, *(time + window for time, _, _ in self.messages if time + window > now)})
        return next(at for at in moments if getattr(self.usage_within(at, window), column) + more <= limit)


@pytest.mark.slow
@hypothesis.given(strategies.lists(strategies.one_of(SEND, SEND, SEND, UNCOUNT, FORGET), max_size=30))
def test_a_window_holds_what_was_sent_in_it_at_any_moment(steps: list[tuple]) -> None:
    history, model, now, forgotten_at = SendHistory(), Model(), 10 * DAY, 0
    for kind, *values in steps:
        if kind == "send":
            step, recipients, new = values
            now += step
            time = history.add_message(now, recipients, new)
            assert time == max(now, model.latest_time)
            model.latest_time = time
            model.messages.append((time, recipients, new))
        elif kind == "uncount" and model.messages:
            message = model.messages.pop(values[0] % len(model.messages))
            history.uncount_message(*message)
        elif kind == "forget":
            history.forget_expired(now)
            forgotten_at = now
        for window in WINDOWS:
            at = max(now, forgotten_at)  # forgotten messages do not come back when the clock goes back
            assert history.usage_within(at, window) == model.usage_within(at, window)


@pytest.mark.slow
@hypothesis.given(
    strategies.lists(
        strategies.tuples(STEPS.map(abs), strategies.integers(1, 50), strategies.integers(0, 50)),
        min_size=1,
        max_size=30,
    ),
    strategies.sampled_from(WINDOWS),
    strategies.sampled_from(Usage._fields),
    strategies.integers(1, 100),
)
def test_the_time_in_a_refusal_is_the_first_when_it_fits(
    messages: list[tuple[int, int, int]], window: int, column: str, more: int
) -> None:
    history, model, now = SendHistory(), Model(), 10 * DAY
    for step, recipients, new in messages:
        now += step
        model.messages.append((history.add_message(now, recipients, new), recipients, new))
    used = getattr(model.usage_within(now, window), column)
    limit = more + used // 2
    if used + more > limit:
        assert history.free_at(window, column, limit, more) == model.free_at(now, window, column, limit, more)


def test_more_than_the_limit_itself_fits_at_the_latest_when_the_window_is_empty() -> None:
    history = SendHistory()
    history.add_message(DAY, 3, 0)
    assert history.free_at(HOUR, "recipients", 5, 6) == DAY + HOUR


def test_twice_the_limit_does_not_fit_around_any_moment() -> None:
    """A fixed window lets it through around the moment when one ends and the next begins."""
    history, accepted = SendHistory(), []
    for now in range(DAY, DAY + 3 * HOUR, 10_000):
        if history.usage_within(now, HOUR).messages < 10:
            accepted.append(history.add_message(now, 1, 0))
    assert len(accepted) == 30
    assert all(later - earlier >= HOUR for earlier, later in zip(accepted, accepted[10:], strict=False))
    assert all(later > earlier for earlier, later in pairwise(accepted))


def test_a_sender_of_every_day_does_not_grow() -> None:
    history = SendHistory()
    for number in range(20_000):
        now = DAY + number * TEN_MINUTES
        history.add_message(now, 2, 1)
        history.forget_expired(now)
    assert history.usage_within(now, DAY) == (144, 288, 144)
    assert len(history._rows) / 4 < 144 + 70
