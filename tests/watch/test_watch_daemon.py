"""The watch goes on, and reports, whatever it cannot do."""

from pathlib import Path

import pytest
from watch_samples import Clock

from mailkeep_server.watch import daemon, saved_state
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.config import WatchConfig
from mailkeep_server.watch.daemon import Watch, build_watch
from mailkeep_server.watch.sensor import Sensor


class QuietSensor(Sensor):
    name = "quiet"

    def find_troubles(self) -> Troubles:
        return {}


class BrokenSensor(Sensor):
    name = "broken"

    def find_troubles(self) -> Troubles:
        raise RuntimeError("no such program")


class SlowSensor(Sensor):
    """A trouble must be there in three samples."""

    name, samples = "slow", 3

    def __init__(self) -> None:
        self.troubles: Troubles = {}

    def find_troubles(self) -> Troubles:
        return self.troubles


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the watch writes; it is not there yet."""
    monkeypatch.setattr(saved_state, "FILE", tmp_path / "disk" / "state.json")
    monkeypatch.setattr(daemon, "REPORTS", tmp_path / "disk" / "looked.json")
    return tmp_path / "disk"


def use_sensors(watch: Watch, *sensors: Sensor) -> None:
    watch.due = dict.fromkeys(sensors, 0.0)
    watch.consecutive = {sensor: {} for sensor in sensors}


@pytest.fixture
def watch(config: WatchConfig, clock: Clock, disk: Path) -> Watch:
    """Its threads have not been started: notifications stay in the outbox."""
    assert not disk.exists()
    watch = Watch(config, {})
    watch.alerts.clock = clock
    use_sensors(watch, BrokenSensor(), QuietSensor())
    return watch


def sent_text(watch: Watch, clock: Clock, now: float) -> str:
    """All text in the outbox after two rounds."""
    for second in (0, 2):
        watch.run_once(now + second)
        clock.now += 2
    return "".join(notification.text for notification in watch.outbox.notifications)


def test_a_disk_that_takes_no_state_is_reported_and_ends_nothing(watch: Watch, clock: Clock, disk: Path) -> None:
    text = sent_text(watch, clock, 0)
    for file in (saved_state.FILE, daemon.REPORTS):
        assert f"The watch cannot write {file}: No such file or directory" in text
    assert "The watch cannot check broken: no such program" in text
    disk.mkdir()
    text = sent_text(watch, clock, 1000)
    assert f"The watch can write {saved_state.FILE} again" in text
    assert f"The watch can write {daemon.REPORTS} again" in text
    assert saved_state.FILE.stat().st_mode & 0o777 == 0o600


def test_a_report_of_before_a_restart_is_not_repeated(
    watch: Watch, config: WatchConfig, clock: Clock, disk: Path
) -> None:
    disk.mkdir()
    assert "cannot check broken" in sent_text(watch, clock, 0)
    restarted = Watch(config, saved_state.read_state(saved_state.FILE))
    restarted.alerts.clock, restarted.outbox.notifications = clock, []
    use_sensors(restarted, BrokenSensor(), QuietSensor())
    assert sent_text(restarted, clock, 1000) == ""


def test_a_trouble_counts_after_enough_samples_in_a_row(watch: Watch, disk: Path) -> None:
    disk.mkdir()
    sensor = SlowSensor()
    use_sensors(watch, sensor)
    down = {"a": ("a is down", "a runs again")}
    for troubles, is_open in ((down, 0), (down, 0), ({}, 0), (down, 0), (down, 0), (down, 1), (down, 1), ({}, 0)):
        sensor.troubles = troubles
        watch.check_sensor(sensor)
        assert len(watch.alerts.open_troubles) == is_open
        assert len(watch.reports["slow"]["troubles"]) == is_open


def test_a_sensor_that_fails_for_a_moment_is_no_trouble(watch: Watch, disk: Path) -> None:
    disk.mkdir()
    sensor = BrokenSensor()
    sensor.samples = 3
    use_sensors(watch, sensor)
    for failures in (1, 2, 3):
        watch.check_sensor(sensor)
        assert len(watch.alerts.open_troubles) == (failures == 3)
        assert watch.reports["broken"]["error"] == "no such program", "verify sees it at once"


@pytest.mark.parametrize("state", [{"alerts": [{"x": 1}]}, {"networks": 7}, {"last_event": "x"}, {"open_troubles": []}])
def test_a_damaged_state_does_not_keep_the_watch_from_starting(config: WatchConfig, state: dict[str, object]) -> None:
    watch = build_watch(config, state)
    assert watch.alerts.export_state() == {"open_troubles": {}, "alerts": [], "report_times": {}}
