"""The watch itself goes on, and tells, whatever it cannot do."""

from pathlib import Path

import pytest
from watch_samples import Clock

from mailkeep_server.watch import daemon
from mailkeep_server.watch.config import Config
from mailkeep_server.watch.daemon import Watch
from mailkeep_server.watch.sensors import Sensor, Troubles


class Fine(Sensor):
    name = "fine"

    def troubles(self) -> Troubles:
        return {}


class Broken(Sensor):
    name = "broken"

    def troubles(self) -> Troubles:
        raise RuntimeError("no such program")


@pytest.fixture
def watch(config: Config, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """One that has not started its threads: its letters stay."""
    monkeypatch.setattr(daemon, "STATE", tmp_path / "disk" / "state.json")
    monkeypatch.setattr(daemon, "LOOKED", tmp_path / "disk" / "looked.json")
    made = Watch(config, {})
    made.desk.clock = clock
    made.due, made.rows = {}, {}
    for sensor in (Broken(), Fine()):
        made.due[sensor], made.rows[sensor] = 0.0, {}
    return made


def told(watch: Watch, clock: Clock, now: float) -> str:
    """What goes out after two looks."""
    for second in (0, 2):
        watch.round(now + second)
        clock.now += 2
    return "".join(letter.text for letter in watch.post.letters)


def test_a_disk_that_takes_no_state_is_told_and_ends_nothing(watch: Watch, clock: Clock, tmp_path: Path) -> None:
    said = told(watch, clock, 0)
    assert "The watch cannot write: [Errno 2] No such file or directory:" in said
    assert "The watch cannot look (broken): RuntimeError: no such program" in said
    (tmp_path / "disk").mkdir()
    said = told(watch, clock, 1000)
    assert f"The watch can write {daemon.STATE} again" in said
    assert f"The watch can write {daemon.LOOKED} again" in said
    assert daemon.STATE.exists()


def test_what_was_told_before_a_restart_is_not_told_again(
    watch: Watch, config: Config, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    assert "cannot look (broken)" in told(watch, clock, 0)
    again = Watch(config, daemon._state())
    again.desk.clock, again.due, again.rows, again.post.letters = clock, watch.due, watch.rows, []
    assert told(again, clock, 1000) == ""
