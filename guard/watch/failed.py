"""mailkeep-watch-failed.service: tells that the watch has died, and shares nothing with it but its ways."""

import os
import time

from guard.watch import config, ways
from guard.watch.alerts import Letter


def main(_: list[str]) -> None:
    settings, now = config.load(), time.time()
    result = os.environ.get("MONITOR_SERVICE_RESULT", "failed")  # systemd.exec(5)
    subject = f"[{settings.host}] The watch has ended ({result}), and systemd starts it again"
    text = f"{subject}.\nWhile it is down nobody tells you anything: `journalctl -u mailkeep-watch` says why.\n"
    letter = Letter(int(now * 1000), now, subject, text, urgent=True)
    for way in ("mail", "webhook") if settings.webhook else ("mail",):
        try:
            print(f"{way}: {ways.send(way, letter, settings)}")
        except ways.NotSentError as error:
            print(f"{way}: {error}")
