"""Whether the relay host takes mail of this server: tried every quarter of an hour by a program of its own, `relay`.

So the watch waits for nobody, and does without the libraries.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.config import load_config
from mailkeep_server.watch.sensor import Sensor

TRY_SECONDS = 900.0  # between two tries: a relay host may lock out whoever logs in wrongly too often
RETRY_SECONDS = 60.0  # after the first try that failed
TRY_TIMEOUT = 90.0  # seconds
MIN_FAILURES = 2  # in a row: a relay host may restart
PROGRAM = (sys.executable, "-IB", str(Path(__file__).parents[2]), "relay")


class RelaySensor(Sensor):
    name = "relay"

    def __init__(self, host: str, program: Sequence[str] = PROGRAM) -> None:
        self.host, self.program = host, program
        self.process: subprocess.Popen[str] | None = None
        self.started = self.due = time.monotonic()
        self.failures, self.text = 0, ""

    def find_troubles(self) -> Troubles:
        now = time.monotonic()
        if self.process:
            self._await_result(self.process, now)
        elif now >= self.due:
            # What it writes to stderr goes to the journal.
            self.process = subprocess.Popen(
                self.program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
            )
            self.started = now
        if self.failures < MIN_FAILURES:
            return {}
        return {"fault": (self.text, f"The relay host {self.host} takes mail again")}

    def _await_result(self, process: subprocess.Popen[str], now: float) -> None:
        if process.poll() is None:
            if now - self.started > TRY_TIMEOUT:
                process.kill()
            return
        output, _ = process.communicate()
        if process.returncode:  # it is the try that failed
            self.text = f"The relay host {self.host} could not be tried: `journalctl -u mailkeep-watch` says why"
        elif fault := output.strip():
            self.text = f"No mail leaves: the relay host {self.host} {fault}. `relay` in mail.yml names it"
        else:
            self.text = ""
        self.failures = self.failures + 1 if self.text else 0
        self.process, self.due = None, now + (RETRY_SECONDS if 0 < self.failures < MIN_FAILURES else TRY_SECONDS)


def main(_: list[str]) -> int:
    """`relay`: prints why the relay host takes no mail; nothing if it does."""
    from mailkeep_server.common.relay_login import find_relay_fault

    config = load_config()
    if config.relay:
        print(find_relay_fault(config.relay.host, config.relay.port, config.relay.password_file, config.host))
    return 0
