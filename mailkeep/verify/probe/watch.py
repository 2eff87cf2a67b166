"""Whether the watch looks, and what it sees; whether its way out is open to it, and to nobody else."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mailkeep_server.common import paths
from mailkeep_server.common.unix_smtp import UnixSmtp

from .config import ProbeConfig
from .linux_account import run

LOOKED = Path(paths.SENSOR_REPORTS)
PROOF = Path(paths.JAIL_PROOF)
UNPROVEN = 5400.0  # seconds; jails are proven every half hour
PROVING, LOOKING = 60.0, 20.0  # seconds that it may take, from a start at this moment
STRANGER = "stranger@example.com"


def watched() -> dict[str, Any]:
    """What was amiss is looked at once more before it is told: a deploy may just have mended it. First by the proof of
    the jails, which the watch reads."""
    return {"proof": _proof(), "looked": _looked()}


def _proof() -> dict[str, Any]:
    """How many seconds ago each jail was last proven, and what was wrong."""
    begun = time.time()
    if not PROOF.exists() or begun - PROOF.stat().st_mtime > UNPROVEN or _read(PROOF)["faults"]:
        run("systemctl", "start", "--no-block", "mailkeep-jails")
        _until(lambda: PROOF.exists() and PROOF.stat().st_mtime > begun, PROVING)
    return {"ago": time.time() - PROOF.stat().st_mtime, "faults": _read(PROOF)["faults"]}


def _looked() -> dict[str, Any]:
    """By sensor: how many seconds ago it looked, with which error, and what it found amiss."""
    begun = time.time()
    _until(LOOKED.exists, LOOKING)
    while _is_old(found := _read(LOOKED), begun) and time.time() < begun + LOOKING:
        time.sleep(0.2)
    return {name: {**one, "ago": time.time() - one["at"]} for name, one in found.items()}


def _is_old(found: dict[str, Any], begun: float) -> bool:
    """Whether a sensor that found something amiss has not looked since."""
    return any(one["troubles"] and one["at"] < begun for one in found.values())


def _read(file: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(file.read_text())
    return written


def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Until it is so, but for at most so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)


def path(given: ProbeConfig) -> dict[str, str]:
    """What the smtpd for alerts says to each recipient. Nothing is sent."""
    strangers = [STRANGER, *(one for one in given.accounts if one not in given.admins)][:2]
    answers: dict[str, str] = {}
    with UnixSmtp(given.alert_socket, local_hostname=given.host, timeout=10) as connection:
        connection.ehlo()
        connection.mail(f"postmaster@{given.host}")
        for recipient in (*given.admins, *strangers):
            code, text = connection.rcpt(recipient)
            answers[recipient] = f"{code} {text.decode(errors='replace')}"
    return answers
