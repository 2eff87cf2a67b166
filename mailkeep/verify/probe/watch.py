"""Whether the watch looks, and what it sees; whether its way out is open to it, and to nobody else."""

import json
import smtplib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .account import run
from .given import Given

LOOKED = Path("/run/mailkeep-watch/looked.json")
PROOF = Path("/var/lib/mailkeep-watch/jails.json")
START = 20.0  # seconds that a watch, or a proof of the jails, that has just been started may take
STRANGER = "stranger@example.com"


def looked() -> dict[str, Any]:
    """By sensor: how many seconds ago it looked, with which error, and what it found amiss. A sensor that found
    something looks again before: a deploy may just have mended it."""
    begun = time.time()
    _wait(LOOKED.exists)
    _wait(lambda: all(not one["troubles"] or one["at"] > begun for one in _read(LOOKED).values()))
    return {name: {**one, "ago": time.time() - one["at"]} for name, one in _read(LOOKED).items()}


def proof() -> dict[str, Any]:
    """How many seconds ago each jail was last proven, and what was wrong. What was is tried again before."""
    begun = time.time()
    _wait(PROOF.exists)
    if _read(PROOF)["faults"]:
        run("systemctl", "start", "--no-block", "mailkeep-jails")
        _wait(lambda: PROOF.stat().st_mtime > begun)
    return {"ago": time.time() - PROOF.stat().st_mtime, "faults": _read(PROOF)["faults"]}


def _read(file: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(file.read_text())
    return written


def _wait(condition: Callable[[], bool]) -> None:
    """For at most START seconds."""
    deadline = time.monotonic() + START
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)


class Local(smtplib.SMTP):
    """SMTP through a Unix-domain socket, whose path is the host."""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:  # noqa: ARG002 - smtplib's name
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(host)
        return connection


def path(given: Given) -> dict[str, str]:
    """What the smtpd for alerts says to each recipient. Nothing is sent."""
    strangers = [STRANGER, *(one for one in given.accounts if one not in given.admins)][:2]
    answers: dict[str, str] = {}
    with Local(given.alerts, local_hostname=given.host, timeout=10) as connection:
        connection.ehlo()
        connection.mail(f"postmaster@{given.host}")
        for recipient in (*given.admins, *strangers):
            code, text = connection.rcpt(recipient)
            answers[recipient] = f"{code} {text.decode(errors='replace')}"
    return answers
