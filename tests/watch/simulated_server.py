"""A small server as the watch sees it, and a clock that a test moves.

Simulated are the watch's sources alone: lines of the journal, files, and the answers of systemd, nft and the services.
The watch itself is the real one, joined as its daemon joins it.
"""

import json
import os
import pwd
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from simulated_machine import OWN_TABLE, START, Machine
from watch_samples import Clock

from mailkeep.parts import alerts, dovecot, fail2ban, firewall, guard, inbound, opendkim, postfix, resolver, ssh, system
from mailkeep.settings.models import Settings
from mailkeep_server.common import dns_query, fail2ban_socket, nft_generation, own_addresses, signing, unix_http
from mailkeep_server.freezes.enforce import Enforcement
from mailkeep_server.watch import (
    answer_sensors,
    daemon,
    firewall_sensors,
    login_monitor,
    machine_sensors,
    mail_flow,
    mail_reserve,
    mount_sensor,
    processes,
    refused_connections,
    saved_state,
    sensors,
)
from mailkeep_server.watch.config import WatchConfig, load_config
from mailkeep_server.watch.daemon import Watch

HOUR, DAY = 3600.0, 86400.0
ACCOUNTS = ("anna", "ben", "carla")
SETTINGS = {
    "host": {"name": "mail.example.org", "addresses": ["192.0.2.1", "2001:db8::1"]},
    "domains": ["example.org", "club.example.net"],
    "admin": {"addresses": ["ann@example.net"]},
    "tls": {"mode": "acme"},
}
RESOLV_CONF = "nameserver 127.0.0.1\noptions edns0 trust-ad\n"
HASH = "{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$2b4fYwrsusIjrfimc3MFvw$MiGIqKV9aEP4koUvcuIkQpdtKftJqMrZnwq2+tdVtCg"
CALM_STEP, FINE_STEP = 900.0, 1.0  # seconds that the clock moves: usually, and while something changes
REREAD_SECONDS = 30.0  # of the journal, by a watch that starts


@dataclass(frozen=True)
class ReportedAlert:
    """`at` is when its notification left, in seconds since the epoch."""

    at: float
    text: str


