"""Each sensor sees its subject as it is."""

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from mailkeep_server.common.certificates import CertificateError
from mailkeep_server.operator import findings
from mailkeep_server.watch import alert_queue, sensors
from mailkeep_server.watch.config import WatchConfig
from mailkeep_server.watch.mail_flow import DeliverySensor
from mailkeep_server.watch.sensors import (
    CertificateSensor,
    DiskSensor,
    JailProofSensor,
    TroubleFile,
    UnitSensor,
    build_sensors,
    is_running,
)

SHOWS = ": `du -xh / | sort -h | tail` shows by what"
RENEW = ": docs/certificates.md says how to renew it"

# --- disks


@dataclass
class Disk:
    """A file system of 1000 blocks, 100 of them root's reserve."""

    device: int
    used_blocks: int = 0
    inodes: int = 1000
    used_inodes: int = 0


@dataclass
class Machine:
    """Stands in for the module `os`."""

    disks: dict[str, Disk] = field(default_factory=dict)
    """By directory."""

    def stat(self, path: str) -> SimpleNamespace:
        if path not in self.disks:
            raise FileNotFoundError(path)
        return SimpleNamespace(st_dev=self.disks[path].device)

    def statvfs(self, path: str) -> SimpleNamespace:
        disk = self.disks[path]
        free = 1000 - disk.used_blocks
        return SimpleNamespace(
            f_blocks=1000,
            f_bfree=free,
            f_bavail=free - 100,
            f_files=disk.inodes,
            f_ffree=disk.inodes - disk.used_inodes,
        )


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The machine's only disk."""
    disk = Disk(1)
    machine = Machine({"/": disk, "/var": disk})
    monkeypatch.setattr(sensors, "os", machine)
    return disk


def test_a_disk_is_a_trouble_at_its_bound_and_not_below(root: Disk) -> None:
    """900 blocks are all that others than root can use: 720 of them are 80 %."""
    sensor = DiskSensor(80)
    root.used_blocks = 719
    assert sensor.find_troubles() == {}
    root.used_blocks = 720
    assert sensor.find_troubles() == {
        "1": (f"The disk of / is 80 % full, and 0 % of its inodes are used{SHOWS}", "The disk of / has room again")
    }
    root.used_blocks = 900
    assert "100 % full" in sensor.find_troubles()["1"][0]


def test_a_disk_that_was_full_must_have_two_per_cent_of_slack(root: Disk) -> None:
    sensor = DiskSensor(80)
    root.used_blocks = 703  # 78.1 %
    assert sensor.find_troubles() == {}, "it was not full before"
    root.used_blocks = 720
    assert sensor.find_troubles()
    root.used_blocks = 703
    assert sensor.find_troubles(), "the slack is not free yet"
    root.used_blocks = 701  # 77.9 %
    assert sensor.find_troubles() == {}
    root.used_blocks = 703
    assert sensor.find_troubles() == {}


def test_used_up_inodes_fill_a_disk_too(root: Disk) -> None:
    sensor = DiskSensor(80)
    root.used_inodes = 799
    assert sensor.find_troubles() == {}
    root.used_inodes = 800
    assert sensor.find_troubles()["1"][0] == f"The disk of / is 0 % full, and 80 % of its inodes are used{SHOWS}"
    root.used_inodes = 781
    assert sensor.find_troubles(), "the slack holds for inodes as well"
    root.used_inodes = 779
    assert sensor.find_troubles() == {}


def test_a_file_system_without_a_number_of_inodes_has_none_used(root: Disk) -> None:
    """As btrfs."""
    root.inodes = 0
    assert DiskSensor(1).find_troubles() == {}


def test_each_disk_is_reported_once_and_has_its_own_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    mail, system = Disk(2, used_blocks=720), Disk(1, used_blocks=703)
    machine = Machine({"/": system, "/var": system, "/var/log": system, "/var/vmail": mail})
    monkeypatch.setattr(sensors, "os", machine)
    sensor = DiskSensor(80)
    for _ in range(2):
        troubles = sensor.find_troubles()
        assert {*troubles} == {"2"}
        assert troubles["2"][0].startswith("The disk of /var/vmail is 80 % full")
    system.used_blocks = 900
    assert {*sensor.find_troubles()} == {"1", "2"}


def test_the_disks_of_mail_and_logs_are_measured() -> None:
    """By the kernel's own figures."""
    ((text, end_text),) = [DiskSensor(0).find_troubles()[str(Path("/").stat().st_dev)]]
    assert text.startswith("The disk of /")
    assert end_text.endswith(" has room again")
    assert DiskSensor(101).find_troubles() == {}
    assert {"/", "/var/log", "/var/spool/postfix", "/var/vmail"} <= {*DiskSensor.DIRECTORIES}


# --- certificate


