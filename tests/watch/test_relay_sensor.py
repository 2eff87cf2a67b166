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


def test_a_fault_counts_the_second_time_and_until_a_try_succeeds() -> None:
    sensor = RelaySensor("smtp.example.net", ("echo", "refuses the login: 535 5.7.8 Wrong"))
    assert wait_for_try(sensor) == []
    (text,) = wait_for_try(sensor)
    assert text.startswith("No mail leaves: the relay host smtp.example.net refuses the login: 535 5.7.8 Wrong. ")
    sensor.program = ("true",)
    assert wait_for_try(sensor) == []


def test_a_try_that_fails_or_hangs_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = RelaySensor("smtp.example.net", ("false",))
    wait_for_try(sensor)
    assert "could not be tried" in wait_for_try(sensor)[0]
    sensor.program = ("sleep", "60")
    monkeypatch.setattr(relay_sensor, "TRY_TIMEOUT", 0.05)
    assert "could not be tried" in wait_for_try(sensor)[0]
