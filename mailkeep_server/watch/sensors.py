"""The watch's sensors: what each looks at, and how often.

An alert leaves within 10 s, 1 s of it for batching. One-sample sensors run every 5 s. Services and firewall restart now
and then, by themselves or in a deploy. So they must be down in 3 samples, 2 s apart, and in 4 if still on the way up.
Two forks every 2 s (`systemctl show`, `nft list`) are all that this costs; the other sensors read a file or two.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mailkeep_server.common import nft_ruleset
from mailkeep_server.common.certificates import read_certificate
from mailkeep_server.common.commands import run
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.config import WatchConfig

SensorEvent = tuple[str, str, bool]
"""Key, text, and whether it is urgent."""


class Sensor:
    """`find_troubles` gives all troubles of this moment, `take_events` the events since the last call. Either may raise
    any exception."""

    name = ""
    interval = 5.0  # seconds between samples
    samples = 1  # in a row that must show a trouble before it is reported

    def find_troubles(self) -> Troubles:
        raise NotImplementedError

    def take_events(self) -> Iterator[SensorEvent]:
        """Most sensors have none."""
        yield from ()


PASSING_STATES = ("activating", "deactivating")


class UnitSensor(Sensor):
    """Whether systemd units run. systemd's count of restarts shows one that ended and is back between two samples."""

    name, interval, samples = "unit", 2.0, 3
    PROPERTIES = "Id,ActiveState,Result,NRestarts,ConditionResult,ConditionTimestampMonotonic"

    def __init__(self, units: list[str]) -> None:
        self.units = units
        self.restarts: dict[str, int] = {}
        self.down: set[str] = set()
        self.restarted: list[str] = []

    def find_troubles(self) -> Troubles:
        output = run("systemctl", "show", f"--property={self.PROPERTIES}", "--", *self.units)
        troubles, down = {}, set()
        for block in output.strip().split("\n\n"):
            properties = dict(line.partition("=")[::2] for line in block.splitlines())
            unit = properties["Id"]
            self._note_restarts(unit, int(properties.get("NRestarts") or 0))
            if is_running(properties):
                continue
            down.add(unit)
            # Its first sample on the way does not count: a service that a deploy restarts may take its time to end.
            if unit in self.down or properties["ActiveState"] not in PASSING_STATES:
                state = f"{properties['ActiveState']}, {properties.get('Result') or 'no result'}"
                text = f"{unit} is down ({state}): `systemctl status {unit}` says why"
                troubles[unit] = text, f"{unit} runs again"
        self.down = down
        return troubles

    def _note_restarts(self, unit: str, restarts: int) -> None:
        if restarts > self.restarts.get(unit, restarts):
            self.restarted.append(unit)
        self.restarts[unit] = restarts

    def take_events(self) -> Iterator[SensorEvent]:
        restarted, self.restarted = self.restarted, []
        for unit in restarted:
            yield f"crash:{unit}", f"{unit} ended, and systemd restarted it: `journalctl -u {unit}` says why", True


def is_running(properties: Mapping[str, str]) -> bool:
    """Whether a unit runs, by systemd's properties, or is not meant to. A condition that is not met says so, as that of
    time synchronisation in a container."""
    was_tried = properties.get("ConditionTimestampMonotonic", "0") != "0"
    is_unwanted = was_tried and properties.get("ConditionResult") == "no"
    return is_unwanted or properties.get("ActiveState") in ("active", "reloading")


class FirewallSensor(Sensor):
    """Whether nft's ruleset drops what nothing accepts, and has the sets and rules of each jail."""

    name, interval, samples = "firewall", 2.0, 3

    def __init__(self, jails: Mapping[str, list[int] | None]) -> None:
        self.jails = jails

    def find_troubles(self) -> Troubles:
        ruleset = nft_ruleset.parse_ruleset(run("nft", "-j", "-t", "list", "ruleset"))
        troubles = {}
        if not nft_ruleset.drops_by_default(ruleset.chains):
            text = "The firewall is not loaded: every port that listens is open. `systemctl restart nftables` loads it"
            troubles["input"] = text, "The firewall is loaded again"
        for jail, ports in self.jails.items():
            if faults := list(nft_ruleset.find_jail_faults(jail, ports, ruleset)):
                text = f"The jail {jail} cannot ban: {_join_faults(faults)}. `systemctl restart fail2ban` may help"
                troubles[f"jail {jail}"] = text, f"The jail {jail} can ban again"
        return troubles


def _join_faults(faults: list[str]) -> str:
    """Without the jail's name, with which each begins."""
    return "; ".join(fault.partition(": ")[2] for fault in faults)


class JailProofSensor(Sensor):
    """Whether the last proof of the jails (`mailkeep-jails.timer`) found them banning, and is recent."""

    name = "proof"
    MAX_AGE = 3 * 1800.0  # seconds: three intervals of the timer

    def __init__(self, file: Path) -> None:
        self.file, self.start = file, time.time()

    def find_troubles(self) -> Troubles:
        try:
            proven, content = self.file.stat().st_mtime, self.file.read_text()
        except FileNotFoundError:
            proven, content = self.start, "{}"
        troubles = {}
        if time.time() - max(proven, self.start) > self.MAX_AGE:
            text = "No jail has been proven to ban for 90 minutes: `systemctl status mailkeep-jails.timer` says why"
            troubles["silent"] = text, "The jails are proven again"
        for jail, faults in json.loads(content).get("faults", {}).items():
            text = f"The jail {jail} does not ban: {_join_faults(faults)}. `systemctl restart fail2ban` may help"
            troubles[jail] = text, f"The jail {jail} bans again"
        return troubles


