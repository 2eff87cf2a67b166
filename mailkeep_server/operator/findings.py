"""What is wrong with this server now: from the watch while it is alive, else by its sensors, asked anew.

The watch is the one truth: its sensors decide what a trouble is. What its last samples say counts while they are
recent. Sensors whose samples are old are built here once more, and asked side by side, within a few seconds.
"""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailkeep_server.common import paths, unix_http
from mailkeep_server.common.commands import run
from mailkeep_server.common.unit_states import read_active_states
from mailkeep_server.common.wording import count_noun, describe_error, printable_text
from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard.hold_targets import HELD_TARGET
from mailkeep_server.operator.errors import CtlError
from mailkeep_server.watch import config as watch_config
from mailkeep_server.watch import saved_state
from mailkeep_server.watch.config import WatchConfig
from mailkeep_server.watch.guard_events import GuardEvents
from mailkeep_server.watch.mail_flow import DeliverySensor
from mailkeep_server.watch.sensor import Sensor
from mailkeep_server.watch.sensors import build_sensors

ASK_SECONDS = 1.8
"""For all sensors together, so that `mailkeepctl status` answers within three seconds."""
WATCH_UNIT = "mailkeep-watch.service"
SLACK = 20.0  # seconds that a sample of the watch may be late: one slow sensor holds up the others
MAX_FUTURE = 5.0  # seconds; a sample that is dated later says nothing about now
WATCH_ONLY = frozenset({"delivery", "leaving", "connections", "relay", "mount", "reserve", "process", "reports"})
"""Sensors that compare samples, or read what the watch follows: a single look tells nothing."""
CAUSES = {
    "signing": "unit:opendkim.service",
    "resolver": "unit:unbound.service",
    "fail2ban": "unit:fail2ban.service",
    "logins": "unit:dovecot.service",
    "inbound": "unit:mailkeep-inbound.service",
    "spam": "unit:mailkeep-spam.service",
    "guard": f"unit:{paths.GUARD_SERVICE}",
}
"""Sensors that ask a service, with the trouble that explains its silence."""
LEAVES, STOPS, OPEN, WAITS, SOON, LATER = range(6)
HARM = {
    LEAVES: "Spam may leave",
    STOPS: "Mail stops",
    OPEN: "The door is open",
    WAITS: "Some mail waits",
    SOON: "Trouble ahead",
    LATER: "Look into it",
}
HARM_BY_KEY = (
    # The first that begins the trouble's key counts: a sensor, or a sensor and one of its troubles.
    ("unit:fail2ban", OPEN),
    ("unit:nftables", OPEN),
    ("unit:mailkeep-jails", OPEN),
    ("unit:unattended", LATER),
    ("unit:apt", LATER),
    ("unit:mailkeep-backup", SOON),
    ("unit:mailkeep-spam", WAITS),
    *((name, LEAVES) for name in ("frozen", "strangers", "leaving", "freezes", "connections")),
    *(
        (name, STOPS)
        for name in ("watch", "unit", "process", "disk", "guard", "mailbox", "signing", "logins", "inbound")
    ),
    *((name, OPEN) for name in ("firewall", "proof", "fail2ban", "failures")),
    *((name, WAITS) for name in ("delivery", "relay", "queue", "resolver", "spam", "canary")),
    *((name, SOON) for name in ("certificate", "renewal", "address", "backup", "dns", "channel", "write")),
)


@dataclass(frozen=True)
class Finding:
    """`since` is in seconds since the epoch; 0: nobody knows. `text` says what is wrong, and what to do next."""

    key: str
    text: str
    since: float = 0.0

    @property
    def harm(self) -> int:
        return next((harm for prefix, harm in HARM_BY_KEY if self.key.startswith(prefix)), LATER)


@dataclass
class Findings:
    host: str
    at: float
    wrong: list[Finding] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)
    """Sensors, by name."""
    not_looked_at: dict[str, str] = field(default_factory=dict)
    """By name, the reason."""

    def sort(self) -> None:
        """In order of harm; of the same harm, the longest first. A service that is down is there once: that it does not
        answer follows."""
        keys = {finding.key for finding in self.wrong}
        self.wrong = [finding for finding in self.wrong if CAUSES.get(finding.key.partition(":")[0]) not in keys]
        self.wrong.sort(key=lambda finding: (finding.harm, finding.since or self.at, finding.key))


def load_watch_config() -> WatchConfig:
    """Raises CtlError."""
    try:
        return watch_config.load_config()
    except (OSError, ValueError, TypeError, KeyError):
        raise CtlError(f"{watch_config.FILE} cannot be read: `mailkeep deploy` writes it.") from None


def collect_findings(
    config: WatchConfig, reports_file: Path = Path(paths.SENSOR_REPORTS), state_file: Path = saved_state.FILE
) -> Findings:
    now = time.time()
    findings = Findings(config.host, now)
    reports, state = _read_reports(reports_file), saved_state.read_state(state_file)
    try:
        is_running = _watch_runs()
    except (OSError, subprocess.TimeoutExpired):  # systemd hangs: the sensors say more
        is_running = False
    recent = {name: report for name, report in reports.items() if is_running and _is_recent(report, now)}
    sensors = [*_build(config, state)]
    names = [sensor.name for sensor in sensors]
    _take_reports(findings, recent, state.get("open_troubles", {}), names)
    _ask_sensors(findings, [sensor for sensor in sensors if sensor.name not in recent])
    if not recent:
        _add_dead_watch(findings, reports)
    _add_freezes(findings, config)
    _add_held_mail(findings, config)
    findings.sort()
    return findings


