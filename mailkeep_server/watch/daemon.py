"""`mailkeep-watch.service`: watches the machine, enforces freezes, alerts the operator.

The main loop asks the sensors one after another, and notifies systemd's watchdog. Whatever may wait for others (the
journal, freezes, notifications) has threads of its own.
"""

import json
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from mailkeep_server.common import paths
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.systemd import notify
from mailkeep_server.common.wording import describe_error
from mailkeep_server.freezes.enforce import enforce_freeze
from mailkeep_server.watch import config, saved_state, sensors
from mailkeep_server.watch.alert_queue import AlertQueue, Notification
from mailkeep_server.watch.channels import send_notification
from mailkeep_server.watch.complaint_news import ComplaintReporter
from mailkeep_server.watch.config import WatchConfig
from mailkeep_server.watch.confirmation_request import ConfirmationRequests
from mailkeep_server.watch.freeze_enforcer import FreezeEnforcer
from mailkeep_server.watch.guard_events import CONFIRMED, HOLD, NEW_REDIRECT, GuardEvents
from mailkeep_server.watch.jail_proof import PROOF
from mailkeep_server.watch.leaving import LeavingSensor, hold_leaving
from mailkeep_server.watch.login_monitor import LoginMonitor
from mailkeep_server.watch.mail_flow import DeliverySensor
from mailkeep_server.watch.outbox import Outbox
from mailkeep_server.watch.owner_notice import OwnerNotices
from mailkeep_server.watch.report_news import ReportNews
from mailkeep_server.watch.sensor import Sensor
from mailkeep_server.watch.stranger_mail import HeldMail, OutcomeReporter, give_back

REPORTS = Path(paths.SENSOR_REPORTS)
"""By sensor: `at`, the time of its last sample (seconds since the epoch), and the `interval` until the next; `error`,
if it failed; `troubles`, as texts. `mailkeep verify` reads it."""
LOOP_SECONDS = 0.5
SAVE_SECONDS = 2.0  # between two looks whether the state has changed; a loss costs an alert sent twice