class TroubleFile(Sensor):
    """The troubles that another program has written down, by key. `dns_monitor` checks DNS records and blocklists
    daily, `certificate_renewal` the certificate hourly."""

    def __init__(self, name: str, file: Path) -> None:
        self.name, self.file = name, file

    def find_troubles(self) -> Troubles:
        try:
            texts: dict[str, str] = json.loads(self.file.read_text())["troubles"]
        except FileNotFoundError:
            return {}
        return {key: (text, f"Over: {text}") for key, text in texts.items()}


class DiskSensor(Sensor):
    """Space and inodes of each file system that holds mail or logs."""

    name = "disk"
    DIRECTORIES = ("/", "/var", "/var/log", "/var/spool/postfix", "/var/vmail")
    SLACK = 2  # per cent that must be free again below the bound: else it would be reported and ended all day

    def __init__(self, max_percent: int) -> None:
        self.max_percent = max_percent
        self.full: set[str] = set()

    def find_troubles(self) -> Troubles:
        troubles = {}
        for path in reversed(self.DIRECTORIES):
            try:
                device, space, inodes = measure_disk(path)
            except FileNotFoundError:
                continue
            bound = self.max_percent - (self.SLACK if device in self.full else 0)
            if max(space, inodes) >= bound:
                used = f"{space:.0f} % full, and {inodes:.0f} % of its inodes are used"
                text = f"The disk of {path} is {used}: `du -xh {path} | sort -h | tail` shows by what"
                troubles[device] = text, f"The disk of {path} has room again"
        self.full = set(troubles)
        return troubles


def measure_disk(path: str) -> tuple[str, float, float]:
    """Device number, and the used per cent of space and of inodes. As df(1) counts: root's reserve is not free."""
    device, status = os.stat(path).st_dev, os.statvfs(path)  # noqa: PTH116
    used = status.f_blocks - status.f_bfree
    space = 100 * used / (used + status.f_bavail or 1)
    inodes = 100 * (status.f_files - status.f_ffree) / (status.f_files or 1)  # btrfs has no number of inodes
    return str(device), space, inodes


class QueueSensor(Sensor):
    """How many messages wait. Held ones do not count: they stay, and their freeze was reported."""

    name = "queue"
    SPOOL = Path("/var/spool/postfix")
    QUEUES = ("maildrop", "incoming", "active", "deferred")
    MAX_COUNTED = 100_000  # a longer count would take longer than the interval

    def __init__(self, max_messages: int) -> None:
        self.max_messages, self.is_long = max_messages, False

    def find_troubles(self) -> Troubles:
        counts = {queue: count_files(self.SPOOL / queue, self.MAX_COUNTED) for queue in self.QUEUES}
        total = sum(counts.values())
        self.is_long = total > (self.max_messages // 2 if self.is_long else self.max_messages)
        if not self.is_long:
            return {}
        by_queue = ", ".join(f"{number} {queue}" for queue, number in counts.items() if number)
        text = f"The mail queue is long: {by_queue}; `postqueue -p` shows it"
        return {"long": (text, "The mail queue is short again")}


def count_files(directory: Path, limit: int) -> int:
    """Files in a directory and below, up to about `limit`. Postfix moves them about meanwhile."""
    count, directories = 0, [str(directory)]
    while directories and count < limit:
        try:
            with os.scandir(directories.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.path)
                    else:
                        count += 1
        except FileNotFoundError:
            continue
    return count


class CertificateSensor(Sensor):
    """How long the certificate lasts. The file is read again only after a change."""

    name = "certificate"
    READ_TIMEOUT = 5.0  # seconds; all sensors run in one loop, which systemd's watchdog bounds by 30

    def __init__(self, file: Path, min_days: int) -> None:
        self.file, self.min_days = file, min_days
        self.read_version, self.not_after = -1, 0.0

    def find_troubles(self) -> Troubles:
        version = self.file.stat().st_mtime_ns
        if version != self.read_version:
            self.not_after = read_certificate(self.file.read_text(), self.READ_TIMEOUT).not_after
            self.read_version = version
        days = (self.not_after - time.time()) / 86400
        if days >= self.min_days:
            return {}
        text = f"The certificate ends in {days:.0f} days" if days > 0 else "The certificate has expired"
        return {"end": (f"{text}: docs/certificates.md says how to renew it", "The certificate was renewed")}


def build_sensors(config: WatchConfig, jail_proof: Path) -> list[Sensor]:
    trouble_files = {"dns": config.dns_troubles_file, "renewal": config.renewal_troubles_file}
    return [
        UnitSensor(config.units),
        FirewallSensor(config.jails),
        JailProofSensor(jail_proof),
        *(TroubleFile(name, Path(file)) for name, file in trouble_files.items() if file),
        DiskSensor(config.max_disk_percent),
        QueueSensor(config.max_queued_messages),
        CertificateSensor(Path(config.certificate_file), config.min_certificate_days),
    ]
