"""What the reader of reports announces is told once, also by a watch that starts anew."""

import json
import time
from pathlib import Path

import pytest

from mailkeep_server.watch.report_news import MAX_AGE, ReportNews


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "announcements.json"


def write(file: Path, *numbers: int, age: float = 0.0) -> None:
    entries = [{"id": number, "time": time.time() - age, "text": f"example.org: text {number}"} for number in numbers]
    file.write_text(json.dumps({"last": numbers[-1], "announcements": entries}))


def take(sensor: ReportNews) -> list[str]:
    assert sensor.find_troubles() == {}
    return [text for _, text, _ in sensor.take_events()]


def test_each_announcement_is_told_once(file: Path) -> None:
    sensor = ReportNews(str(file), 0)
    assert take(sensor) == []
    write(file, 1, 2)
    assert take(sensor) == ["example.org: text 1", "example.org: text 2"]
    assert take(sensor) == []
    write(file, 1, 2, 3)
    assert take(sensor) == ["example.org: text 3"]
    assert take(ReportNews(str(file), sensor.last_id)) == []


def test_old_ones_are_history(file: Path) -> None:
    write(file, 7, age=MAX_AGE + 60)
    assert take(ReportNews(str(file), 0)) == []


def test_a_file_that_began_anew_is_read_from_its_beginning(file: Path) -> None:
    write(file, 1)
    assert take(ReportNews(str(file), 900)) == ["example.org: text 1"]


def test_a_spoilt_file_is_a_failure_of_the_sensor(file: Path) -> None:
    file.write_text("{")
    with pytest.raises(ValueError, match="property name"):
        ReportNews(str(file), 0).find_troubles()