@pytest.mark.slow
@pytest.mark.parametrize(("days", "text"), [(100, ""), (5, f"The certificate ends in 5 days{RENEW}")])
def test_the_certificate_is_read_again_when_it_has_changed(tmp_path: Path, days: int, text: str) -> None:
    file = tmp_path / "certificate.pem"
    sensor = CertificateSensor(file, 14)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(file)]
    for lifetime in (30, days):
        subprocess.run(
            ["openssl", "req", "-x509", *key, "-subj", "/CN=x", "-days", str(lifetime), "-out", f"{file}.crt"],
            check=True,
            capture_output=True,
        )
        with file.open("a") as pem:  # the key first, as on the server
            pem.write(Path(f"{file}.crt").read_text())
        troubles = sensor.find_troubles()
    assert [begin for begin, _ in troubles.values()] == ([text] if text else [])


def test_an_expired_certificate_is_a_trouble(tmp_path: Path) -> None:
    file = tmp_path / "certificate.pem"
    file.touch()
    sensor = CertificateSensor(file, 14)
    sensor.read_version, sensor.not_after = file.stat().st_mtime_ns, time.time() - 1
    assert sensor.find_troubles()["end"] == (f"The certificate has expired{RENEW}", "The certificate was renewed")


# --- jails


@pytest.mark.slow
def test_an_openssl_that_hangs_does_not_hold_up_the_other_sensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CertificateSensor.READ_TIMEOUT <= 5, "the loop must come round before systemd's watchdog ends it (30 s)"
    (tmp_path / "openssl").write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(CertificateSensor, "READ_TIMEOUT", 0.1)
    file = tmp_path / "server.pem"
    file.write_text("")
    with pytest.raises(CertificateError, match="did not end"):
        CertificateSensor(file, 14).find_troubles()


def test_faults_of_the_jails_and_the_absence_of_proofs_are_troubles(tmp_path: Path) -> None:
    sensor = JailProofSensor(tmp_path / "jails.json")
    assert sensor.find_troubles() == {}
    sensor.file.write_text(json.dumps({"turn": 4, "faults": {"dovecot": ["jail dovecot: it bans x, nft has no set"]}}))
    assert sensor.find_troubles()["dovecot"][0] == (
        "The jail dovecot does not ban: it bans x, nft has no set. `systemctl restart fail2ban` may help"
    )
    fault = "jail sshd: a refused login from x could not be tried: 192.0.2.7 port 22: Connection refused"
    sensor.file.write_text(json.dumps({"turn": 4, "faults": {"sshd": [fault]}}))
    assert sensor.find_troubles()["sshd"][0] == (
        f"The jail sshd is proven in part only: {fault.removeprefix('jail sshd: ')}. Look at its service"
    )
    sensor.file.write_text(json.dumps({"turn": 8, "faults": {}}))
    assert sensor.find_troubles() == {}
    sensor.start -= 2 * JailProofSensor.MAX_AGE
    assert sensor.find_troubles() == {}
    sensor.file.unlink()
    assert sensor.start < time.time() - JailProofSensor.MAX_AGE
    assert "No jail has been proven" in sensor.find_troubles()["silent"][0]


# --- units


@pytest.mark.slow
@pytest.mark.parametrize(
    ("properties", "runs"),
    [
        ({"ActiveState": "active"}, True),
        ({"ActiveState": "reloading"}, True),
        ({"ActiveState": "inactive", "ConditionResult": "no", "ConditionTimestampMonotonic": "0"}, False),
        ({"ActiveState": "inactive", "ConditionResult": "no", "ConditionTimestampMonotonic": "7"}, True),
        ({"ActiveState": "activating"}, False),
        ({"ActiveState": "failed"}, False),
        ({}, False),
    ],
)
def test_a_unit_runs_or_is_not_meant_to(properties: dict[str, str], runs: bool) -> None:
    assert is_running(properties) == runs


@pytest.mark.parametrize(
    ("states", "troubles"),
    [
        (["deactivating", "deactivating", "activating", "active"], [0, 1, 1, 0]),
        (["active", "failed", "failed"], [0, 1, 1]),
        (["activating", "failed", "activating", "failed"], [0, 1, 1, 1]),
        (["deactivating", "active", "deactivating"], [0, 0, 0]),
    ],
)
def test_a_unit_on_its_way_gets_a_sample_more(
    monkeypatch: pytest.MonkeyPatch, states: list[str], troubles: list[int]
) -> None:
    monkeypatch.setattr(UnitSensor, "MAX_CALM_SAMPLES", 0)
    sensor, coming = UnitSensor(["x.service"]), iter(states)
    monkeypatch.setattr(sensors, "run", lambda *_: f"Id=x.service\nNRestarts=0\nActiveState={next(coming)}\n")
    assert [len(sensor.find_troubles()) for _ in states] == troubles