class Watch:
    def __init__(self, settings: WatchConfig, state: dict[str, Any]) -> None:
        """Raises TypeError, KeyError, ValueError or AttributeError for a damaged state."""
        self.alerts = AlertQueue(settings.host, state)
        self.outbox = Outbox(settings.channels, partial(_send, settings), self.alerts, state)
        self.deliveries = DeliverySensor(state, relay=settings.relay is not None)
        domains, administrators = frozenset(settings.domains), frozenset(settings.admins)
        self.leaving = LeavingSensor(
            **settings.max_leaving,
            own_domains=domains,
            state=state,
            hold_leaving=lambda: hold_leaving(domains, administrators),
        )
        [ssh_port] = settings.jails["sshd"] or [22]
        self.logins = LoginMonitor(self.alerts, settings.max_failed_logins, state, self._read_delivery, ssh_port)
        self.freezes = FreezeEnforcer(Path(settings.freeze_list), enforce_freeze, settings.accounts, self.alerts)
        self.report_news = ReportNews(settings.report_announcements_file, int(state.get("last_announcement", 0)))
        self.complaints = ComplaintReporter(
            settings.report_announcements_file, settings.control_socket, int(state.get("last_complaint", 0))
        )
        self.notices = OwnerNotices(settings.host, self._report_notice)
        self.confirmations = ConfirmationRequests(settings, self._report_notice)
        self.guard_events = GuardEvents(
            settings.control_socket,
            int(state.get("last_event", 0)),
            {
                NEW_REDIRECT: self.notices.send_redirect_notice,
                HOLD: self._tell_of_hold,
                CONFIRMED: self.notices.send_confirmed_notice,
            },
        )
        self.outcomes = OutcomeReporter(settings.control_socket)
        held_mail = HeldMail(settings.control_socket, partial(give_back, settings.host))
        self.sensors = [*sensors.build_sensors(settings, PROOF, self.deliveries), self.leaving]
        if settings.report_announcements_file:
            self.sensors.append(self.report_news)
        if paths.GUARD_SERVICE in settings.units:
            self.sensors += [self.guard_events, self.outcomes, held_mail]
            if settings.report_announcements_file:
                self.sensors.append(self.complaints)
        self.due = dict.fromkeys(self.sensors, 0.0)
        self.consecutive: dict[Sensor, dict[str, int]] = {sensor: {} for sensor in self.sensors}
        """By sensor and key, in how many samples in a row a trouble showed."""
        self.failures = defaultdict[Sensor, int](int)
        """By sensor, how many samples in a row failed."""
        self.reports: dict[str, dict[str, Any]] = {}
        self.saved_text, self.saved = "", float("-inf")

    def _report_notice(self, text: str) -> None:
        self.alerts.report_event("notice", text)

    def _tell_of_hold(self, account: str, reason: str) -> None:
        self.notices.send_hold_notice(account, reason, self.confirmations.find_place(account))
        self.confirmations.send_request(account, reason)

    def _read_delivery(self, text: str) -> None:
        self.deliveries.read_message(text)
        self.leaving.read_message(text)
        self.outcomes.read_message(text)

    def run(self) -> None:
        for component in (self.outbox, self.logins, self.freezes):
            component.start()
        notify("READY=1")
        while True:
            self.run_once(time.monotonic())
            if not self.freezes.is_stuck(time.monotonic()):  # else the watchdog restarts the watch
                notify("WATCHDOG=1")
            time.sleep(LOOP_SECONDS)

    def run_once(self, now: float) -> None:
        due = [sensor for sensor, at in self.due.items() if at <= now]
        for sensor in due:
            self.check_sensor(sensor)
            self.due[sensor] = now + sensor.interval
        if due:
            self.write_file(REPORTS, json.dumps(self.reports))
            self.logins.check_failures()
        if notification := self.alerts.next_notification():
            self.outbox.add_notification(notification)
        if notification or not 0 <= now - self.saved < SAVE_SECONDS:
            self.saved = now
            self.save_state()

    def check_sensor(self, sensor: Sensor) -> None:
        """Takes a sample. If the sensor raises, its open troubles stay open, and the failure is one more, which must
        show in as many samples: systemd does not answer for a moment when an upgrade starts it anew."""
        key, error = f"sensor:{sensor.name}", ""
        try:
            present = sensor.find_troubles()
            before = self.consecutive[sensor]
            self.consecutive[sensor] = {name: before.get(name, 0) + 1 for name in present}
            proven = [name for name, samples in self.consecutive[sensor].items() if samples >= sensor.samples]
            self.alerts.update_troubles(sensor.name, {name: present[name] for name in proven})
            for event in sensor.take_events():
                self.alerts.report_event(*event)
            self.alerts.end_trouble(key)
            self.failures[sensor] = 0
            troubles = [present[name][0] for name in proven]
        except Exception as problem:
            error, troubles = describe_error(problem), []
            self.failures[sensor] += 1
            if self.failures[sensor] >= sensor.samples:
                text = f"The watch cannot check {sensor.name}: {error}"
                self.alerts.report_trouble(key, text, f"The watch can check {sensor.name} again")
        self.reports[sensor.name] = {
            "at": time.time(),
            "interval": sensor.interval,
            "error": error,
            "troubles": troubles,
        }

    def save_state(self) -> None:
        components = (self.alerts, self.outbox, self.logins, self.deliveries, self.leaving)
        state = {name: value for component in components for name, value in component.export_state().items()}
        last = {
            "last_event": self.guard_events.last_id,
            "last_announcement": self.report_news.last_id,
            "last_complaint": self.complaints.last_id,
        }
        text = json.dumps(state | last)
        if text != self.saved_text and self.write_file(saved_state.FILE, text):
            self.saved_text = text

    def write_file(self, file: Path, text: str) -> bool:
        """Whether it could be written. A full disk is a trouble to report, not a reason to die unreported.

        Not durable: flushing could stall the loop on a slow disk, and a loss costs an alert sent twice.
        """
        try:
            atomic_write(file, text, 0o600, durable=False)
        except OSError as error:
            text = f"The watch cannot write {file}: {error.strerror}"
            self.alerts.report_trouble(f"write:{file}", text, f"The watch can write {file} again")
            return False
        self.alerts.end_trouble(f"write:{file}")
        return True


def _send(settings: WatchConfig, channel: str, notification: Notification) -> str:
    return send_notification(channel, notification, settings)


def build_watch(settings: WatchConfig, state: dict[str, Any]) -> Watch:
    """With the state if it is intact: a watch without it is better than none."""
    try:
        return Watch(settings, state)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        print(f"{saved_state.FILE} is damaged, and starts anew: {describe_error(error)}", file=sys.stderr)
        return Watch(settings, {})


def _end_process(failure: threading.ExceptHookArgs) -> None:
    """A thread has died of an unforeseen error: systemd restarts the watch, and has it reported."""
    threading.__excepthook__(failure)
    os._exit(1)


def _exit_cleanly(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def main(arguments: list[str]) -> int:
    try:
        settings = config.load_config()
    except (OSError, ValueError, TypeError, KeyError) as error:
        print(f"{config.FILE}: {describe_error(error)}", file=sys.stderr)
        return 1
    if arguments == ["--check"]:
        return 0
    signal.signal(signal.SIGTERM, _exit_cleanly)
    threading.excepthook = _end_process
    os.umask(0o077)
    build_watch(settings, saved_state.read_state()).run()
    return 0
