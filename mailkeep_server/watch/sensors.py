"""The watch's sensors: what each looks at, and how often.

An alert leaves within 10 s, 1 s of it for batching. One-sample sensors run every 5 s. Services and firewall restart now
and then, by themselves or in a deploy. So services must be down in 3 samples, 2 s apart, and in 4 if still on the way
up; and the firewall in 5, 1.5 s apart, since a restart of fail2ban takes its rules away for that time.
Starting programs is the cost. So `systemctl show` runs when a unit's state or main process has changed; and `nft list`
when the kernel's number of the ruleset has changed, or a minute is over. The other sensors read a file or two.
"""

import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from mailkeep_server.common import unit_states
from mailkeep_server.common.certificates import read_certificate
from mailkeep_server.common.commands import run
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.answer_sensors import build_answer_sensors
from mailkeep_server.watch.backup_sensor import BackupSensor
from mailkeep_server.watch.config import WatchConfig
from mailkeep_server.watch.firewall_sensors import FirewallSensor, JailProofSensor
from mailkeep_server.watch.machine_sensors import AddressSensor, MailboxSensor
from mailkeep_server.watch.mail_flow import DeliverySensor, QueueSensor
from mailkeep_server.watch.mail_reserve import MailReserveSensor
from mailkeep_server.watch.mount_sensor import MountSensor
from mailkeep_server.watch.processes import ProcessSensor, read_process_state
from mailkeep_server.watch.refused_connections import RefusedConnections
from mailkeep_server.watch.relay_sensor import RelaySensor
from mailkeep_server.watch.sensor import Sensor, SensorEvent
from mailkeep_server.watch.spam_sensors import build_spam_sensors

PASSING_STATES = ("activating", "deactivating")


class UnitSensor(Sensor):
    """Whether systemd units run. systemd's count of restarts shows one that ended and is back between two samples."""

    name, interval, samples = "unit", 2.0, 3
    PROPERTIES = (
        "Id,LoadState,ActiveState,Result,NRestarts,ConditionResult,ConditionTimestampMonotonic,MainPID,ControlGroup"
    )
    MAX_CALM_SAMPLES = 29  # without `systemctl show`, while the units' states and main processes are the same

    def __init__(
        self,
        units: list[str],
        on_demand: Collection[str] = (),
        proc: Path = Path("/proc"),
        systemd: str = unit_states.SOCKET,
    ) -> None:
        """Those `on_demand` may have ended without a failure: their sockets, which are units too, start them."""
        self.units, self.on_demand, self.proc, self.systemd = units, on_demand, proc, systemd
        self.restarts: dict[str, int] = {}
        self.down: set[str] = set()
        self.restarted: list[str] = []
        self.control_groups: dict[str, str] = {}
        """By unit, as `systemctl show` says."""
        self.main_processes: dict[str, str] = {}
        """By number, its start time."""
        self.states: dict[str, str] = {}
        """By unit, its ActiveState, as `systemctl show` says."""
        self.calm_samples = self.MAX_CALM_SAMPLES

    def find_troubles(self) -> Troubles:
        if not self.down and self.calm_samples < self.MAX_CALM_SAMPLES and self._is_unchanged():
            self.calm_samples += 1
            return {}
        self.calm_samples = self.MAX_CALM_SAMPLES  # also if it raises
        troubles = self._ask_systemd()
        self.calm_samples = 0
        return troubles

    def _is_unchanged(self) -> bool:
        """Unknown counts as changed: `systemctl` is asked then, and says what is wrong."""
        try:
            return self._main_processes_run() and self.states == unit_states.read_active_states(
                self.units, self.systemd
            )
        except OSError:
            return False

    def _main_processes_run(self) -> bool:
        states = {pid: read_process_state(self.proc / pid) for pid in self.main_processes}
        return all(state and state[2] == self.main_processes[pid] for pid, state in states.items())

    def _note_processes(self, unit: str, properties: Mapping[str, str]) -> None:
        if group := properties.get("ControlGroup"):
            self.control_groups[unit] = group
        pid = properties.get("MainPID", "0")
        if pid != "0" and (state := read_process_state(self.proc / pid)):
            self.main_processes[pid] = state[2]

    def _ask_systemd(self) -> Troubles:
        output = run("systemctl", "show", f"--property={self.PROPERTIES}", "--", *self.units)
        troubles, down = {}, set()
        self.main_processes.clear()
        self.states.clear()
        for block in output.strip().split("\n\n"):
            properties = dict(line.partition("=")[::2] for line in block.splitlines())
            unit = properties["Id"]
            self.states[unit] = properties["ActiveState"]
            # Once it has ended, systemd counts its restarts anew.
            restarts = "0" if has_ended(properties) else properties.get("NRestarts")
            has_restarted = self._note_restarts(unit, int(restarts or 0))
            self._note_processes(unit, properties)
            is_in_loop = unit in self.down and has_restarted  # of crashes: it runs for a moment in between
            if self._is_well(unit, properties) and not is_in_loop:
                continue
            down.add(unit)
            # Its first sample on the way does not count: a service that a deploy restarts may take its time to end.
            if unit in self.down or properties["ActiveState"] not in PASSING_STATES:
                result = "restarted again and again" if is_in_loop else properties.get("Result") or "no result"
                state = f"{properties['ActiveState']}, {result}"
                text = f"{unit} is down ({state}): `systemctl status {unit}` says why"
                troubles[unit] = text, f"{unit} runs again"
        self.down = down
        return troubles

    def _is_well(self, unit: str, properties: Mapping[str, str]) -> bool:
        return is_running(properties) or (unit in self.on_demand and has_ended(properties))

    def _note_restarts(self, unit: str, restarts: int) -> bool:
        """Whether systemd has restarted it since the last sample."""
        has_restarted = restarts > self.restarts.get(unit, restarts)
        if has_restarted:
            self.restarted.append(unit)
        self.restarts[unit] = restarts
        return has_restarted

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


def has_ended(properties: Mapping[str, str]) -> bool:
    """Whether a unit has ended without a failure, and can be started again: it is not masked, and its file is there."""
    return (properties.get("LoadState"), properties.get("ActiveState")) == ("loaded", "inactive")


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


def build_sensors(config: WatchConfig, jail_proof: Path, deliveries: DeliverySensor) -> list[Sensor]:
    trouble_files = {"dns": config.dns_troubles_file, "renewal": config.renewal_troubles_file}
    units = UnitSensor(config.units, config.on_demand)
    return [
        units,
        ProcessSensor(units.control_groups),
        *build_answer_sensors(config.signing_domains, local_resolver=config.local_resolver),
        FirewallSensor(config.jails, config.addresses, config.open_ports),
        JailProofSensor(jail_proof),
        *(TroubleFile(name, Path(file)) for name, file in trouble_files.items() if file),
        DiskSensor(config.max_disk_percent),
        MountSensor(DiskSensor.DIRECTORIES),
        MailReserveSensor(),
        *build_spam_sensors(config.spam_filter),
        *([BackupSensor(config.backup)] if config.backup else ()),
        RefusedConnections(),
        QueueSensor(config.max_queued_messages, deliveries),
        deliveries,
        *([RelaySensor(config.relay.host)] if config.relay else ()),
        MailboxSensor(config.accounts),
        AddressSensor(config.addresses, has_relay=config.relay is not None),
        CertificateSensor(Path(config.certificate_file), config.min_certificate_days),
    ]
