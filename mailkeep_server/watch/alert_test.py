"""`alert-test`: sends a test alert by each channel, and prints the results as JSON."""

import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from mailkeep_server.watch.alert_queue import Notification
from mailkeep_server.watch.channels import NotSentError, send_notification
from mailkeep_server.watch.config import WatchConfig, load_config

DELIVERY_TIMEOUT = 30.0  # seconds
RETRY_SECONDS = 0.3


@dataclass(frozen=True)
class AlertTestResult:
    """`channel` is `mail` or `webhook`; `recipient` an administrator, or the webhook's format; `answer` that of the
    mail server or webhook, or the reason for which there is none. `mailkeep.operate.alert_test` reads it."""

    channel: str
    recipient: str
    arrived: bool
    answer: str


def main(_: list[str]) -> int:
    config, now = load_config(), time.time()
    text = "This is a test of the alerts of your mail server. It works.\n"
    notification = Notification(int(now * 1000), now, f"[{config.host}] A test of the alerts", text, urgent=False)
    results = try_mail(notification, config)
    if config.webhook:
        results.append(try_webhook(notification, config, config.webhook.format))
    json.dump([asdict(result) for result in results], sys.stdout)
    return 0


def try_webhook(notification: Notification, config: WatchConfig, webhook_format: str) -> AlertTestResult:
    try:
        answer = send_notification("webhook", notification, config)
    except NotSentError as error:
        return AlertTestResult("webhook", webhook_format, False, str(error))
    return AlertTestResult("webhook", webhook_format, True, answer)


def try_mail(notification: Notification, config: WatchConfig) -> list[AlertTestResult]:
    try:
        answer = send_notification("mail", notification, config)
    except NotSentError as error:
        return [AlertTestResult("mail", admin, False, str(error)) for admin in config.admins]
    match = re.search(r"queued as (\w+)", answer)
    if not match:
        return [AlertTestResult("mail", admin, False, f"accepted, but not queued: {answer}") for admin in config.admins]
    return wait_for_delivery(match[1], notification.time, config.admins)


def wait_for_delivery(queue_id: str, since: float, admins: list[str]) -> list[AlertTestResult]:
    """The result of each delivery, by Postfix's log. An alias may have led the mail to another address: the log names
    the administrator as `orig_to`."""
    results: dict[str, AlertTestResult] = {}
    deadline = time.monotonic() + DELIVERY_TIMEOUT
    while True:
        log = read_log(queue_id, since)
        for line in log:
            if match := re.search(r" to=<([^>]*)>,(?: orig_to=<([^>]*)>,)? .*status=(\w+) (.*)", line):
                recipient = match[2] or match[1]
                results[recipient] = AlertTestResult("mail", recipient, match[3] == "sent", f"{match[3]} {match[4]}")
        if any(line.endswith(f"{queue_id}: removed") for line in log) or time.monotonic() > deadline:
            break
        time.sleep(RETRY_SECONDS)
    late = f"queued as {queue_id}, and not delivered within {DELIVERY_TIMEOUT:.0f} s; `postqueue -p` shows it"
    missing = [admin for admin in admins if admin not in results]
    return [*results.values(), *(AlertTestResult("mail", admin, False, late) for admin in missing)]


def read_log(queue_id: str, since: float) -> list[str]:
    """Postfix's log lines about a message."""
    command = ["journalctl", "--unit=postfix.service", "--output=cat", f"--since=@{int(since)}", f"--grep={queue_id}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.splitlines()
