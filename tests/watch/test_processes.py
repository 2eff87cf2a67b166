"""A process that is stopped is a trouble of its unit; nothing else is."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mailkeep_server.watch import sensors
from mailkeep_server.watch.processes import ProcessSensor, read_process_state
from mailkeep_server.watch.sensors import UnitSensor


@pytest.fixture
def group(tmp_path: Path) -> Path:
    (tmp_path / "x.service").mkdir()
    return tmp_path / "x.service" / "cgroup.procs"


def wait_for_state(pid: int, state: str) -> None:
    for _ in range(500):
        if (read_process_state(Path(f"/proc/{pid}")) or ("", "", ""))[1] == state:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is not in state {state}")


def test_a_stopped_process_is_a_trouble_until_it_goes_on(group: Path, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        sensor = ProcessSensor({"x.service": "/x.service"}, roots=("/nowhere", str(tmp_path)))
        group.write_text(f"{os.getpid()}\n{process.pid}\n99999999\n")
        assert sensor.find_troubles() == {}
        process.send_signal(signal.SIGSTOP)
        wait_for_state(process.pid, "T")
        text, end_text = sensor.find_troubles()["x.service"]
        assert text.startswith(f"x.service hangs: somebody has stopped its process sleep ({process.pid}). ")
        assert f"`kill -CONT {process.pid}`" in text
        assert end_text == "x.service hangs no longer"
        process.send_signal(signal.SIGCONT)
        wait_for_state(process.pid, "S")
        assert sensor.find_troubles() == {}
        process.kill()


def test_a_stopped_program_of_somebody_who_is_logged_in_is_none(group: Path, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        process.send_signal(signal.SIGSTOP)
        wait_for_state(process.pid, "T")
        group.write_text(f"{process.pid}\n")
        assert ProcessSensor({"ssh.service": "/x.service"}, roots=(str(tmp_path),)).find_troubles() == {}
        process.kill()


def test_a_name_with_brackets_and_blanks_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(f"7 (a) T (b) S {' '.join(map(str, range(1, 49)))}\n")
    assert read_process_state(tmp_path) == ("a) T (b", "S", "19")
    assert read_process_state(tmp_path / "none") is None


def test_systemctl_is_asked_when_a_state_or_a_main_process_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its start is the cost of the watch."""
    asked: list[str] = []
    states = {"x.service": "active"}

    def show(*_: str) -> str:
        asked.append("systemd")
        return "Id=x.service\nNRestarts=0\nActiveState=active\nMainPID=7\nControlGroup=/x.service\n"

    def write_start_time(start_time: int) -> None:
        (tmp_path / "7").mkdir(exist_ok=True)
        (tmp_path / "7/stat").write_text(f"7 (x) S {' '.join(['0'] * 18)} {start_time} 0\n")

    monkeypatch.setattr(sensors, "run", show)
    monkeypatch.setattr(sensors.unit_states, "read_active_states", lambda *_: states)
    write_start_time(100)
    sensor = UnitSensor(["x.service"], proc=tmp_path)

    def count_questions(samples: int) -> int:
        asked.clear()
        for _ in range(samples):
            assert sensor.find_troubles() == {}
        return len(asked)

    assert count_questions(1) == 1
    assert sensor.control_groups == {"x.service": "/x.service"}
    assert count_questions(UnitSensor.MAX_CALM_SAMPLES) == 0
    assert count_questions(1) == 1  # once a minute, whatever is seen
    assert count_questions(1) == 0
    write_start_time(200)
    assert count_questions(1) == 1
    assert count_questions(1) == 0
    states["x.service"] = "inactive"
    assert count_questions(1) == 1
