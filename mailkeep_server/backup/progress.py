"""How far a backup, proof or restore is: a line that `backup wait` shows to whoever waits for it."""

import json
import time
from contextlib import suppress
from pathlib import Path

from mailkeep_server.backup import config
from mailkeep_server.common.commands import run
from mailkeep_server.common.files import atomic_write

FILE = config.STATE / "progress"
MIN_SECONDS = 1.0  # between two writes
POLL_SECONDS = 0.5
RUNNING = ("activating", "active", "deactivating", "reloading")


class Progress:
    """Call it with a text, within its context."""

    def __init__(self, file: Path = FILE) -> None:
        self.file, self.written = file, 0.0

    def __call__(self, text: str) -> None:
        if time.monotonic() - self.written >= MIN_SECONDS:
            self.written = time.monotonic()
            atomic_write(self.file, text, 0o600, durable=False)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.unlink(missing_ok=True)


def wait_for_progress(unit: str, last: str, seconds: float, file: Path = FILE) -> str:
    """Returns, as JSON, whether the unit runs and its progress: at once when it has ended or says something new, else
    after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        is_running = run("systemctl", "is-active", unit, check=False, timeout=60).strip() in RUNNING
        text = ""
        with suppress(OSError):
            text = file.read_text()
        if not is_running or text != last or time.monotonic() > end:
            return json.dumps({"running": is_running, "progress": text if is_running else ""})
        time.sleep(POLL_SECONDS)
