"""`mailkeep-watch-failed.service`: reports that the watch has ended. The channels are all that it shares with it."""

import os
import time
from pathlib import Path

from mailkeep_server.common.files import atomic_write
from mailkeep_server.watch.alert_queue import Notification
from mailkeep_server.watch.channels import NotSentError, send_notification
from mailkeep_server.watch.config import load_config

REPORT_TIMES = Path("/run/mailkeep-watch-failed/report-times")
"""Seconds since the machine started, a line each: /run is gone after that as well."""
HOUR = 3600  # seconds
MAX_REPORTS = 2  # within an hour, however often the watch ends


def main(_: list[str]) -> int:
    """systemd's own start limit would not do: a unit that reaches it has failed, until somebody resets it."""
    now = time.monotonic()
    recent = read_recent_times(REPORT_TIMES, now)
    if len(recent) >= MAX_REPORTS:
        print(f"The watch has ended again; that was reported {MAX_REPORTS} times within the hour")
        return 0
    report_end()
    atomic_write(REPORT_TIMES, "".join(f"{at}\n" for at in (*recent, now)), 0o600, durable=False)
    return 0


def read_recent_times(file: Path, now: float) -> list[float]:
    """The reports of the last hour."""
    try:
        times = [float(line) for line in file.read_text().split()]
    except FileNotFoundError:
        return []
    return [at for at in times if now - at < HOUR]


def report_end() -> None:
    config, now = load_config(), time.time()
    result = os.environ.get("MONITOR_SERVICE_RESULT", "failed")  # systemd.exec(5)
    subject = f"[{config.host}] The watch has ended ({result}), and systemd restarts it"
    text = f"{subject}.\nWhile it is down, no alerts are sent: `journalctl -u mailkeep-watch` says why it ended.\n"
    notification = Notification(int(now * 1000), now, subject, text, urgent=True)
    for channel in config.channels:
        try:
            print(f"{channel}: {send_notification(channel, notification, config)}")
        except NotSentError as error:
            print(f"{channel}: {error}")