@dataclass
class Simulation:
    """The watch on its machine, through time."""

    machine: Machine
    config: WatchConfig
    clock: Clock
    alerts: list[ReportedAlert] = field(default_factory=list)
    schedule: list[tuple[float, int, Callable[[], object]]] = field(default_factory=list)
    calm_step: float = CALM_STEP
    fine_until: float = 0.0
    next_round: float = 0.0
    numbers: Iterator[int] = field(default_factory=count)
    journal: list[tuple[float, bytes]] = field(default_factory=list)
    watch: Watch | None = None

    def start_watch(self) -> None:
        """As systemd starts it: with the state that the last one left, and the journal's last seconds once more."""
        self.watch = watch = Watch(self.config, saved_state.read_state(saved_state.FILE))
        watch.alerts.clock = self.clock
        for sensor in watch.sensors:
            self._connect_sensor(sensor)
        for at, line in self.journal:
            if self.clock.now - at <= REREAD_SECONDS:
                watch.logins.read_line(line)

    def _connect_sensor(self, sensor: object) -> None:
        """Leads a sensor to the files of the simulated machine."""
        directory = self.machine.directory
        match sensor:
            case sensors.UnitSensor():
                sensor.proc, sensor.systemd = directory / "proc", str(directory / "systemd")  # which is not there
            case processes.ProcessSensor():
                sensor.proc, sensor.roots = directory / "proc", (str(directory / "cgroup"),)
            case answer_sensors.MilterSensor():
                sensor.systemd = str(directory / "systemd")
            case answer_sensors.ResolverSensor():
                sensor.file = directory / "resolv.conf"
            case firewall_sensors.FirewallSensor():
                sensor.loaded = directory / "loaded"
            case machine_sensors.MailboxSensor():
                sensor.root = str(directory / "vmail")
            case mount_sensor.MountSensor():
                sensor.file = directory / "mountinfo"
                sensor.first = sensor._read_mounts()

    def end_watch(self) -> None:
        self.watch = None

    def at(self, when: float, action: Callable[[], object]) -> None:
        heappush(self.schedule, (when, next(self.numbers), action))

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        self.at(self.clock.now + seconds, action)

    def observe_closely(self, seconds: float) -> None:
        """For some time, the clock moves in steps so small that no sensor misses its turn."""
        self.fine_until = max(self.fine_until, self.clock.now + seconds)
        self.next_round = min(self.next_round, self.clock.now + FINE_STEP)

    def observe_now(self) -> None:
        self.next_round = self.clock.now

    def run_until(self, end: float) -> None:
        """The watch looks at regular steps, and whenever an event asks for it; its journal thread reads all lines."""
        while self.clock.now < end:
            event = self.schedule[0][0] if self.schedule else end
            self.clock.now = max(self.clock.now, min(self.next_round, event, end))
            while self.schedule and self.schedule[0][0] <= self.clock.now:
                heappop(self.schedule)[2]()
            if self.clock.now >= self.next_round:
                self.run_watch()
                step = FINE_STEP if self.clock.now < self.fine_until else self.calm_step
                self.next_round = self.clock.now + step

    def run_watch(self) -> None:
        """A round of the daemon's loop, and of the threads of the freeze enforcer; the outbox is emptied."""
        if not (watch := self.watch):
            return
        watch.freezes.read_freezes()
        watch.freezes.enforce_due()
        watch.run_once(time.monotonic())
        for notification in watch.outbox.notifications:
            texts = [line.partition("  ")[2] for line in notification.text.splitlines()]
            self.alerts += [ReportedAlert(self.clock.now, text) for text in texts]
        watch.outbox.notifications.clear()
        if watch.alerts.alerts:  # they wait for others
            self.observe_closely(2)

    def log_line(self, identifier: str, message: str) -> None:
        """A line of the journal, which the watch reads if journalctl selects it."""
        selected = {"dovecot", *(word.partition("=")[2] for word in login_monitor.JOURNAL_COMMAND)}
        if identifier not in selected:
            return
        entry = {"__REALTIME_TIMESTAMP": str(int(self.clock.now * 1e6)), "MESSAGE": message}
        line = json.dumps(entry).encode()
        self.journal = [*self.journal[-50:], (self.clock.now, line)]
        if self.watch:
            self.watch.logins.read_line(line)

    def write_proof(self, faults: dict[str, list[str]] | None = None) -> None:
        """The result of mailkeep-jails.service."""
        file = self.machine.directory / "jails.json"
        file.write_text(json.dumps({"turn": 4, "faults": faults or {}, "foreign": []}))
        os.utime(file, (self.clock.now, self.clock.now))

    def write_troubles(self, file: str, troubles: dict[str, str] | None = None) -> None:
        """The result of the daily check of the DNS, or of the renewal of the certificate."""
        Path(file).write_text(json.dumps({"troubles": troubles or {}}))

    def write_certificate(self, days: float) -> None:
        """A new one, with so many days left."""
        key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
        now = datetime.fromtimestamp(self.clock.now, UTC)
        unsigned = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        unsigned = unsigned.not_valid_before(now - timedelta(90 - days)).not_valid_after(now + timedelta(days))
        pem = unsigned.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
        file = Path(self.config.certificate_file)
        file.write_bytes(pem)
        os.utime(file, (self.clock.now, self.clock.now))

    def add_guard_event(self, kind: str, account: str, detail: str) -> None:
        events = self.machine.guard_events
        event = {"id": len(events) + 1, "time": self.clock.now, "kind": kind, "account": account, "detail": detail}
        events.append(event)


