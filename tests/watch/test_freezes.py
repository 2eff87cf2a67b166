"""Who is frozen is dealt with at once, again while it lasts, and told with what came of it."""

import time
from collections.abc import Collection
from pathlib import Path

import pytest
from watch_samples import Clock

from mailkeep_server.freezes.enforce import Enforcement
from mailkeep_server.watch.alert_queue import Desk
from mailkeep_server.watch.freeze_enforcer import STUCK, Freezes

LINE = "anna@example.org:!:::20261125T160000Z guard 30 tries over its limits in 10 minutes::\n"


class Carried:
    """Keeps what is to be carried out."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Collection[str]]] = []
        self.error = ""

    def __call__(self, account: str, addresses: Collection[str]) -> Enforcement:
        self.calls.append((account, addresses))
        return Enforcement(3, 1, "/var/lib/mailkeep-watch/samples/anna", self.error)


@pytest.fixture
def carried() -> Carried:
    return Carried()


@pytest.fixture
def freezes(tmp_path: Path, carried: Carried, desk: Desk, monotonic: Clock) -> Freezes:
    assert monotonic
    return Freezes(tmp_path / "accounts", carried, {"anna@example.org": ("anna@example.org", "info@example.org")}, desk)


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(1000.0)
    monkeypatch.setattr(time, "monotonic", made)
    return made


def told(desk: Desk, clock: Clock) -> str:
    clock.now += 2
    letter = desk.letter()
    return letter.text if letter else ""


def test_a_freeze_is_carried_out_at_once_and_told_with_what_came_of_it(
    freezes: Freezes, carried: Carried, desk: Desk, clock: Clock
) -> None:
    freezes.look()
    freezes.file.write_text(LINE)
    freezes.look()
    freezes.carry_out()
    freezes.look()
    assert carried.calls == [("anna@example.org", ("anna@example.org", "info@example.org"))]
    assert (
        "anna@example.org is frozen by guard: 30 tries over its limits in 10 minutes. 3 messages held, 1 sessions cut; "
        "a sample is in /var/lib/mailkeep-watch/samples/anna"
    ) in told(desk, clock)
    freezes.file.write_text("")
    freezes.look()
    assert "anna@example.org is no longer frozen" in told(desk, clock)


def test_it_is_carried_out_again_every_two_seconds_and_after_a_minute_each_minute(
    freezes: Freezes, carried: Carried, monotonic: Clock
) -> None:
    freezes.file.write_text(LINE)
    freezes.look()
    for _ in range(2 * 600):
        freezes.carry_out()
        monotonic.now += 0.5
    assert len(carried.calls) == 30 + 1 + 8


def test_what_cannot_be_carried_out_is_told_and_tried_again(
    freezes: Freezes, carried: Carried, desk: Desk, clock: Clock, monotonic: Clock
) -> None:
    carried.error = "RuntimeError: postqueue: exit 69"
    freezes.file.write_text(LINE)
    freezes.look()
    freezes.carry_out()
    freezes.look()
    assert "NOT ALL: RuntimeError: postqueue: exit 69" in told(desk, clock)
    monotonic.now += 2
    freezes.carry_out()
    assert len(carried.calls) == 2


def test_a_freeze_that_takes_long_is_told_before_it_is_done(
    freezes: Freezes, desk: Desk, clock: Clock, monotonic: Clock
) -> None:
    freezes.file.write_text(LINE)
    freezes.look()
    assert told(desk, clock) == ""
    monotonic.now += 5
    freezes.look()
    assert "is frozen by guard" in told(desk, clock)


def test_a_restart_tells_no_freeze_twice_and_takes_none_back(
    freezes: Freezes, carried: Carried, desk: Desk, clock: Clock
) -> None:
    freezes.file.write_text(LINE)
    freezes.look()
    freezes.carry_out()
    freezes.look()
    assert told(desk, clock)
    again = Desk("mail.example.org", desk.state(), clock)
    restarted = Freezes(freezes.file, carried, {}, again)
    for _ in range(3):
        restarted.look()
        restarted.carry_out()
    assert told(again, clock) == ""
    freezes.file.unlink()
    restarted.look()
    assert "is no longer frozen" in told(again, clock)


def test_a_file_that_cannot_be_read_is_an_error_each_time(freezes: Freezes) -> None:
    freezes.file.write_bytes(b"\xff\n")
    for _ in range(2):
        with pytest.raises(ValueError):
            freezes.look()


def test_a_hang_of_either_thread_is_noticed_and_slow_work_on_many_accounts_is_none(
    freezes: Freezes, carried: Carried, monotonic: Clock
) -> None:
    def slow(account: str, addresses: Collection[str]) -> Enforcement:
        monotonic.now += STUCK - 1
        assert not freezes.stuck(monotonic.now)
        freezes.look()
        return carried(account, addresses)

    freezes.enforce = slow
    freezes.file.write_text(LINE + LINE.replace("anna", "bert"))
    freezes.look()
    freezes.carry_out()
    assert len(carried.calls) == 2
    freezes.enforce = carried
    for step, other in ((freezes.look, freezes.carry_out), (freezes.carry_out, freezes.look)):
        step()
        other()
        monotonic.now += STUCK + 1
        step()
        assert freezes.stuck(monotonic.now)
