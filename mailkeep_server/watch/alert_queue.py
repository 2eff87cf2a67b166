"""Alerts for the operator: each one within seconds, none twice, and never a flood.

A *trouble* is a state: reported when it begins, when it ends, and once a day while it lasts. An *event* is reported
when it occurs. Alerts that come close together leave as one notification. Two budgets bound notifications: routine ones
never use up the budget of urgent ones. A trouble or event that repeats is reported a few times a day only.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

BATCH_SECONDS = 1.0  # that an alert waits for others
REMIND_SECONDS = 86_400.0  # until a trouble that lasts is reported again
MAX_REPORTS = 4  # of one trouble or event …
REPORT_WINDOW = 21_600.0  # … within these seconds
MAX_ALERTS = 40  # of a notification
MAX_ALERT_CHARS = 400
MAX_SUBJECT_CHARS = 120
MAX_KEYS = 5000  # of troubles and events whose reports are remembered
PRUNE_SECONDS = 60.0  # at least, between two searches for keys that can be forgotten
URGENT, ROUTINE = True, False

Troubles = Mapping[str, tuple[str, str]]
"""By key, the text that is reported and the one that reports the end."""


@dataclass
class Budget:
    """A notification costs 1. Up to `capacity` are saved; 1 is added every `refill` seconds."""

    capacity: float
    refill: float
    balance: float = 0.0
    updated: float = 0.0

    def spend(self, now: float) -> bool:
        """Whether the budget allowed a notification, and has paid for it."""
        if self.updated:
            self.balance = min(self.capacity, self.balance + max(0.0, now - self.updated) / self.refill)
        else:
            self.balance = self.capacity
        self.updated = now
        if self.balance < 1:
            return False
        self.balance -= 1
        return True


@dataclass
class Trouble:
    """`since` and `last_report` are times; `last_report` is 0 before the first report."""

    text: str
    end_text: str
    since: float
    last_report: float = 0.0


@dataclass(frozen=True)
class Alert:
    """One line of a notification."""

    time: float
    text: str
    urgent: bool


@dataclass
class Notification:
    """A message to the operator. `pending_channels` are those by which it has not been sent yet."""

    id: int
    time: float
    subject: str
    text: str
    urgent: bool
    pending_channels: list[str] = field(default_factory=list)


class AlertQueue:
    """Takes troubles and events from any thread, and makes notifications of them. Times are seconds since the epoch."""

    def __init__(self, host: str, state: Mapping[str, Any] | None = None, clock: Callable[[], float] = time.time):
        state = state or {}
        self.host, self.clock = host, clock
        self.lock = threading.RLock()
        self.open_troubles = {key: Trouble(**fields) for key, fields in state.get("open_troubles", {}).items()}
        self.alerts = [Alert(**fields) for fields in state.get("alerts", ())]
        self.report_times: dict[str, list[float]] = dict(state.get("report_times", {}))
        self.budgets = {URGENT: Budget(12, 60), ROUTINE: Budget(8, 300)}
        self.omitted = 0
        self.pruned = 0.0

    def export_state(self) -> dict[str, Any]:
        """For the constructor after a restart, as JSON values."""
        with self.lock:
            return {
                "open_troubles": {key: asdict(trouble) for key, trouble in self.open_troubles.items()},
                "alerts": [asdict(alert) for alert in self.alerts],
                "report_times": self.report_times,
            }

    def update_troubles(self, sensor: str, current: Troubles) -> None:
        """Takes all troubles that a sensor sees now; those that it saw before and no longer does have ended."""
        with self.lock:
            for key, (text, end_text) in current.items():
                self.report_trouble(f"{sensor}:{key}", text, end_text)
            for key in [key for key in self.open_troubles if key.startswith(f"{sensor}:")]:
                if key.partition(":")[2] not in current:
                    self.end_trouble(key)

    def report_trouble(self, key: str, text: str, end_text: str) -> None:
        """A trouble has begun, or still lasts."""
        with self.lock:
            now = self.clock()
            trouble = self.open_troubles.setdefault(key, Trouble(text, end_text, now))
            trouble.text, trouble.end_text = text, end_text
            if now - trouble.last_report >= REMIND_SECONDS and self._count_report(key, now, URGENT):
                since = f" (since {_format_time(trouble.since)})" if trouble.last_report else ""
                trouble.last_report = now
                self._add_alert(text + since, URGENT)

    def end_trouble(self, key: str) -> None:
        """The end is reported if the beginning was. A trouble that is not open is ignored."""
        with self.lock:
            trouble = self.open_troubles.pop(key, None)
            if trouble and trouble.last_report:
                self._add_alert(f"{trouble.end_text} (since {_format_time(trouble.since)})", ROUTINE)

    def report_event(self, key: str, text: str, urgent: bool = ROUTINE) -> None:
        with self.lock:
            now = self.clock()
            if self._count_report(key, now, urgent):
                is_last = len(self.report_times[key]) == MAX_REPORTS
                self._add_alert(text + (" (no more alerts of this for six hours)" if is_last else ""), urgent)

    def next_notification(self) -> Notification | None:
        """Takes all alerts, once they have waited for others and a budget allows a notification."""
        with self.lock:
            now = self.clock()
            if not self.alerts or 0 <= now - self.alerts[0].time < BATCH_SECONDS:
                return None
            urgent = any(alert.urgent for alert in self.alerts)
            if not self.budgets[urgent].spend(now):
                return None
            alerts, self.alerts = sorted(self.alerts, key=lambda alert: not alert.urgent), []
            omitted, self.omitted = self.omitted, 0
        others = len(alerts) + omitted - 1
        subject = alerts[0].text[:MAX_SUBJECT_CHARS] + (f" (and {others} more)" if others else "")
        text = "".join(f"{line}\n" for line in _format_lines(alerts, omitted))
        return Notification(int(now * 1000), now, f"[{self.host}] {subject}", text, urgent)

    def _add_alert(self, text: str, urgent: bool) -> None:
        printable = "".join(character if character.isprintable() else "\ufffd" for character in text)
        alert = Alert(self.clock(), printable[:MAX_ALERT_CHARS], urgent)
        print(alert.text, flush=True)  # the journal has all alerts
        self.alerts.append(alert)
        if len(self.alerts) > MAX_ALERTS:
            routine = (n for n in range(MAX_ALERTS, -1, -1) if not self.alerts[n].urgent)
            del self.alerts[next(routine, MAX_ALERTS)]
            self.omitted += 1

    def _count_report(self, key: str, now: float, urgent: bool) -> bool:
        """Whether one more report of this key is allowed; then it is counted."""
        if key not in self.report_times and not self._make_room(now, urgent):
            return False
        times = [at for at in self.report_times.get(key, ()) if 0 <= now - at < REPORT_WINDOW]
        self.report_times[key] = times
        if len(times) >= MAX_REPORTS:
            return False
        times.append(now)
        return True

    def _make_room(self, now: float, urgent: bool) -> bool:
        """Whether one more key can be remembered. An urgent one replaces the oldest."""
        if len(self.report_times) >= MAX_KEYS and not 0 <= now - self.pruned < PRUNE_SECONDS:
            recent = {key: times for key, times in self.report_times.items() if now - times[-1] < REPORT_WINDOW}
            self.report_times, self.pruned = recent, now
        if len(self.report_times) >= MAX_KEYS and urgent:
            del self.report_times[next(iter(self.report_times))]
        return len(self.report_times) < MAX_KEYS


def _format_lines(alerts: list[Alert], omitted: int) -> Iterator[str]:
    for alert in alerts:
        yield f"{_format_time(alert.time)}  {alert.text}"
    if omitted:
        yield f"… and {omitted} more alerts: `journalctl -u mailkeep-watch` has them all"


def _format_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