@pytest.mark.parametrize(
    ("samples", "troubles"),
    [
        ([("activating", 0), ("activating", 1), ("active", 2), ("activating", 3), ("active", 4)], [0, 1, 1, 1, 1]),
        ([("activating", 0), ("active", 1), ("active", 1), ("active", 1)], [0, 1, 0, 0]),
    ],
)
def test_a_unit_that_crashes_in_a_loop_is_down_though_it_runs_for_a_moment(
    monkeypatch: pytest.MonkeyPatch, samples: list[tuple[str, int]], troubles: list[int]
) -> None:
    sensor, coming = UnitSensor(["x.service"]), iter(samples)
    monkeypatch.setattr(sensors, "run", lambda *_: "Id=x.service\nActiveState={}\nNRestarts={}\n".format(*next(coming)))
    monkeypatch.setattr(UnitSensor, "MAX_CALM_SAMPLES", 0)
    assert [len(sensor.find_troubles()) for _ in samples] == troubles


def test_a_unit_that_runs_on_demand_must_be_there_to_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = UnitSensor(["milter.service"], on_demand=["milter.service"])
    monkeypatch.setattr(sensors, "run", lambda *_: "Id=milter.service\nLoadState=masked\nActiveState=inactive\n")
    assert "milter.service is down" in sensor.find_troubles()["milter.service"][0]


def test_a_crash_after_an_end_is_told_though_systemd_counts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnitSensor, "MAX_CALM_SAMPLES", 0)
    sensor = UnitSensor(["milter.service"], on_demand=["milter.service"])
    samples = iter([("active", 1), ("inactive", 1), ("active", 1)])

    def show(*_: str) -> str:
        return "Id=milter.service\nLoadState=loaded\nActiveState={}\nNRestarts={}\n".format(*next(samples))

    monkeypatch.setattr(sensors, "run", show)
    events = [len([*sensor.take_events()]) for _ in range(3) if sensor.find_troubles() == {}]
    assert events == [0, 0, 1]


def test_a_unit_that_runs_on_demand_may_have_ended_and_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnitSensor, "MAX_CALM_SAMPLES", 0)
    states = {"milter.service": "inactive", "milter.socket": "active"}
    sensor = UnitSensor([*states], on_demand=["milter.service"])

    def show(*_: str) -> str:
        rows = (f"Id={unit}\nLoadState=loaded\nNRestarts=0\nActiveState={state}\n" for unit, state in states.items())
        return "\n\n".join(rows)

    monkeypatch.setattr(sensors, "run", show)
    assert sensor.find_troubles() == {}
    states["milter.socket"] = "inactive"
    assert [*sensor.find_troubles()] == ["milter.socket"]
    states["milter.service"] = "failed"
    assert [*sensor.find_troubles()] == ["milter.service", "milter.socket"]


def test_a_unit_that_systemd_restarted_between_two_samples_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnitSensor, "MAX_CALM_SAMPLES", 0)
    sensor, restarts = UnitSensor(["x.service"]), iter([3, 3, 4, 4])
    monkeypatch.setattr(sensors, "run", lambda *_: f"Id=x.service\nNRestarts={next(restarts)}\nActiveState=active\n")
    events = []
    for _ in range(4):
        assert sensor.find_troubles() == {}
        events.append([text for _, text, urgent in sensor.take_events() if urgent])
    text = "x.service ended, and systemd restarted it: `journalctl -u x.service` says why"
    assert events == [[], [], [text], []]


def test_a_systemd_that_does_not_answer_is_asked_at_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> str:
        raise RuntimeError("systemctl show: exit 1")

    sensor = UnitSensor(["x.service"])
    monkeypatch.setattr(sensors, "run", refuse)
    for _ in range(4):
        with pytest.raises(RuntimeError):
            sensor.find_troubles()


def test_a_unit_is_reported_within_ten_seconds() -> None:
    """The first sample of one on its way does not count."""
    assert (UnitSensor.samples + 1) * UnitSensor.interval + alert_queue.BATCH_SECONDS < 10


# --- troubles that other programs have written down


def test_troubles_of_the_daily_dns_check_are_reported(tmp_path: Path) -> None:
    sensor = TroubleFile("dns", tmp_path / "troubles.json")
    assert sensor.find_troubles() == {}
    (tmp_path / "troubles.json").write_text('{"troubles": {"zen": "198.51.100.10 is listed in zen.example"}}')
    assert sensor.find_troubles() == {
        "zen": ("198.51.100.10 is listed in zen.example", "Over: 198.51.100.10 is listed in zen.example")
    }


def test_every_bound_of_the_configuration_reaches_its_sensor(config: WatchConfig, tmp_path: Path) -> None:
    built = {sensor.name: sensor for sensor in build_sensors(config, tmp_path / "jails.json", DeliverySensor())}
    assert {*built} == {
        *(
            "unit",
            "process",
            "signing",
            "resolver",
            "fail2ban",
            "logins",
            "inbound",
            "firewall",
            "proof",
            "dns",
            "disk",
            "queue",
        ),
        *("delivery", "mailbox", "address", "mount", "reserve", "certificate", "connections"),
    }
    known = {prefix for prefix, _ in findings.HARM_BY_KEY} | findings.WATCH_ONLY
    assert {*built} <= known, "status must say how much harm its trouble does"
    values = vars(built["disk"]) | vars(built["queue"]) | vars(built["certificate"])
    assert (values["max_percent"], values["max_messages"], values["min_days"]) == (85, 10, 14)
