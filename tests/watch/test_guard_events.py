"""The guard's events are reported once; a guard that does not answer, or answers nonsense, is down."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from watch_samples import GuardServer, serve_guard

from mailkeep_server.watch import guard_events
from mailkeep_server.watch.guard_events import NEW_REDIRECT, GuardEvents

NOW = 4e9  # seconds: after all tests
NEXT_STEP = (
    ". If that is not its user: `mailkeepctl freeze anna@example.org`. `mailkeepctl limits` shows what it has sent"
)


@pytest.fixture
def control_socket(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.fixture
def guard(control_socket: Path) -> Iterator[GuardServer]:
    with serve_guard(control_socket) as server:
        yield server


def test_events_are_reported_once_with_their_account(control_socket: Path, guard: GuardServer) -> None:
    sensor = GuardEvents(str(control_socket), 0)
    guard.add_event("near", "anna@example.org", "has sent 48 of 60 messages in 10 minutes", NOW)
    guard.add_event("over", "anna@example.org", "may send 60 messages in 10 minutes", NOW)
    guard.add_event("ceiling", "", "the server sent 1000 messages in an hour", NOW)
    assert sensor.find_troubles() == {}
    assert list(sensor.take_events()) == [
        ("near:anna@example.org", f"anna@example.org has sent 48 of 60 messages in 10 minutes{NEXT_STEP}", False),
        (
            "over:anna@example.org",
            f"anna@example.org is over a limit: may send 60 messages in 10 minutes{NEXT_STEP}",
            True,
        ),
        ("ceiling:", "the server sent 1000 messages in an hour. `mailkeepctl limits` shows who has sent most", True),
    ]
    sensor.find_troubles()
    assert list(sensor.take_events()) == []
    guard.add_event("network", "anna@example.org", "a new network", NOW)
    sensor.find_troubles()
    assert [key for key, _, _ in sensor.take_events()] == ["network:anna@example.org"]


def test_a_new_redirect_is_told_to_the_operator_and_to_the_owner(control_socket: Path, guard: GuardServer) -> None:
    notices: list[tuple[str, str]] = []
    sensor = GuardEvents(str(control_socket), 0, {NEW_REDIRECT: lambda *notice: notices.append(notice)})
    guard.add_event("new-redirect", "anna@example.org", "x@example.net", NOW)
    guard.add_event("near", "anna@example.org", "has sent 48 of 60 messages in 10 minutes", NOW)
    sensor.find_troubles()
    [(key, text, is_urgent), _] = sensor.take_events()
    assert (key, is_urgent) == ("new-redirect:anna@example.org", True)
    assert text.startswith(
        "anna@example.org has rules that send mail on to an address that is new to them: x@example.net. Its owner has"
    )
    assert text.endswith("`mailkeepctl freeze anna@example.org`")
    assert notices == [("anna@example.org", "x@example.net")]
    sensor.find_troubles()
    assert [*sensor.take_events()] == []
    assert len(notices) == 1


def test_a_freeze_is_left_to_the_freeze_enforcer(control_socket: Path, guard: GuardServer) -> None:
    sensor = GuardEvents(str(control_socket), 0)
    guard.add_event("frozen", "anna@example.org", "by guard: 30 tries over its limits", NOW)
    sensor.find_troubles()
    assert list(sensor.take_events()) == []
    assert sensor.last_id == 1


def test_a_new_watch_does_not_report_history(control_socket: Path, guard: GuardServer) -> None:
    guard.add_event("over", "anna@example.org", "last week", 1e9)
    sensor = GuardEvents(str(control_socket), 0)
    assert sensor.find_troubles() == {}
    assert list(sensor.take_events()) == []


def test_events_of_a_new_database_are_reported_though_its_numbers_begin_anew(
    control_socket: Path, guard: GuardServer
) -> None:
    sensor = GuardEvents(str(control_socket), 5000)
    guard.add_event("counts-lost", "", "The guard's database could not be read", NOW)
    assert sensor.find_troubles() == {}
    assert list(sensor.take_events()) == [("counts-lost:", "The guard's database could not be read", True)]
    sensor.find_troubles()
    assert list(sensor.take_events()) == []


def test_a_guard_that_is_gone_is_a_trouble_until_it_is_back(control_socket: Path) -> None:
    sensor = GuardEvents(str(control_socket), 0)
    assert "does not answer" in sensor.find_troubles()["silent"][0]
    with serve_guard(control_socket):
        assert sensor.find_troubles() == {}


@pytest.mark.parametrize(
    "garbage",
    [b"\0", b"HTTP/1.0 500 Oops\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n{", b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * (5 << 20)],
    ids=["bytes", "error", "half", "endless"],
)
def test_nonsense_is_no_answer(control_socket: Path, guard: GuardServer, garbage: bytes) -> None:
    guard.garbage = garbage
    assert "does not answer" in GuardEvents(str(control_socket), 0).find_troubles()["silent"][0]


@pytest.mark.slow
def test_a_guard_that_hangs_is_not_waited_for(control_socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_events, "ANSWER_TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(control_socket))
        listener.listen()
        assert "does not answer" in GuardEvents(str(control_socket), 0).find_troubles()["silent"][0]


def test_a_mail_bomb_is_urgent_and_says_how_to_undo_it(control_socket: Path, guard: GuardServer) -> None:
    sensor = GuardEvents(str(control_socket), 0)
    guard.add_event("bomb", "anna@example.org", "gets a mail bomb", NOW)
    guard.add_event("bomb-end", "anna@example.org", "gets no mail bomb any more", NOW)
    sensor.find_troubles()
    (_, text, is_urgent), (_, end, _) = sensor.take_events()
    assert text.startswith("anna@example.org gets a mail bomb. Nothing is lost; `mailkeepctl unsort anna@example.org`")
    assert is_urgent
    assert end == "anna@example.org gets no mail bomb any more"
