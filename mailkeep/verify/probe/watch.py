"""Whether the watch looks, and what it sees; whether its way out is open to it, and to nobody else."""

import json
import smtplib
import socket
import time
from pathlib import Path
from typing import Any

from .given import Given

LOOKED = Path("/run/mailkeep-watch/looked.json")
PROOF = Path("/var/lib/mailkeep-watch/jails.json")
START = 20.0  # seconds that a watch, or a proof of the jails, that has just been started may take
STRANGER = "stranger@example.com"


def looked() -> dict[str, Any]:
    """By sensor: how many seconds ago it looked, with which error, and what it found amiss."""
    found = _soon(LOOKED)
    return {name: {**one, "ago": time.time() - one["at"]} for name, one in found.items()}


def proof() -> dict[str, Any]:
    """How many seconds ago each jail was last proven, and what was wrong."""
    found = _soon(PROOF)
    return {"ago": time.time() - PROOF.stat().st_mtime, "faults": found["faults"]}


def _soon(file: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    written: dict[str, Any] = json.loads(file.read_text())
    return written


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
