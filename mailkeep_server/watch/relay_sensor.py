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

TRY_SECONDS, RETRY_SECONDS = 900.0, 60.0  # until the next try, after one that succeeded or failed
TRY_TIMEOUT = 90.0  # seconds
MIN_FAILURES = 2  # in a row: a relay host may restart
PROGRAM = (sys.executable, "-IB", str(Path(__file__).parents[2]), "relay")


class RelaySensor(Sensor):
    name = "relay"

    def __init__(self, host: str, program: Sequence[str] = PROGRAM) -> None:
        self.host, self.program = host, program
        self.process: subprocess.Popen[str] | None = None
        self.started = self.due = time.monotonic()
        self.failures, self.fault = 0, ""

    def find_troubles(self) -> Troubles:
        now = time.monotonic()
        if self.process:
            self._await_result(self.process, now)
        elif now >= self.due:
            self.process = subprocess.Popen(
                self.program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self.started = now
        if self.failures < MIN_FAILURES:
            return {}
        text = f"No mail leaves: the relay host {self.host} {self.fault}. `relay` in mail.yml names it"
        return {"fault": (text, f"The relay host {self.host} takes mail again")}

    def _await_result(self, process: subprocess.Popen[str], now: float) -> None:
        if process.poll() is None:
            if now - self.started > TRY_TIMEOUT:
                process.kill()
            return
        output, _ = process.communicate()
        # Without an exit code of 0, it is the try that failed.
        self.fault = output.strip() if process.returncode == 0 else "could not be tried; `journalctl` may say why"
        self.failures = self.failures + 1 if self.fault else 0
        self.process, self.due = None, now + (RETRY_SECONDS if self.fault else TRY_SECONDS)


def main(_: list[str]) -> int:
    """`relay`: prints why the relay host takes no mail; nothing if it does."""
    from mailkeep_server.common.relay_login import find_relay_fault

    config = load_config()
    if config.relay:
        print(find_relay_fault(config.relay.host, config.relay.port, config.relay.password_file, config.host))
    return 0
