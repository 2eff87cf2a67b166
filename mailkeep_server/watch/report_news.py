"""What the reader of reports announces: mail of a new source that failed DMARC, a TLS failure, and the end of each.

These are events, which are told once, and no troubles, which are told again each day. A report is about yesterday, and
may be forged.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.report_rows import read_new_rows
from mailkeep_server.watch.sensor import Sensor, SensorEvent

MAX_AGE = 2 * 86_400
"""Seconds. Older announcements are history to a watch without its state."""


class ReportNews(Sensor):
    name = "reports"

    def __init__(self, file: str, last_id: int) -> None:
        self.file, self.last_id = Path(file), last_id
        self.unreported: list[str] = []

    def find_troubles(self) -> Troubles:
        """None, ever. Raises ValueError or LookupError for a file that the reader did not write."""
        new, self.last_id = read_new_rows(self.file, "announcements", self.last_id)
        self.unreported += [str(entry["text"]) for entry in new if entry["time"] > time.time() - MAX_AGE]
        return {}

    def take_events(self) -> Iterator[SensorEvent]:
        texts, self.unreported = self.unreported, []
        for text in texts:
            yield f"report:{text[:80]}", text, False
