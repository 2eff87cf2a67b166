"""The reports of the watch's sensors, its proof of the jails, and the recipients that its way for alerts accepts."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mailkeep_server.common import paths
from mailkeep_server.common.unix_smtp import UnixSmtp

from .commands import run_command
from .config import ProbeConfig

SENSOR_REPORTS = Path(paths.SENSOR_REPORTS)
JAIL_PROOF = Path(paths.JAIL_PROOF)
MAX_PROOF_AGE = 5400.0  # seconds; jails are proven every half hour
PROOF_TIMEOUT, SENSOR_TIMEOUT = 60.0, 20.0  # seconds from a start at this moment
ALERT_TIMEOUT = 10.0
STRANGER = "stranger@example.com"


def examine_watch() -> dict[str, Any]:
    """A trouble is reported only if the watch still sees it when it looks again: a deploy may have just repaired it.

    The proof of the jails comes first, since the watch reads it.
    """
    return {"proof": _read_proof(), "sensors": _read_sensors()}


def _read_proof() -> dict[str, Any]:
    """The `age` of the last proof of the jails in seconds, and its `faults` by jail."""
    if _is_proof_old() or _read_json(JAIL_PROOF)["faults"]:
        state = run_command("systemctl", "show", "--property=ActiveState", "--value", "mailkeep-jails").strip()
        _prove_jails()
        if state == "activating" and _read_json(JAIL_PROOF)["faults"]:
            _prove_jails()  # the one that was running began before the repair
    return {"age": time.time() - JAIL_PROOF.stat().st_mtime, "faults": _read_json(JAIL_PROOF)["faults"]}


def _is_proof_old() -> bool:
    return not JAIL_PROOF.exists() or time.time() - JAIL_PROOF.stat().st_mtime > MAX_PROOF_AGE


def _prove_jails() -> None:
    """Waits for the proof that runs, or else for a new one."""
    start = time.time()
    run_command("systemctl", "start", "--no-block", "mailkeep-jails")
    _wait_until(lambda: JAIL_PROOF.exists() and JAIL_PROOF.stat().st_mtime > start, PROOF_TIMEOUT)


def _read_sensors() -> dict[str, Any]:
    """By sensor: the `age` of its last report in seconds, its `error`, and the `troubles` that it sees."""
    start = time.time()
    _wait_until(SENSOR_REPORTS.exists, SENSOR_TIMEOUT)
    while _has_old_trouble(reports := _read_json(SENSOR_REPORTS), start) and time.time() < start + SENSOR_TIMEOUT:
        time.sleep(0.2)
    return {name: {**report, "age": time.time() - report["at"]} for name, report in reports.items()}


def _has_old_trouble(reports: dict[str, Any], start: float) -> bool:
    """Whether a sensor with a trouble has not reported since `start`."""
    return any(report["troubles"] and report["at"] < start for report in reports.values())


def _read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Returns when `condition` holds, and after `seconds` at the latest."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)


def try_alert_recipients(config: ProbeConfig) -> dict[str, dict[str, str]]:
    """By socket for alerts, the answer of its smtpd to each recipient. No message is sent."""
    return {path: _try_recipients(path, config) for path in config.alert_sockets}


def _try_recipients(path: str, config: ProbeConfig) -> dict[str, str]:
    others = [STRANGER, *(account for account in config.accounts if account not in config.admins)][:2]
    answers: dict[str, str] = {}
    with UnixSmtp(path, local_hostname=config.host, timeout=ALERT_TIMEOUT) as connection:
        connection.ehlo()
        connection.mail(f"postmaster@{config.host}")
        for recipient in (*config.admins, *others):
            code, text = connection.rcpt(recipient)
            answers[recipient] = f"{code} {text.decode(errors='replace')}"
    return answers
