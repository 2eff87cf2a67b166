"""`mailkeepctl metrics` prints what can be read, says what cannot, and the dashboard shows each figure."""

import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mailkeep_server import ctl
from mailkeep_server.common import unix_http
from mailkeep_server.common.backup_status import BackupStatus, TargetStatus
from mailkeep_server.operator import findings, metrics
from mailkeep_server.operator.findings import Finding, Findings
from mailkeep_server.watch.config import BackupPlan, WatchConfig
from mailkeep_server.watch.mail_flow import QueueSensor
from scripts import make_dashboard

ROOT = Path(__file__).resolve().parents[2]
CONFIG = cast(
    WatchConfig,
    SimpleNamespace(control_socket="control", certificate_file="/nowhere", backup=BackupPlan(['at"tic\\'], 26)),
)
GUARD = """# HELP mailkeep_accounts_frozen Frozen accounts
# TYPE mailkeep_accounts_frozen gauge
mailkeep_accounts_frozen 1
"""
SAMPLE = re.compile(r'[a-z_]+(?:\{[a-z]+="(?:[^"\\\n]|\\["\\n])*"\})? [0-9.e+-]+')


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two messages wait, one is held; one ban; one thing is wrong; the certificate cannot be read."""
    for queue, number in (("deferred/A", 2), ("hold", 1)):
        (tmp_path / queue).mkdir(parents=True)
        for name in range(number):
            (tmp_path / queue / str(name)).touch()
    monkeypatch.setattr(QueueSensor, "SPOOL", tmp_path)
    monkeypatch.setattr(metrics, "measure_disk", lambda _: ("1", 41.5, 3.0))
    monkeypatch.setattr(metrics, "list_jails", lambda **_: ["sshd", "dovecot"])
    monkeypatch.setattr(metrics, "ask_fail2ban", lambda *words, **_: ["192.0.2.1"] if words[1] == "sshd" else [])
    status = BackupStatus({CONFIG.backup.targets[0] if CONFIG.backup else "": TargetStatus(succeeded=1764086400.5)})
    monkeypatch.setattr(metrics.backup_status, "load_status", lambda: status)
    present = Findings("mail.example.org", time.time(), [Finding("disk:1", "full")], ["disk"], {"unit": "x"})
    monkeypatch.setattr(metrics, "collect_findings", lambda _: present)
    monkeypatch.setattr(unix_http, "get_body", lambda *_: GUARD.encode())
    monkeypatch.setattr(findings, "load_watch_config", lambda: CONFIG)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


@pytest.mark.usefixtures("server")
def test_each_figure_is_in_prometheus_format() -> None:
    text = metrics.format_metrics(CONFIG)
    lines = text.splitlines()
    assert text.startswith(GUARD)
    for line in (
        'mailkeep_queue_messages{queue="deferred"} 2',
        'mailkeep_queue_messages{queue="hold"} 1',
        'mailkeep_bans{jail="sshd"} 1',
        'mailkeep_bans{jail="dovecot"} 0',
        'mailkeep_disk_used_ratio{path="/"} 0.415',
        r'mailkeep_backup_last_success_timestamp_seconds{target="at\"tic\\"} 1764086400.5',
        'mailkeep_findings{harm="Mail stops"} 1',
        'mailkeep_findings{harm="Spam may leave"} 0',
        "mailkeep_sensors_not_looked_at 1",
        'mailkeep_looked_at{what="guard"} 1',
        'mailkeep_looked_at{what="certificate"} 0',
    ):
        assert line in lines
    assert not [line for line in lines if not line.startswith("# ") and not SAMPLE.fullmatch(line)]
    helps = [line.split()[2] for line in lines if line.startswith("# HELP")]
    assert len(helps) == len({*helps}), "a name's samples must stand together"


@pytest.mark.usefixtures("server")
def test_without_the_guard_the_other_figures_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(unix_http, "get_body", refuse)
    text = metrics.format_metrics(CONFIG)
    assert 'mailkeep_looked_at{what="guard"} 0' in text
    assert 'mailkeep_bans{jail="sshd"} 1' in text


def test_the_file_is_replaced_as_a_whole(server: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = server / "mailkeep.prom"
    file.write_text("old")
    assert ctl.main(["metrics", "--file", str(file)]) == 0
    assert file.read_text().startswith(GUARD)
    assert file.stat().st_mode & 0o777 == 0o644
    assert ctl.main(["metrics"]) == 0
    assert capsys.readouterr().out == file.read_text()


def test_the_dashboard_shows_every_figure_and_no_other() -> None:
    dashboard = json.loads(make_dashboard.TARGET.read_text())
    shown = {name for panel in dashboard["panels"] for name in re.findall(r"mailkeep_\w+", panel["targets"][0]["expr"])}
    source = (ROOT / "mailkeep_server/guard/control_socket.py").read_text()
    assert shown == {*metrics.NAMES, *re.findall(r'\("(mailkeep_\w+)"', source)}


def test_the_dashboard_is_what_the_script_makes() -> None:
    assert make_dashboard.TARGET.read_text() == make_dashboard.format_dashboard(), "run `make manual`"
