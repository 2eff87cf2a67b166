"""The weekly mail is one page, says that all is well only of what was looked at, and names what it does not know."""

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mailkeep_server.common import unix_http
from mailkeep_server.common.backup_status import BackupStatus, TargetStatus
from mailkeep_server.mail_log.sources import Chunk
from mailkeep_server.operator import login_log, weekly_facts, weekly_mail
from mailkeep_server.operator.findings import Finding, Findings
from mailkeep_server.watch.alert_queue import Notification
from mailkeep_server.watch.config import BackupPlan, WatchConfig

ANNA, NOW, HOUR = "anna@example.org", time.time(), 3600
SUBJECT = "[mail.example.org] The week: "


class Week:
    """A server after a quiet week, whose facts a test changes."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory, self.patch = directory, monkeypatch
        self.findings = Findings("mail.example.org", NOW, looked_at=["disk", "unit"])
        self.events: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.backups = BackupStatus({"attic": TargetStatus(succeeded=NOW - 5 * HOUR, proved=NOW - 72 * HOUR)})
        (directory / "troubles.json").write_text('{"troubles": {}}')
        (directory / "dpkg.log").write_text(self.write_package(2, "openssl") + self.write_package(24 * 8, "curl"))
        with sqlite3.connect(directory / "bans") as database:
            database.execute("CREATE TABLE bans (jail TEXT, ip TEXT, timeofban INTEGER)")
            rows = [("sshd", "192.0.2.1", NOW - HOUR), ("sshd", "192.0.2.2", NOW - HOUR), ("x", "y", NOW - 200 * HOUR)]
            database.executemany("INSERT INTO bans VALUES (?, ?, ?)", rows)
        self.config = cast(
            WatchConfig,
            SimpleNamespace(
                host="mail.example.org",
                control_socket="control",
                certificate_file=str(self.create_certificate()),
                backup=BackupPlan(["attic"], 26),
                dns_troubles_file=str(directory / "troubles.json"),
            ),
        )
        monkeypatch.setattr(weekly_mail, "collect_findings", lambda _: self.findings)
        monkeypatch.setattr(login_log, "read_server_log", lambda _: [self.chunk])
        monkeypatch.setattr(login_log, "find_first_time", lambda _: "2020-01-01T00:00:00")
        monkeypatch.setattr(weekly_facts.backup_status, "load_status", lambda: self.backups)
        monkeypatch.setattr(weekly_facts, "BANS", str(directory / "bans"))
        monkeypatch.setattr(weekly_facts, "DPKG_LOGS", (directory / "dpkg.log",))
        monkeypatch.setattr(weekly_facts, "REBOOT_FLAG", directory / "reboot")
        monkeypatch.setattr(unix_http, "get_body", self.answer_events)

    @property
    def chunk(self) -> Chunk:
        return Chunk("".join(f"{line}\n" for line in self.lines).encode(), date(2099, 1, 1))

    def create_certificate(self) -> Path:
        file = self.directory / "certificate.pem"
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null")
        words = ["openssl", "req", "-x509", *key, "-subj", "/CN=x", "-addext", "subjectAltName=DNS:x", "-days", "60"]
        subprocess.run([*words, "-out", str(file)], check=True, capture_output=True)
        return file

    def write_package(self, hours: int, package: str) -> str:
        day = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW - hours * HOUR))
        return f"{day} upgrade {package}:amd64 1 2\n{day} status installed {package}:amd64 2\n"

    def answer_events(self, _socket: str, target: str, _timeout: float) -> bytes:
        after = int(target.removeprefix("/events?after="))
        page = [event for event in self.events if event["id"] > after][:2]
        return json.dumps({"last": self.events[-1]["id"] if self.events else 0, "events": page}).encode()

    def add_event(self, kind: str, hours: float, detail: str = "has sent 61 of 60") -> None:
        number = len(self.events) + 1
        at = NOW - hours * HOUR
        self.events.append({"id": number, "time": at, "kind": kind, "account": ANNA, "detail": detail})

    def add_login(self, text: str, hours: float = 1) -> None:
        stamp = (datetime.fromtimestamp(NOW, UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S")
        self.lines.append(f"{stamp}.000000+00:00 {text}")

    def build(self) -> tuple[str, str]:
        weekly = weekly_mail.build_weekly(self.config, NOW)
        return weekly.subject.removeprefix(SUBJECT), "\n".join(weekly.lines)


def refuse_connection(*_: object) -> bytes:
    raise ConnectionRefusedError(111, "Connection refused")


@pytest.fixture
def week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Week:
    return Week(tmp_path, monkeypatch)


def test_a_quiet_week_is_well_and_on_one_page(week: Week) -> None:
    for hours in (1, 30, 24 * 8):
        text = f"postfix/submissions/smtpd[9]: 4fA1: client=x[192.0.2.7], sasl_method=PLAIN, sasl_username={ANNA}"
        week.add_login(text, hours)
    week.add_login(f"dovecot[7]: imap-login: Logged in: user=<{ANNA}>, method=PLAIN, rip=192.0.2.7, lip=192.0.2.1")
    subject, text = week.build()
    assert subject == "all is well"
    assert len(text.splitlines()) < 40
    for line in (
        "Now: nothing is wrong, in 2 things that were looked at.",
        "Mail: 2 messages came in by the accounts' programs.",
        f"        2  {ANNA}",
        "Logins: 1 to mailboxes. 0 logins failed, from 0 addresses.",
        "Unusual: nothing that the guard reports.",
        "Bans: 2 addresses (sshd 2).",
        "Updates: 1 package upgraded; no reboot is due.",
        "Backup at attic: last made 5 hours ago, proven 3 days ago.",
        "DNS and blocklists: looked at 0 hours ago; as it should be.",
    ):
        assert line in text.splitlines()
    assert "Certificate: ends on" in text
    assert "in 60 days" in text
    assert "Disk: " in text
    assert "Not known" not in text


def test_what_is_wrong_now_is_the_subject(week: Week) -> None:
    week.findings.wrong = [Finding(f"disk:{number}", "The disk is full") for number in range(7)]
    subject, text = week.build()
    assert subject == "7 things are wrong"
    assert text.count("  Mail stops: The disk is full") == 5
    assert "  and 2 more" in text


def test_events_of_the_week_are_unusual(week: Week) -> None:
    for kind, hours in (("over", 24 * 9), ("near", 5), ("over", 3), ("frozen", 2), ("network", 1)):
        week.add_event(kind, hours, "\x1b[2J" + "long " * 99)
    subject, text = week.build()
    assert subject == "3 unusual events"
    assert f"{ANNA} frozen: " in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 200


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda week: (week.directory / "bans").unlink(), "Not known: bans ("),
        (lambda week: (week.directory / "dpkg.log").unlink(), "Not known: updates ("),
        (lambda week: (week.directory / "troubles.json").unlink(), "Not known: DNS ("),
        (lambda week: Path(week.config.certificate_file).write_text("x"), "Not known: certificate ("),
        (lambda week: week.patch.setattr(unix_http, "get_body", refuse_connection), "Not known: events ("),
        (lambda week: week.findings.not_looked_at.update(unit="x"), "  Not looked at: unit."),
    ],
)
def test_all_is_not_well_if_something_was_not_looked_at(spoil: Callable[[Week], object], line: str, week: Week) -> None:
    spoil(week)
    subject, text = week.build()
    assert subject == "nothing is wrong in what could be looked at"
    assert line in text


def test_a_log_that_no_longer_reaches_back_and_a_due_reboot_are_said(week: Week) -> None:
    recent = datetime.fromtimestamp(NOW - HOUR, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    week.patch.setattr(login_log, "find_first_time", lambda _: recent)
    (week.directory / "reboot").touch()
    _, text = week.build()
    assert f"The log reaches back to {recent.replace('T', ' ')} UTC only." in text
    assert "a reboot is due" in text


@pytest.mark.slow
def test_it_is_sent_to_the_administrators_and_a_failure_is_an_error(
    week: Week, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[Notification] = []

    def send(notification: Notification, config: WatchConfig) -> str:
        assert config is week.config
        sent.append(notification)
        return "250 queued"

    monkeypatch.setattr(weekly_mail, "load_config", lambda: week.config)
    monkeypatch.setattr(weekly_mail, "send_mail", send)
    assert weekly_mail.main([]) == 0
    assert sent[0].subject == f"{SUBJECT}all is well"
    assert weekly_mail.main(["--print"]) == 0
    assert f"{SUBJECT}all is well\n\nThe week from " in capsys.readouterr().out
    assert len(sent) == 1
    monkeypatch.setattr(weekly_mail, "send_mail", refuse_connection)
    assert weekly_mail.main([]) == 1
    assert "The weekly mail was not sent" in capsys.readouterr().err