def build_config(directory: Path) -> WatchConfig:
    """The configuration that a deploy writes, with its files in this directory."""
    accounts = [{"address": f"{name}@example.org", "password": HASH} for name in ACCOUNTS]
    settings = Settings.model_validate(SETTINGS | {"accounts": accounts})
    services = (
        *(part.build_part(settings) for part in (system, ssh, firewall, resolver, dovecot, fail2ban, inbound)),
        *(
            guard.build_part(settings, None),
            postfix.build_part(settings, None),
            opendkim.build_part((), settings.retention.queue_days),
        ),
    )
    written = next(file for file in alerts.build_part(settings, None, services).files if file.path == alerts.CONFIG)
    (directory / "watch.json").write_bytes(written.content)
    return replace(
        load_config(directory / "watch.json"),
        certificate_file=str(directory / "certificate.pem"),
        freeze_list=str(directory / "accounts"),
        dns_troubles_file=str(directory / "dns.json"),
        renewal_troubles_file=str(directory / "renewal.json"),
        report_announcements_file=str(directory / "announcements.json"),
    )


def connect_sources(machine: Machine, patch: pytest.MonkeyPatch) -> None:
    """Leads all that the watch asks to the simulated machine."""
    directory, clock = machine.directory, machine.clock
    patch.setattr(time, "time", clock)
    patch.setattr(time, "monotonic", lambda: clock.now - machine.boot)
    patch.setattr(saved_state, "FILE", directory / "state.json")
    patch.setattr(daemon, "REPORTS", directory / "looked.json")
    patch.setattr(daemon, "PROOF", directory / "jails.json")
    patch.setattr(daemon, "enforce_freeze", lambda *_: Enforcement(2, 1, "", ""))
    patch.setattr(sensors, "run", machine.show_units)
    patch.setattr(sensors, "os", machine)
    patch.setattr(firewall_sensors, "run", machine.list_rules)
    patch.setattr(refused_connections, "run", machine.list_rules)
    patch.setattr(nft_generation, "read_generation", lambda: machine.generation)
    patch.setattr(firewall_sensors, "find_interface", lambda: "eth0")
    patch.setattr(mail_flow.QueueSensor, "SPOOL", directory / "spool")
    patch.setattr(mail_reserve, "SPOOL", directory / "spool")
    patch.setattr(pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=os.getuid()))
    patch.setattr(own_addresses, "is_local_address", lambda address: address in machine.addresses)
    patch.setattr(own_addresses, "find_source_address", lambda _: next(iter(machine.addresses)))
    patch.setattr(dns_query, "query_server", machine.query_resolver)
    patch.setattr(signing, "request_signature", machine.sign_message)
    patch.setattr(fail2ban_socket, "ask_fail2ban", machine.ask_fail2ban)
    patch.setattr(answer_sensors, "socket", SimpleNamespace(AF_UNIX=1, socket=machine.open_socket))
    patch.setattr(unix_http, "get_body", machine.read_guard)


@contextmanager
def simulate_server(
    directory: Path, begin: float = START, known_networks: dict[str, list[str]] | None = None
) -> Iterator[Simulation]:
    """A deployed server whose watch has just started; nothing happens on it yet. Networks are known by account."""
    clock = Clock(begin)
    machine = Machine(directory, clock)
    config = build_config(directory)
    for folder in ("spool/deferred", "spool/active", "proc"):
        (directory / folder).mkdir(parents=True)
    for account in ACCOUNTS:
        for folder in ("cur", "new", "tmp", ".Sent/cur"):
            (directory / "vmail/example.org" / account / "Maildir" / folder).mkdir(parents=True)
    (directory / "resolv.conf").write_text(RESOLV_CONF)
    (directory / "loaded").write_text(OWN_TABLE)
    (directory / "mountinfo").write_text("24 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n")
    for unit in config.units:
        machine.add_unit(unit)
    with pytest.MonkeyPatch.context() as patch:
        connect_sources(machine, patch)
        simulation = Simulation(machine, config, clock)
        saved_state.FILE.write_text(json.dumps({"networks": known_networks or {}}))
        simulation.write_certificate(days=33)
        simulation.write_proof()
        simulation.write_troubles(config.dns_troubles_file)
        simulation.write_troubles(config.renewal_troubles_file)
        simulation.start_watch()
        yield simulation
