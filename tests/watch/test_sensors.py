"""What the watch looks at is seen as it is."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from mailkeep_server.watch import alert_queue, sensors
from mailkeep_server.watch.sensors import Certificate, Disks, Proof, Queue, Units, Written, _runs


def test_the_queue_is_counted_without_what_is_held_and_told_with_slack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Queue, "SPOOL", tmp_path)
    queue = Queue(4)
    assert queue.troubles() == {}

    def fill(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    fill("deferred/A/A1", "deferred/B/B1", "active/C1", "incoming/D1", *(f"hold/{n}" for n in range(9)))
    assert queue.troubles() == {}
    fill("maildrop/E1")
    assert "1 maildrop, 1 incoming, 1 active, 2 deferred" in queue.troubles()["long"][0]
    (tmp_path / "maildrop/E1").unlink()
    assert queue.troubles(), "it is half as long before it is short again"
    (tmp_path / "active/C1").unlink()
    (tmp_path / "incoming/D1").unlink()
    assert queue.troubles() == {}


def test_a_disk_is_full_from_the_bound_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Disks, "DIRECTORIES", (str(tmp_path), "/nonexistent"))
    assert Disks(101).troubles() == {}
    ((text, over),) = Disks(0).troubles().values()
    assert text.startswith(f"The disk of {tmp_path} is full to ")
    assert over == f"The disk of {tmp_path} has room again"


@pytest.mark.parametrize(("days", "said"), [(100, ""), (5, "The certificate ends in 5 days")])
def test_the_certificate_is_read_anew_when_it_has_changed(tmp_path: Path, days: int, said: str) -> None:
    file = tmp_path / "certificate.pem"
    sensor = Certificate(str(file), 14)
    for lasts in (30, days):
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"]
        subprocess.run(
            [*make, "/CN=x", "-days", str(lasts), "-keyout", "/dev/null", "-out", str(file)],
            check=True,
            capture_output=True,
        )
        found = sensor.troubles()
    assert [text for text, _ in found.values()] == ([said] if said else [])


def test_silence_about_the_jails_and_what_is_wrong_with_them_are_troubles(tmp_path: Path) -> None:
    sensor = Proof(tmp_path / "jails.json")
    assert sensor.troubles() == {}
    sensor.file.write_text(json.dumps({"turn": 4, "faults": {"dovecot": ["jail dovecot: it bans x, nft has no set"]}}))
    assert sensor.troubles()["dovecot"][0] == "The jail dovecot does not ban: it bans x, nft has no set"
    sensor.file.write_text(json.dumps({"turn": 8, "faults": {}}))
    assert sensor.troubles() == {}
    sensor.start -= 2 * Proof.SILENT
    assert sensor.troubles() == {}
    sensor.file.unlink()
    assert sensor.start < time.time() - Proof.SILENT
    assert "No jail has been proven" in sensor.troubles()["silent"][0]


@pytest.mark.parametrize(
    ("shown", "runs"),
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
def test_a_unit_runs_or_is_not_meant_to(shown: dict[str, str], runs: bool) -> None:
    assert _runs(shown) == runs


@pytest.mark.parametrize(
    ("states", "seen"),
    [
        (["deactivating", "deactivating", "activating", "active"], [0, 1, 1, 0]),
        (["active", "failed", "failed"], [0, 1, 1]),
        (["activating", "failed", "activating", "failed"], [0, 1, 1, 1]),
        (["deactivating", "active", "deactivating"], [0, 0, 0]),
    ],
)
def test_a_unit_on_its_way_is_given_a_look_more(
    monkeypatch: pytest.MonkeyPatch, states: list[str], seen: list[int]
) -> None:
    units, shown = Units(["x.service"]), iter(states)
    monkeypatch.setattr(sensors, "run", lambda *_: f"Id=x.service\nNRestarts=0\nActiveState={next(shown)}\n")
    assert [len(units.troubles()) for _ in states] == seen


def test_a_unit_that_stays_on_its_way_is_told_within_ten_seconds() -> None:
    assert (Units.looks + 1) * Units.every + alert_queue.GATHER < 10


def test_what_the_daily_look_at_records_and_blocklists_found_is_told(tmp_path: Path) -> None:
    sensor = Written("world", tmp_path / "troubles.json")
    assert sensor.troubles() == {}
    (tmp_path / "troubles.json").write_text('{"troubles": {"zen": "198.51.100.10 is listed in zen.example"}}')
    assert sensor.troubles() == {
        "zen": ("198.51.100.10 is listed in zen.example", "No more: 198.51.100.10 is listed in zen.example")
    }
