"""The machine below a simulated server: what systemd, nft, the kernel and the services answer to the watch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from watch_samples import Clock

from mailkeep_server.common import dns_query, signing

START = datetime(2026, 3, 2, tzinfo=UTC).timestamp()  # a Monday, in seconds since the epoch
BOOT = START - 40 * 86400
RULESET: list[dict[str, Any]] = json.loads(Path(__file__).with_name("quiet_ruleset.json").read_text())["nftables"]
"""As nft prints it on a deployed server."""
OWN_TABLE = "table inet mailkeep {\n\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n}\n"
ANSWERS = {"auth": b"VERSION\t1\t2\nMECH\tPLAIN\nDONE\n", "mailkeep-inbound.milter": b"\0\0\0\rO\0\0\0\6"}
"""By socket: the beginning of the service's answer."""
SERVICES = {"auth": "dovecot.service", "mailkeep-inbound.milter": "mailkeep-inbound.service"}


@dataclass
class SimulatedUnit:
    """`answers` is false for a service that hangs, or is not yet ready."""

    pid: int
    state: str = "active"
    restarts: int = 0
    answers: bool = True


@dataclass
class Machine:
    """The sources. Each method that the watch calls gives what its namesake would on a server."""

    directory: Path
    clock: Clock
    units: dict[str, SimulatedUnit] = field(default_factory=dict)
    disk_percent: float = 60.0
    addresses: set[str] = field(default_factory=lambda: {"192.0.2.1", "2001:db8::1"})
    items: list[dict[str, Any]] = field(default_factory=lambda: list(RULESET))
    own_table: str = OWN_TABLE
    generation: int = 1
    validates: bool = True
    signed_domains: set[str] = field(default_factory=lambda: {"example.org", "club.example.net", "mail.example.org"})
    guard_answers: bool = True
    systemd_answers: bool = True
    guard_events: list[dict[str, Any]] = field(default_factory=list)
    boot: float = BOOT
    pids: Iterator[int] = field(default_factory=lambda: count(300))

    def add_unit(self, name: str) -> None:
        self.units[name] = SimulatedUnit(0)
        self.start_process(name)
        group = self.directory / "cgroup/system.slice" / name
        group.mkdir(parents=True, exist_ok=True)

    def start_process(self, name: str) -> None:
        """A new main process; units of other kinds than services have none."""
        if not name.endswith(".service"):
            return
        pid = self.units[name].pid = next(self.pids)
        self.set_process_state(name, "S")
        group = self.directory / "cgroup/system.slice" / name
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.procs").write_text(f"{pid}\n")

    def set_process_state(self, name: str, state: str) -> None:
        """proc_pid_stat(5)."""
        pid = self.units[name].pid
        (self.directory / "proc" / str(pid)).mkdir(parents=True, exist_ok=True)
        fields = f"{pid} ({name[:15]}) {state} {'0 ' * 18}{pid * 100} 0\n"
        (self.directory / "proc" / str(pid) / "stat").write_text(fields)

    def end_process(self, name: str) -> None:
        (self.directory / "proc" / str(self.units[name].pid) / "stat").unlink(missing_ok=True)

    def show_units(self, *command: str) -> str:
        """systemctl(1), `show`."""
        if not self.systemd_answers:
            raise RuntimeError("systemctl show: exit 1: Failed to get properties: Connection reset by peer")
        names = command[command.index("--") + 1 :]
        return "\n\n".join(self._show_unit(name, self.units[name]) for name in names)

    def _show_unit(self, name: str, unit: SimulatedUnit) -> str:
        runs = unit.state in ("active", "reloading")
        return (
            f"MainPID={unit.pid if runs else 0}\nNRestarts={unit.restarts}\nControlGroup=/system.slice/{name}\n"
            f"Result=success\nId={name}\nActiveState={unit.state}\nConditionResult=yes\nConditionTimestampMonotonic=7"
        )

    def list_rules(self, *command: str) -> str:
        """nft(8), `list`."""
        has_table = any(item.get("table", {}).get("name") == "mailkeep" for item in self.items)
        if "table" not in command:
            return json.dumps({"nftables": self.items})
        if not has_table:
            raise RuntimeError("nft -s -t: exit 1: Error: No such file or directory")
        return self.own_table

    def change_rules(self, items: list[dict[str, Any]]) -> None:
        self.items, self.generation = items, self.generation + 1

    def restore_rules(self) -> None:
        self.change_rules(list(RULESET))

    def stat(self, path: str) -> SimpleNamespace:
        """As the module `os`, for the disks."""
        assert path.startswith("/")
        return SimpleNamespace(st_dev=1)

    def statvfs(self, path: str) -> SimpleNamespace:
        assert path.startswith("/")
        free = int(100_000 - 1000 * self.disk_percent)
        return SimpleNamespace(f_blocks=100_000, f_bfree=free, f_bavail=free, f_files=1000, f_ffree=900)

    def query_resolver(self, *_: object) -> dns_query.DnsReply:
        self._reach_unit("unbound.service")
        return dns_query.DnsReply(0, self.validates, [])

    def sign_message(self, author: str, *_: object) -> signing.SignedMessage:
        self._reach_unit("opendkim.service")
        domain = author.partition("@")[2]
        if domain in self.signed_domains:
            return signing.SignedMessage("", f"v=1; a=rsa-sha256; d={domain}; s=mk1; b=x", "a")
        return signing.SignedMessage("", "", "t")

    def ask_fail2ban(self, *_: str, **__: object) -> str:
        self._reach_unit("fail2ban.service")
        return "pong"

    def open_socket(self, *_: object) -> "SimulatedSocket":
        return SimulatedSocket(self)

    def read_guard(self, _socket: str, target: str, _timeout: float) -> bytes:
        """The guard's control socket."""
        if not self.guard_answers:
            raise ConnectionRefusedError(111, "Connection refused")
        if not target.startswith("/events"):  # outcomes are taken, and nothing is on hold
            return json.dumps({"messages": []}).encode()
        after = int(target.partition("=")[2])
        last = self.guard_events[-1]["id"] if self.guard_events else after
        return json.dumps(
            {"last": last, "events": [event for event in self.guard_events if event["id"] > after]}
        ).encode()

    def _reach_unit(self, name: str) -> None:
        unit = self.units[name]
        if unit.state not in ("active", "reloading"):
            raise ConnectionRefusedError(111, "Connection refused")
        if not unit.answers:
            raise TimeoutError


class SimulatedSocket:
    """A client's socket to Dovecot."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.name = machine, ""

    def __enter__(self) -> "SimulatedSocket":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left open."""

    def settimeout(self, _: float) -> None:
        """It answers at once, or not at all."""

    def connect(self, path: str) -> None:
        self.name = Path(path).name
        self.machine._reach_unit(SERVICES[self.name])

    def sendall(self, _: bytes) -> None:
        """Any question."""

    def recv(self, _: int) -> bytes:
        return ANSWERS[self.name]