def _read_reports(file: Path) -> dict[str, Any]:
    try:
        reports = json.loads(file.read_text())
    except (OSError, ValueError):  # the watch has not run since the machine started, or is no more
        return {}
    return reports if isinstance(reports, dict) else {}


def _watch_runs() -> bool:
    """What a watch that was stopped saw last says nothing about now, however recent."""
    try:
        state = read_active_states([WATCH_UNIT])[WATCH_UNIT]
    except (OSError, KeyError):
        state = run("systemctl", "show", "-P", "ActiveState", WATCH_UNIT, check=False, timeout=ASK_SECONDS).strip()
    return state in ("active", "reloading")


def _is_recent(report: Mapping[str, Any], now: float) -> bool:
    age = now - float(report["at"])
    return -MAX_FUTURE <= age <= float(report["interval"]) + SLACK


def _build(config: WatchConfig, state: Mapping[str, Any]) -> Iterator[Sensor]:
    for sensor in build_sensors(config, Path(paths.JAIL_PROOF), DeliverySensor(state)):
        if sensor.name in ("proof", "canary"):
            sensor.start = 0.0  # type: ignore[attr-defined]  # a proof that the watch still waited for is late here
        yield sensor
    if paths.GUARD_SERVICE in config.units:
        yield GuardEvents(config.control_socket, int(state.get("last_event", 0)))


def _take_reports(
    findings: Findings, reports: Mapping[str, Any], troubles: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> None:
    """What the watch's recent samples say, and since when. Its other troubles are its own: guessed passwords, channels
    for alerts."""
    sensors = {*names, *reports}
    for name, report in reports.items():
        if report["error"]:
            findings.not_looked_at[name] = report["error"]
        else:
            findings.looked_at.append(name)
        for text in report["troubles"]:
            known = [key for key, trouble in troubles.items() if trouble["text"] == text and key.startswith(f"{name}:")]
            key = known[0] if known else f"{name}:"
            findings.wrong.append(Finding(key, text, troubles[key]["since"] if known else report["at"]))
    if not reports:
        return
    for key, trouble in troubles.items():
        if key.partition(":")[0] not in {*sensors, "sensor", "frozen"}:
            findings.wrong.append(Finding(key, trouble["text"], trouble["since"]))


def _ask_sensors(findings: Findings, sensors: Sequence[Sensor]) -> None:
    """All at once, in threads that end with the process: a service that hangs must not hold up the answer."""
    asked = [sensor for sensor in sensors if sensor.name not in WATCH_ONLY]
    for sensor in sensors:
        if sensor.name in WATCH_ONLY:
            findings.not_looked_at[sensor.name] = "only the watch sees it"
    answers: queue.SimpleQueue[tuple[Sensor, list[Finding], str]] = queue.SimpleQueue()
    for sensor in asked:
        threading.Thread(target=_ask_sensor, args=(sensor, answers), daemon=True).start()
    pending, deadline = {sensor.name for sensor in asked}, time.monotonic() + ASK_SECONDS
    while pending:
        try:
            sensor, troubles, error = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        pending.discard(sensor.name)
        findings.wrong += troubles
        if error:
            findings.not_looked_at[sensor.name] = error
        else:
            findings.looked_at.append(sensor.name)
    findings.not_looked_at |= dict.fromkeys(sorted(pending), f"no answer within {ASK_SECONDS:.0f} seconds")


def _ask_sensor(sensor: Sensor, answers: "queue.SimpleQueue[tuple[Sensor, list[Finding], str]]") -> None:
    try:
        troubles = sensor.find_troubles()
    except Exception as error:  # as in the watch: whatever a sensor raises, the others answer
        answers.put((sensor, [], describe_error(error)))
        return
    answers.put((sensor, [Finding(f"{sensor.name}:{key}", text) for key, (text, _) in troubles.items()], ""))


def _add_dead_watch(findings: Findings, reports: Mapping[str, Any]) -> None:
    text = (
        "The watch does not run: no alerts are sent, freezes are not enforced. `systemctl status mailkeep-watch` says "
        "why, `systemctl restart mailkeep-watch` starts it"
    )
    last = max((float(report["at"]) for report in reports.values()), default=0.0)
    findings.wrong.append(Finding("watch:", text, last if last <= findings.at else 0.0))


def _add_freezes(findings: Findings, config: WatchConfig) -> None:
    try:
        frozen = freeze_list.read_freezes(Path(config.freeze_list))
    except OSError as error:
        findings.not_looked_at["freezes"] = describe_error(error)
        return
    for account, record in frozen.items():
        text = printable_text(
            f"{account} is frozen by {record.by}: {record.why}. docs/after-a-break-in.md says what to do; "
            f"`mailkeepctl queue --account {account}` shows its mail"
        )
        findings.wrong.append(Finding(f"frozen:{account}", text, record.at.timestamp()))


def _add_held_mail(findings: Findings, config: WatchConfig) -> None:
    """Mail to strangers that the guard has put on hold waits for a person."""
    try:
        body = unix_http.get_body(config.control_socket, HELD_TARGET, ASK_SECONDS)
    except (OSError, ValueError) as error:
        findings.not_looked_at["strangers"] = describe_error(error)
        return
    times: dict[str, list[float]] = {}
    for message in json.loads(body)["messages"]:
        times.setdefault(message["account"], []).append(message["time"])
    for account, held in times.items():
        text = (
            f"{count_noun(len(held), 'message')} of {account} to strangers on hold. `mailkeepctl why {account}` says "
            f"why, `mailkeepctl release {account}` sends what is held, `mailkeepctl freeze {account}` stops all"
        )
        findings.wrong.append(Finding(f"strangers:{account}", text, min(held)))
