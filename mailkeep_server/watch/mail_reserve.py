"""Room for alerts in Postfix's queue: files that take it while the disk has some, and give it up when it has none."""

import os
from contextlib import suppress
from pathlib import Path

from mailkeep_server.common.files import prepare_spares
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.sensor import Sensor

SPOOL = Path("/var/spool/postfix")
DIRECTORY = "mailkeep-reserve"
FILES = 8
FILES_PER_ALERT = 2
"""An alert needs the inodes of its queue file and of a log of its delivery (bounce(8))."""
ALERT_BYTES = 160 * 1024
"""smtpd(8) wants room for one and a half times the message_size_limit of its service, which is 100 KiB for alerts."""
FILE_BYTES = ALERT_BYTES // FILES_PER_ALERT


class MailReserveSensor(Sensor):
    """Keeps the files. A disk without room is the disk sensor's to report."""

    name, interval, samples = "reserve", 60.0, 2

    def find_troubles(self) -> Troubles:
        if SPOOL.is_dir() and _has_room(alerts=4 * FILES):
            (SPOOL / DIRECTORY).mkdir(mode=0o700, exist_ok=True)
            prepare_spares(_list_files(), FILE_BYTES)
        return {}


def give_up_room() -> bool:
    """Removes what an alert needs. False if the disk has room, so that something else stops alerts, or none is kept."""
    if not SPOOL.is_dir() or _has_room(alerts=1):
        return False
    removed = 0
    for file in _list_files():
        with suppress(OSError):
            file.unlink()
            removed += 1
        if removed == FILES_PER_ALERT:
            break
    return removed > 0


def _list_files() -> list[Path]:
    return [SPOOL / DIRECTORY / str(number) for number in range(FILES)]


def _has_room(alerts: int) -> bool:
    """Whether Postfix's user, who may not use root's reserve, can queue so many alerts."""
    status = os.statvfs(SPOOL)
    has_inodes = status.f_favail >= alerts * FILES_PER_ALERT or status.f_files == 0  # btrfs has no number of inodes
    return has_inodes and status.f_bavail * status.f_frsize > alerts * ALERT_BYTES
