"""The guard hears of each complaint once, also after it was silent, and after the watch lost its memory."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from mailkeep_server.common import unix_http
from mailkeep_server.watch import complaint_news
from mailkeep_server.watch.complaint_news import ComplaintReporter
from mailkeep_server.watch.config import WatchConfig
from mailkeep_server.watch.daemon import Watch

DIGEST = "0123456789abcdef" * 2


class Guard:
    """Its end of the control socket."""

    def __init__(self) -> None:
        self.complaints: list[tuple[str, list[str]]] = []
        self.is_silent = False

    def get_body(self, _socket: str, target: str, _timeout: float) -> bytes:
        if self.is_silent:
            raise ConnectionRefusedError
        assert len(target) < 4000, "it reads no longer requests"
        url = urlsplit(target)
        assert url.path == "/complaint"
        query = parse_qs(url.query)
        self.complaints.append((query["reporter"][0], query["m"]))
        return b"{}"


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Guard:
    guard = Guard()
    monkeypatch.setattr(unix_http, "get_body", guard.get_body)
    return guard


def write(directory: Path, *numbers: int) -> str:
    """The name of the file beside it, as the watch knows it."""
    complaints = [
        {"id": number, "time": 0, "reporter": f"d{number}.example.net", "messages": [DIGEST]} for number in numbers
    ]
    (directory / "complaints.json").write_text(json.dumps({"last": numbers[-1], "complaints": complaints}))
    return str(directory / "announcements.json")


def test_each_complaint_is_told_once(tmp_path: Path, guard: Guard) -> None:
    sensor = ComplaintReporter(str(tmp_path / "announcements.json"), "control", 0)
    assert sensor.find_troubles() == {}
    write(tmp_path, 1, 2)
    for _ in range(2):
        sensor.find_troubles()
    write(tmp_path, 2, 3)
    ComplaintReporter(str(tmp_path / "announcements.json"), "control", sensor.last_id).find_troubles()
    assert guard.complaints == [(f"d{number}.example.net", [DIGEST]) for number in (1, 2, 3)]


def test_complaints_wait_for_a_guard_that_is_silent(tmp_path: Path, guard: Guard) -> None:
    sensor = ComplaintReporter(write(tmp_path, 1, 2), "control", 0)
    guard.is_silent = True
    assert sensor.find_troubles() == {}
    guard.is_silent = False
    sensor.find_troubles()
    assert len(guard.complaints) == 2


def test_many_are_told_in_several_samples(tmp_path: Path, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(complaint_news, "MAX_AT_ONCE", 2)
    sensor = ComplaintReporter(write(tmp_path, *range(1, 6)), "control", 0)
    numbers = []
    for _ in range(4):
        sensor.find_troubles()
        numbers.append(len(guard.complaints))
    assert numbers == [2, 4, 5, 5]


def test_a_database_that_began_anew_is_told_from_its_beginning(tmp_path: Path, guard: Guard) -> None:
    ComplaintReporter(write(tmp_path, 1), "control", 900).find_troubles()
    assert len(guard.complaints) == 1


@pytest.mark.parametrize("text", ["{", "{}", '{"last": 1, "complaints": [{"id": 1}]}'])
def test_a_spoilt_file_is_a_failure_of_the_sensor(tmp_path: Path, guard: Guard, text: str) -> None:
    (tmp_path / "complaints.json").write_text(text)
    with pytest.raises((ValueError, LookupError)):
        ComplaintReporter(str(tmp_path / "announcements.json"), "control", 0).find_troubles()
    assert guard.complaints == []


def test_the_watch_remembers_the_last(config: WatchConfig) -> None:
    assert Watch(config, {"last_complaint": 7}).complaints.last_id == 7
