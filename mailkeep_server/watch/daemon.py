"""mailkeep-watch.service: looks after the machine, carries out freezes, tells the operator.

The loop below asks one sensor after the other, and systemd hears from it while it does; what may wait for others (the
journal, freezes, letters) has threads of its own.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mailkeep_server.common.systemd import notify
from mailkeep_server.freezes.enforce import enforce_freeze
from mailkeep_server.watch import channels, config, guard_events, sensors
from mailkeep_server.watch.alert_queue import Desk
from mailkeep_server.watch.config import Config
from mailkeep_server.watch.freeze_enforcer import Freezes
from mailkeep_server.watch.jail_proof import PROOF
from mailkeep_server.watch.login_monitor import Logins
from mailkeep_server.watch.outbox import Post
from mailkeep_server.watch.sensors import Sensor

STATE = config.STATE / "state.json"
LOOKED = config.RUN / "looked.json"
"""What each sensor saw last, and when: for `mailkeep verify`."""
TICK = 0.5  # seconds
GUARD = "mailkeep-guard.service"


class Watch:
    def __init__(self, settings: Config, state: dict[str, Any]) -> None:
        way_names = ("mail", "webhook") if settings.webhook else ("mail",)
        self.desk = Desk(settings.host, state)
        self.post = Post(way_names, partial(_send, settings), self.desk, state)
        self.logins = Logins(self.desk, settings.failures, state)
        self.freezes = Freezes(Path(settings.frozen), enforce_freeze, settings.accounts, self.desk)
        self.guard = guard_events.Guard(settings.control, int(state.get("event", 0)))
        self.sensors = sensors.all_of(settings, PROOF)
        if GUARD in settings.units:
            self.sensors.append(self.guard)
        self.due = dict.fromkeys(self.sensors, 0.0)
        self.rows: dict[Sensor, dict[str, int]] = {sensor: {} for sensor in self.sensors}
        self.looked: dict[str, dict[str, Any]] = {}
        self.saved = ""

    def run(self) -> None:
        for thread in (self.post, self.logins, self.freezes):
            thread.start()
        notify("READY=1")
        while True:
            self.round(time.monotonic())
            if not self.freezes.stuck(time.monotonic()):  # else systemd starts us anew
                notify("WATCHDOG=1")
            time.sleep(TICK)

    def round(self, now: float) -> None:
        due = [sensor for sensor, at in self.due.items() if at <= now]
        for sensor in due:
            self.look(sensor)
            self.due[sensor] = now + sensor.every
        if due:
            self.write(LOOKED, json.dumps(self.looked))
            self.logins.look()
        if letter := self.desk.letter():
            self.post.put(letter)
        self.save()

    def look(self, sensor: Sensor) -> None:
        """What one sensor sees. One that cannot look takes nothing back, and is a trouble itself."""
        key, error = f"sensor:{sensor.name}", ""
        try:
            seen = sensor.troubles()
            self.rows[sensor] = {trouble: self.rows[sensor].get(trouble, 0) + 1 for trouble in seen}
            there = {trouble: seen[trouble] for trouble, row in self.rows[sensor].items() if row >= sensor.looks}
            self.desk.troubles(sensor.name, there)
            for happening in sensor.happenings():
                self.desk.happened(*happening)
            self.desk.over(key)
            troubles = [text for text, _ in there.values()]
        except Exception as problem:
            error, troubles = f"{type(problem).__name__}: {problem}", []
            self.desk.trouble(key, f"The watch cannot look ({sensor.name}): {error}", f"It can again ({sensor.name})")
        self.looked[sensor.name] = {"at": time.time(), "error": error, "troubles": troubles}

    def save(self) -> None:
        state = {**self.desk.state(), **self.post.state(), **self.logins.state(), "event": self.guard.last}
        if (text := json.dumps(state)) != self.saved and self.write(STATE, text):
            self.saved = text

    def write(self, file: Path, text: str) -> bool:
        """Whole or not at all. A disk that takes no more is a trouble to tell, and nothing to die of untold."""
        new = file.with_name(f"{file.name}.new")
        try:
            new.write_text(text)
            new.replace(file)
        except OSError as error:
            self.desk.trouble(f"write:{file}", f"The watch cannot write: {error}", f"The watch can write {file} again")
            return False
        self.desk.over(f"write:{file}")
        return True


def _send(settings: Config, way: str, letter: Any) -> str:
    return channels.send(way, letter, settings)


def _state() -> dict[str, Any]:
    """Of the last run; none when it cannot be read, for the watch must start."""
    try:
        found = json.loads(STATE.read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _end(ended: threading.ExceptHookArgs) -> None:
    """A thread has died of what nobody thought of: systemd starts us anew, and tells."""
    threading.__excepthook__(ended)
    os._exit(1)


def main(arguments: list[str]) -> int:
    try:
        settings = config.load()
    except (OSError, ValueError, TypeError, KeyError) as error:
        print(f"{config.FILE}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if arguments == ["--check"]:
        return 0
    quit_: Callable[..., None] = lambda *_: sys.exit(0)  # noqa: E731
    signal.signal(signal.SIGTERM, quit_)
    threading.excepthook = _end
    os.umask(0o077)
    Watch(settings, _state()).run()
    return 0
