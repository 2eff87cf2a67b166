"""Notifications on their way out, with a thread for each channel: none waits for another, nor the watch for any.

A notification that could not be sent is tried again, first after a second, then less and less often. It is dropped
once it is no longer worth knowing. A channel that fails repeatedly is a trouble, which the other channel reports.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from mailkeep_server.watch.alert_queue import AlertQueue, Notification
from mailkeep_server.watch.channels import NotSentError

MAX_NOTIFICATIONS = 50
GIVE_UP_SECONDS = {"mail": 6 * 3600.0, "webhook": 900.0}  # mail waits while Postfix is down
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # after each failure in a row; the last one repeats
FAILURES_UNTIL_TROUBLE = 2

Send = Callable[[str, Notification], object]
"""Sends a notification by a channel; raises NotSentError."""


class Outbox:
    def __init__(
        self, channels: tuple[str, ...], send: Send, alerts: AlertQueue, state: Mapping[str, Any] | None = None
    ) -> None:
        self.channels, self.send, self.alerts = channels, send, alerts
        self.changed = threading.Condition()
        self.notifications = [Notification(**fields) for fields in (state or {}).get("notifications", ())]

    def export_state(self) -> dict[str, Any]:
        """For the constructor after a restart, as JSON values."""
        with self.changed:
            return {"notifications": [asdict(notification) for notification in self.notifications]}

    def add_notification(self, notification: Notification) -> None:
        """If too many wait, the oldest is dropped."""
        notification.pending_channels = list(self.channels)
        with self.changed:
            self.notifications = [*self.notifications[-MAX_NOTIFICATIONS + 1 :], notification]
            self.changed.notify_all()

    def start(self) -> None:
        for channel in self.channels:
            threading.Thread(target=self._serve_channel, args=(channel,), name=channel, daemon=True).start()

    def _serve_channel(self, channel: str) -> None:
        failures = 0
        while True:
            notification = self._wait_for_next(channel)
            try:
                self.send(channel, notification)
            except NotSentError as error:
                failures += 1
                self._handle_failure(channel, notification, error, failures)
                time.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1])
            else:
                failures = 0
                self._finish(channel, notification)
                self.alerts.end_trouble(f"channel:{channel}")

    def _wait_for_next(self, channel: str) -> Notification:
        with self.changed:
            while True:
                for notification in self.notifications:
                    if channel in notification.pending_channels:
                        return notification
                self.changed.wait()

    def _handle_failure(self, channel: str, notification: Notification, error: NotSentError, failures: int) -> None:
        if failures >= FAILURES_UNTIL_TROUBLE:
            text = f"Alerts cannot be sent by {channel}: {error}"
            self.alerts.report_trouble(f"channel:{channel}", text, f"Alerts can be sent by {channel} again")
        if time.time() - notification.time > GIVE_UP_SECONDS[channel]:
            self._finish(channel, notification)

    def _finish(self, channel: str, notification: Notification) -> None:
        with self.changed:
            notification.pending_channels.remove(channel)
            self.notifications = [waiting for waiting in self.notifications if waiting.pending_channels]
