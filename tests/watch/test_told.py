"""What the guard tells is passed on, once; a guard that does not answer, or answers nonsense, is down."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from watch_samples import Events, guard

from mailkeep_server.watch import guard_events
from mailkeep_server.watch.guard_events import Guard

NOW = 4e9  # seconds: after all tests


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.fixture
def events(socket: Path) -> Iterator[Events]:
    with guard(socket) as made:
        yield made


def test_events_are_told_once_with_their_account(socket: Path, events: Events) -> None:
    sensor = Guard(str(socket), 0)
    events.tell("near", "anna@example.org", "has sent 48 of 60 messages in 10 minutes", NOW)
    events.tell("over", "anna@example.org", "may send 60 messages in 10 minutes", NOW)
    events.tell("ceiling", "", "the server sent 1000 messages in an hour", NOW)
    assert sensor.troubles() == {}
    assert list(sensor.happenings()) == [
        ("near:anna@example.org", "anna@example.org has sent 48 of 60 messages in 10 minutes", False),
        ("over:anna@example.org", "anna@example.org is over a limit: may send 60 messages in 10 minutes", True),
        ("ceiling:", "the server sent 1000 messages in an hour", True),
    ]
    sensor.troubles()
    assert list(sensor.happenings()) == []
    events.tell("network", "anna@example.org", "a new network", NOW)
    sensor.troubles()
    assert [key for key, _, _ in sensor.happenings()] == ["network:anna@example.org"]


def test_a_freeze_is_told_by_who_carries_it_out(socket: Path, events: Events) -> None:
    sensor = Guard(str(socket), 0)
    events.tell("frozen", "anna@example.org", "by guard: 30 tries over its limits", NOW)
    sensor.troubles()
    assert list(sensor.happenings()) == []
    assert sensor.last == 1


def test_history_is_not_told_to_a_watch_that_is_new(socket: Path, events: Events) -> None:
    events.tell("over", "anna@example.org", "last week", 1e9)
    sensor = Guard(str(socket), 0)
    assert sensor.troubles() == {}
    assert list(sensor.happenings()) == []


def test_a_guard_that_is_gone_is_a_trouble_until_it_is_back(socket: Path) -> None:
    sensor = Guard(str(socket), 0)
    assert "does not answer" in sensor.troubles()["silent"][0]
    with guard(socket):
        assert sensor.troubles() == {}


@pytest.mark.parametrize(
    "garbage",
    [b"\0", b"HTTP/1.0 500 Oops\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n{", b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * (5 << 20)],
    ids=["bytes", "error", "half", "endless"],
)
def test_nonsense_is_no_answer(socket: Path, events: Events, garbage: bytes) -> None:
    events.garbage = garbage
    assert "does not answer" in Guard(str(socket), 0).troubles()["silent"][0]


def test_a_guard_that_hangs_is_not_waited_for(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket as sockets

    monkeypatch.setattr(guard_events, "TIMEOUT", 0.1)
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(str(socket))
        listener.listen()
        assert "does not answer" in Guard(str(socket), 0).troubles()["silent"][0]
