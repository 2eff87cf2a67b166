"""mailkeep-watch-failed.service: tells that the watch has died, and shares nothing with it but its ways."""

import os
import time
from pathlib import Path

from mailkeep_server.watch import channels, config
from mailkeep_server.watch.alert_queue import Letter

TOLD = Path("/run/mailkeep-watch-failed/told")
HOUR, MOST = 3600, 2  # however often the watch ends


def main(_: list[str]) -> int:
    before = told(TOLD, since_boot := time.monotonic())
    if len(before) >= MOST:
        print(f"The watch has ended again; this was told {MOST} times within the hour")
        return 0
    tell()
    TOLD.write_text("".join(f"{at}\n" for at in (*before, since_boot)))
    return 0


def told(file: Path, now: float) -> list[float]:
    """When it was told within the last hour: seconds since the machine started, for the file is gone with that, too.
    systemd's own limit would not do: a unit that comes to it has failed, for ever."""
    try:
        times = [float(line) for line in file.read_text().split()]
    except FileNotFoundError:
        return []
    return [at for at in times if now - at < HOUR]


def tell() -> None:
    settings, now = config.load(), time.time()
    result = os.environ.get("MONITOR_SERVICE_RESULT", "failed")  # systemd.exec(5)
    subject = f"[{settings.host}] The watch has ended ({result}), and systemd starts it again"
    text = f"{subject}.\nWhile it is down nobody tells you anything: `journalctl -u mailkeep-watch` says why.\n"
    letter = Letter(int(now * 1000), now, subject, text, urgent=True)
    for way in ("mail", "webhook") if settings.webhook else ("mail",):
        try:
            print(f"{way}: {channels.send(way, letter, settings)}")
        except channels.NotSentError as error:
            print(f"{way}: {error}")
