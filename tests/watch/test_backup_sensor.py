"""A backup that fails, is late, or cannot be proven is told; each once, and when it is over."""

import os
import time
from pathlib import Path

import pytest

from mailkeep_server.common.backup_status import BackupStatus, TargetStatus, save_status
from mailkeep_server.watch.backup_sensor import BackupSensor
from mailkeep_server.watch.config import BackupPlan

HOUR, DAY = 3600, 86400


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """The configuration of the backups, since ten days."""
    file = tmp_path / "config.json"
    file.touch()
    set_age(file, 10 * DAY)
    return file


def set_age(file: Path, seconds: float) -> None:
    os.utime(file, (time.time() - seconds,) * 2)


def judge(declared: Path, **fields: object) -> dict[str, str]:
    """The troubles of a target with this status; good if no field says otherwise."""
    file, now = declared.with_name("status.json"), time.time()
    good: dict[str, object] = {"succeeded": now - HOUR, "archive": "a", "proved": now - DAY}
    save_status(BackupStatus({"disk": TargetStatus(**(good | fields))}), file)  # type: ignore[arg-type]
    sensor = BackupSensor(BackupPlan(["disk"], 26), file, str(declared))
    return {key: text for key, (text, _) in sensor.find_troubles().items()}


def test_a_good_backup_is_no_trouble(declared: Path) -> None:
    assert judge(declared) == {}


def test_a_backup_is_late_after_26_hours(declared: Path) -> None:
    assert judge(declared, succeeded=time.time() - 26 * HOUR + 60) == {}
    assert "26 hours old" in judge(declared, succeeded=time.time() - 26 * HOUR - 1)["disk:age"]


def test_a_failed_try_is_told_with_its_reason(declared: Path) -> None:
    assert "the disk there is full" in judge(declared, fault="the disk there is full")["disk:fault"]


def test_a_failed_proof_is_told_with_its_reason(declared: Path) -> None:
    assert "other bytes" in judge(declared, proof_fault="comes back with other bytes")["disk:proof"]


def test_a_proof_that_does_not_come_is_told(declared: Path) -> None:
    assert "proven for 9 days" in judge(declared, proved=time.time() - 9.1 * DAY)["disk:unproven"]


def test_a_new_target_has_as_much_time_as_others(declared: Path) -> None:
    set_age(declared, 25 * HOUR)
    assert judge(declared, succeeded=0, proved=0) == {}
    set_age(declared, 27 * HOUR)
    assert set(judge(declared, succeeded=0, proved=0)) == {"disk:age"}


def test_a_backup_and_a_proof_dated_later_than_now_are_told(declared: Path) -> None:
    """Else neither would be late for as long as the clock was ahead."""
    ahead = time.time() + HOUR
    assert "dated later than now: the clock" in judge(declared, succeeded=ahead)["disk:age"]
    assert "dated later than now: the clock" in judge(declared, proved=ahead)["disk:unproven"]


def test_a_configuration_dated_later_than_now_hides_no_backup_that_lacks(declared: Path) -> None:
    set_age(declared, -DAY)
    troubles = judge(declared, succeeded=0, proved=0)
    assert "There is no backup at disk yet" in troubles["disk:age"]
    assert "No backup at disk was proven yet" in troubles["disk:unproven"]


def test_a_spoilt_status_is_an_error_of_the_sensor(declared: Path) -> None:
    file = declared.with_name("status.json")
    file.write_text('{"targets": {"disk": {"unknown": 1}}}')
    with pytest.raises(ValueError, match=r"status\.json is not as Mailkeep wrote it"):
        BackupSensor(BackupPlan(["disk"], 26), file, str(declared)).find_troubles()
