"""All mail that leaves the server, whoever sent it: counted by Postfix's log, bounded, and stopped beyond the bound.

The guard bounds what enters the queue by Postfix's doors. A process that has become `postfix` needs no door: it writes
into the queue. Its mail leaves by smtp(8) like any other, which logs each delivery. This count sees it, and a queue on
hold stops it. The guard's own database and its ceilings do not matter here.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from mailkeep_server.common import paths
from mailkeep_server.common.commands import run, stream_output
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.mail_flow import DELIVERY, EXPORT_SECONDS, MAILBOX_AGENT
from mailkeep_server.watch.sensor import Sensor

HOUR, DAY = 3600, 86_400  # seconds
STEP = 60  # seconds; deliveries of one step are counted together
HELD_LIST = Path(paths.STOPPED_MAIL)
QUEUE_TIMEOUT = 10.0  # seconds, for one look at the queue; systemd's watchdog bounds the loop of sensors by 30
MAX_HELD = 5000  # messages put on hold by one look


class LeavingSensor(Sensor):
    """`max_per_hour`, `max_per_day`: recipients elsewhere. `hold_leaving` puts mail to others on hold, and returns the
    number of messages."""

    name, interval = "leaving", 2.0

    def __init__(
        self,
        max_per_hour: int,
        max_per_day: int,
        own_domains: Iterable[str],
        state: Mapping[str, Any] | None,
        hold_leaving: Callable[[], int],
    ) -> None:
        self.bounds = {HOUR: ("an hour", max_per_hour), DAY: ("a day", max_per_day)}
        self.own_domains, self.hold_leaving = frozenset(own_domains), hold_leaving
        saved: Mapping[str, Any] = (state or {}).get("leaving", {})
        self.lock = threading.Lock()
        self.steps: deque[list[int]] = deque([int(at), int(number)] for at, number in saved.get("steps", ()))
        """Start of the step, and how many recipients elsewhere got mail in it."""
        self.held = int(saved.get("held", 0))
        """Since the trouble began."""
        self.exported, self.state = float("-inf"), dict[str, Any]()

    def export_state(self) -> dict[str, Any]:
        """For the constructor after a restart, as JSON values. Up to a minute old, as that of DeliverySensor."""
        if not 0 <= time.monotonic() - self.exported < EXPORT_SECONDS:
            with self.lock:
                self.state = {"steps": [list(step) for step in self.steps], "held": self.held}
            self.exported = time.monotonic()
        return {"leaving": self.state}

    def read_message(self, text: str) -> None:
        """A line of Postfix's delivery agents. Another thread reads them."""
        match = DELIVERY.match(text)
        if not match or match[4] != "sent" or match[2].endswith(MAILBOX_AGENT):
            return
        if match[1].lower().rpartition("@")[2] not in self.own_domains:
            with self.lock:
                now = int(time.time()) // STEP * STEP
                if not self.steps or self.steps[-1][0] != now:
                    self.steps.append([now, 0])
                self.steps[-1][1] += 1

    def find_troubles(self) -> Troubles:
        exceeded = self._find_exceeded(time.time())
        if not exceeded:
            self.held = 0
            return {}
        self.held += self.hold_leaving()
        window, number, bound = exceeded
        text = (
            f"Mail to {number} recipients elsewhere has left in {window}, and guard.leaving allows {bound}: mail to "
            f"others is put on hold, {self.held} messages so far. `postqueue -p` and `mailkeepctl limits` say whose it "
            f"is. `postsuper -H - < {HELD_LIST}` releases it"
        )
        return {"bound": (text, f"Less mail leaves. What is on hold stays there: {HELD_LIST} names it")}

    def _find_exceeded(self, now: float) -> tuple[str, int, int] | None:
        """Window, number and bound."""
        with self.lock:
            while self.steps and not 0 <= now - self.steps[0][0] < DAY + STEP:
                self.steps.popleft()
            numbers = {window: sum(number for at, number in self.steps if now - at < window) for window in self.bounds}
        for window, (words, bound) in self.bounds.items():
            if numbers[window] > bound:
                return words, numbers[window], bound
        return None


def hold_leaving(own_domains: Collection[str], administrators: Collection[str]) -> int:
    """Puts on hold all queued mail to other servers, but for that to administrators alone: alerts are among it."""
    ids: list[str] = []
    with stream_output("postqueue", "-j", timeout=QUEUE_TIMEOUT) as lines:
        for row in map(json.loads, lines):
            recipients = {str(recipient["address"]).lower() for recipient in row["recipients"]}
            leaves = any(recipient.rpartition("@")[2] not in own_domains for recipient in recipients)
            if row["queue_name"] != "hold" and leaves and not recipients <= set(administrators):
                ids.append(str(row["queue_id"]))
            if len(ids) == MAX_HELD:
                break
    if ids:
        with HELD_LIST.open("a") as file:  # first: what is on hold must be on the list
            file.write("".join(f"{queue_id}\n" for queue_id in ids))
        run("postsuper", "-h", "-", stdin="".join(f"{queue_id}\n" for queue_id in ids), timeout=QUEUE_TIMEOUT)
    return len(ids)
