"""A relay host that takes no mail is a trouble after two tries; the watch waits for none of them."""

import time

import pytest

from mailkeep_server.watch import relay_sensor
from mailkeep_server.watch.relay_sensor import RelaySensor


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_sensor, "TRY_SECONDS", 0.0)
    monkeypatch.setattr(relay_sensor, "RETRY_SECONDS", 0.0)


def wait_for_try(sensor: RelaySensor) -> list[str]:
    """The troubles when the next try has ended."""
    sensor.find_troubles()
    while sensor.process:
        troubles = sensor.find_troubles()
        time.sleep(0.01)
    return [text for text, _ in troubles.values()]


@pytest.mark.slow
def test_a_fault_counts_the_second_time_and_until_a_try_succeeds() -> None:
    sensor = RelaySensor("smtp.example.net", ("echo", "refuses the login: 535 5.7.8 Wrong"))
    assert wait_for_try(sensor) == []
    (text,) = wait_for_try(sensor)
    assert text.startswith("No mail leaves: the relay host smtp.example.net refuses the login: 535 5.7.8 Wrong. ")
    sensor.program = ("true",)
    assert wait_for_try(sensor) == []


@pytest.mark.slow
def test_a_try_that_fails_or_hangs_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = RelaySensor("smtp.example.net", ("false",))
    wait_for_try(sensor)
    text = "The relay host smtp.example.net could not be tried: `journalctl -u mailkeep-watch` says why"
    assert wait_for_try(sensor) == [text]
    sensor.program = ("sleep", "60")
    monkeypatch.setattr(relay_sensor, "TRY_TIMEOUT", 0.05)
    assert wait_for_try(sensor) == [text]


def test_the_journal_has_the_words_of_a_try_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    wait_for_try(RelaySensor("smtp.example.net", ("sh", "-c", "echo broken >&2; exit 1")))
    assert capfd.readouterr().err == "broken\n"


@pytest.mark.slow
def test_a_relay_host_that_refuses_is_tried_each_quarter_of_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that is wrong each minute has the server locked out."""
    monkeypatch.undo()
    now = 1000.0  # so that sums are exact
    monkeypatch.setattr(relay_sensor.time, "monotonic", lambda: now)
    sensor, pauses = RelaySensor("smtp.example.net", ("echo", "refuses")), []
    for _ in range(4):
        wait_for_try(sensor)
        pauses.append(sensor.due - now)
        now = sensor.due
    assert pauses == [60.0, 900.0, 900.0, 900.0]
