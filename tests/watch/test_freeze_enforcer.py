"""A freeze is enforced at once, again while it lasts, and reported with its result."""

import time
from collections.abc import Collection
from pathlib import Path

import pytest
from watch_samples import Clock

from mailkeep_server.freezes.enforce import Enforcement
from mailkeep_server.watch import freeze_enforcer
from mailkeep_server.watch.alert_queue import AlertQueue
from mailkeep_server.watch.freeze_enforcer import STUCK_SECONDS, FreezeEnforcer

LINE = "anna@example.org:!:::20261125T160000Z guard 30 tries over its limits in 10 minutes::\n"


class Recorder:
    """Stands in for the enforcement: records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Collection[str]]] = []
        self.error = ""

    def __call__(self, account: str, addresses: Collection[str]) -> Enforcement:
        self.calls.append((account, addresses))
        return Enforcement(3, 1, "/var/lib/mailkeep-watch/samples/anna", self.error)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1000.0)
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def enforcer(tmp_path: Path, recorder: Recorder, alerts: AlertQueue, monotonic: Clock) -> FreezeEnforcer:
    assert monotonic
    addresses = {"anna@example.org": ("anna@example.org", "info@example.org")}
    return FreezeEnforcer(tmp_path / "accounts", recorder, addresses, alerts)


def take_text(alerts: AlertQueue, clock: Clock) -> str:
    """The text of the next notification, if there is one."""
    clock.now += 2
    notification = alerts.next_notification()
    return notification.text if notification else ""


def test_a_freeze_is_enforced_at_once_and_reported_with_its_result(
    enforcer: FreezeEnforcer, recorder: Recorder, alerts: AlertQueue, clock: Clock
) -> None:
    enforcer.read_freezes()
    enforcer.file.write_text(LINE)
    enforcer.read_freezes()
    enforcer.enforce_due()
    enforcer.read_freezes()
    assert recorder.calls == [("anna@example.org", ("anna@example.org", "info@example.org"))]
    assert (
        "anna@example.org is frozen by guard: 30 tries over its limits in 10 minutes. 3 messages held, 1 session cut; "
        "a sample is in /var/lib/mailkeep-watch/samples/anna. "
        "`mailkeepctl queue --account anna@example.org` shows its mail; docs/after-a-break-in.md says what to do"
    ) in take_text(alerts, clock)
    enforcer.file.write_text("")
    enforcer.read_freezes()
    assert "anna@example.org is no longer frozen" in take_text(alerts, clock)


def test_it_is_enforced_every_two_seconds_and_after_a_minute_every_minute(
    enforcer: FreezeEnforcer, recorder: Recorder, monotonic: Clock
) -> None:
    enforcer.file.write_text(LINE)
    enforcer.read_freezes()
    for _ in range(2 * 600):
        enforcer.enforce_due()
        monotonic.now += 0.5
    assert len(recorder.calls) == 30 + 1 + 8


def test_a_failure_to_enforce_is_reported_and_tried_again(
    enforcer: FreezeEnforcer, recorder: Recorder, alerts: AlertQueue, clock: Clock, monotonic: Clock
) -> None:
    recorder.error = "RuntimeError: postqueue: exit 69"
    enforcer.file.write_text(LINE)
    enforcer.read_freezes()
    enforcer.enforce_due()
    enforcer.read_freezes()
    assert "NOT ALL was done: RuntimeError: postqueue: exit 69" in take_text(alerts, clock)
    monotonic.now += 2
    enforcer.enforce_due()
    assert len(recorder.calls) == 2


def test_a_freeze_that_takes_long_is_reported_before_it_is_enforced(
    enforcer: FreezeEnforcer, alerts: AlertQueue, clock: Clock, monotonic: Clock
) -> None:
    enforcer.file.write_text(LINE)
    enforcer.read_freezes()
    assert take_text(alerts, clock) == ""
    monotonic.now += 5
    enforcer.read_freezes()
    assert "is frozen by guard" in take_text(alerts, clock)


def test_a_restart_reports_no_freeze_twice_and_no_end_that_was_none(
    enforcer: FreezeEnforcer, recorder: Recorder, alerts: AlertQueue, clock: Clock
) -> None:
    enforcer.file.write_text(LINE)
    enforcer.read_freezes()
    enforcer.enforce_due()
    enforcer.read_freezes()
    assert take_text(alerts, clock)
    restarted_alerts = AlertQueue("mail.example.org", alerts.export_state(), clock)
    restarted = FreezeEnforcer(enforcer.file, recorder, {}, restarted_alerts)
    for _ in range(3):
        restarted.read_freezes()
        restarted.enforce_due()
    assert take_text(restarted_alerts, clock) == ""
    enforcer.file.unlink()
    restarted.read_freezes()
    assert "is no longer frozen" in take_text(restarted_alerts, clock)


def test_a_list_that_cannot_be_read_is_an_error_each_time(enforcer: FreezeEnforcer) -> None:
    enforcer.file.mkdir()
    for _ in range(2):
        with pytest.raises(OSError):
            enforcer.read_freezes()


def test_a_hang_of_either_thread_is_noticed_and_slow_work_on_many_accounts_is_none(
    enforcer: FreezeEnforcer, recorder: Recorder, monotonic: Clock
) -> None:
    def enforce_slowly(account: str, addresses: Collection[str]) -> Enforcement:
        monotonic.now += STUCK_SECONDS - 1
        assert not enforcer.is_stuck(monotonic.now)
        enforcer.read_freezes()
        return recorder(account, addresses)

    enforcer.enforce = enforce_slowly
    enforcer.file.write_text(LINE + LINE.replace("anna", "bert"))
    enforcer.read_freezes()
    enforcer.enforce_due()
    assert len(recorder.calls) == 2
    enforcer.enforce = recorder
    steps = (enforcer.read_freezes, enforcer.enforce_due)
    for step, other in (steps, steps[::-1]):
        step()
        other()
        monotonic.now += STUCK_SECONDS + 1
        step()
        assert enforcer.is_stuck(monotonic.now)


@pytest.mark.slow
def test_a_new_freeze_is_enforced_at_once_and_nothing_wakes_without_one(
    enforcer: FreezeEnforcer, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freeze_enforcer, "LOOP_SECONDS", 0.01)
    steps: list[float] = []
    enforce_due = enforcer.enforce_due
    monkeypatch.setattr(enforcer, "enforce_due", lambda: (steps.append(0.0), enforce_due())[1])
    enforcer.start()
    time.sleep(0.3)
    assert len(steps) <= 2, "it waits"
    enforcer.file.write_text(LINE)
    for _ in range(200):
        if recorder.calls:
            return
        time.sleep(0.01)
    raise AssertionError("the freeze was not enforced within two seconds")
