"""`mailkeep reports` says in words what the servers have read, and what it could not ask."""

import json
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml
from cli_samples import Run, write_program

from mailkeep.cli.dns import judge_received_reports
from mailkeep.parts import server_package
from mailkeep.settings.load import load_settings
from mailkeep_server.reports.config import ReportsConfig
from mailkeep_server.reports.dmarc_report import DmarcReport, DmarcRow
from mailkeep_server.reports.store import DAY, OVER_BOUND, ReportStore
from mailkeep_server.reports.summary import summarise_reports

OURS, STRANGER = "203.0.113.25", "192.0.2.66"
CONFIG = ReportsConfig("postmaster@mail.example.org", ("example.org", "mail.example.org"), {"own": (ip_network(OURS),)})


def keep_reports(file: Path, *, failing: bool = False) -> None:
    """Rows of a month, as the server's reader keeps them."""
    store, now = ReportStore(file, CONFIG), int(time.time())
    with store.transaction():
        for number, days in enumerate((29, 1)):
            end = now - days * DAY
            report = DmarcReport("Google", f"id{number}", end - DAY, end, "example.org", "none")
            report.rows[DmarcRow(OURS, "example.org", dkim=True, spf=True, disposition="none")] = 206
            signatures = (("news.example", "pass"),)
            row = DmarcRow(STRANGER, "example.org", dkim=False, spf=False, disposition="reject", signatures=signatures)
            report.rows[row] = 3
            if failing:
                report.rows[DmarcRow(OURS, "example.org", dkim=False, spf=False, disposition="none")] = 1
            store.add_report("google.example", report, now)
        store.count_outcome(OVER_BOUND, now, 4)
    store.close()


@pytest.fixture
def server(home: Path, programs: Path, tmp_path: Path) -> Path:
    """One host, whose `mailkeepctl` prints what the file beside it holds."""
    (home / "inventory.py").write_text(f"hosts = [('first', {{'mailkeep': {str(home / 'mail.yml')!r}}})]\n")
    write_program(programs / "id", "#!/bin/sh\necho 0\n")
    answer = tmp_path / "answer.json"
    write_program(programs / "mailkeepctl", f'#!/bin/sh\necho "$*" > {tmp_path}/arguments\ncat {answer}\n')
    return answer


def answer_with_rows(answer: Path, tmp_path: Path, *, failing: bool = False) -> None:
    keep_reports(tmp_path / "reports.db", failing=failing)
    summary = summarise_reports(tmp_path / "reports.db", CONFIG, time.time() - 35 * DAY)
    answer.write_text(json.dumps(summary))


def test_each_source_and_the_conclusion_are_in_words(server: Path, tmp_path: Path, mailkeep: Run) -> None:
    answer_with_rows(server, tmp_path)
    result = mailkeep("reports", "home")
    assert (result.code, result.err) == (0, "")
    assert "example.org  412 of 418 messages passed; 2 reports" in result.out
    assert f"{OURS:40} this server     412 passed; 1 receiver" in result.out
    assert f"{STRANGER:40} unknown         0 passed, 6 failed (6 refused)" in result.out
    assert "6: signed as news.example, not as your domain" in result.out
    assert "as Google (from google.example, 2 reports) say" in result.out
    assert "For 29 days all of your 412 messages passed" in result.out
    assert f"  Next: {STRANGER}: If news.example sends for you, have it sign as example.org." in result.out
    assert "4 reports not counted: over the daily bound." in result.out
    assert (tmp_path / "arguments").read_text() == "reports --json --days=30\n"


def test_mail_of_ours_that_fails_is_exit_code_1(server: Path, tmp_path: Path, mailkeep: Run) -> None:
    answer_with_rows(server, tmp_path, failing=True)
    result = mailkeep("reports", "home", "--json")
    assert result.code == 1
    content = json.loads(result.out)
    assert content["conclusions"]["example.org"][0].startswith("2 of your 414 messages failed: 203.0.113.25")
    assert content["steps"]["example.org"][0].startswith("203.0.113.25: `mailkeep dns NAME --check` compares")
    assert content["servers"][0]["domains"][0]["domain"] == "example.org"


def test_silence_is_no_praise(server: Path, mailkeep: Run) -> None:
    server.write_text(json.dumps({"domains": [], "outcomes": {}, "since": 0, "address": "x"}))
    result = mailkeep("reports", "home")
    assert result.code == 0
    assert "example.org: no report in 30 days: nothing can be concluded." in result.out
    assert "passed" not in result.out


def test_a_day_and_a_domain_are_passed_on(server: Path, tmp_path: Path, mailkeep: Run) -> None:
    server.write_text(json.dumps({"domains": [], "outcomes": {}, "since": 0, "address": "x"}))
    day = datetime.now(UTC).date() - timedelta(days=6)
    assert mailkeep("reports", "home", "--since", str(day), "--domain", "Example.org").code == 0
    assert (tmp_path / "arguments").read_text() == "reports --json --days=7 --domain=example.org\n"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("day", ["yesterday", "2026-13-01", "2020-01-01", "2999-01-01"])
def test_another_day_is_refused(day: str, mailkeep: Run) -> None:
    result = mailkeep("reports", "home", "--since", day)
    assert (result.code, result.out) == (2, "")
    assert "expected a day" in result.err


def test_reports_that_go_elsewhere_are_no_silence(home: Path, mailkeep: Run) -> None:
    file = home / "mail.yml"
    settings = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(settings | {"dns": {"reports": "reports@example.net"}}))
    result = mailkeep("reports", "home")
    assert (result.code, result.out) == (1, "")
    assert "go to reports@example.net, which is at another server" in result.err


@pytest.mark.usefixtures("server")
def test_an_older_server_is_named(programs: Path, mailkeep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_package, "DIRECTORY", "/")  # there is a Mailkeep
    write_program(programs / "mailkeepctl", "#!/bin/sh\necho 'invalid choice' >&2; exit 2\n")
    result = mailkeep("reports", "home")
    assert result.code == 1
    assert "first: its Mailkeep reads no reports yet: `mailkeep deploy home` upgrades it" in result.err


@pytest.mark.usefixtures("programs")
def test_a_server_that_cannot_be_reached_is_an_error(home: Path, mailkeep: Run) -> None:
    (home / "inventory.py").write_text(f"hosts = [('gone', {{'mailkeep': {str(home / 'mail.yml')!r}}})]\n")
    result = mailkeep("reports", "home")
    assert result.code == 1
    assert "gone: ssh: connect to host gone port 22" in result.err


def test_the_check_of_the_dns_reads_the_rows(server: Path, home: Path, tmp_path: Path) -> None:
    """Beside the records: whichever policy the rows support."""
    file = home / "mail.yml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"dns": {"dmarc": "none"}}))
    settings = load_settings(file)
    answer_with_rows(server, tmp_path)
    [finding] = judge_received_reports(home, settings)
    assert (finding.level, finding.name) == ("instruction", "_dmarc.example.org")
    assert "For 29 days all of your 412 messages passed. 6 messages of unknown sources failed" in finding.problem
    assert finding.advice == "Set dns.dmarc: reject, and publish the record"


@pytest.mark.usefixtures("programs")
def test_the_check_of_the_dns_goes_on_without_the_server(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "inventory.py").write_text(f"hosts = [('gone', {{'mailkeep': {str(home / 'mail.yml')!r}}})]\n")
    assert judge_received_reports(home, load_settings(home / "mail.yml")) == []
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("note: reports of receivers were not looked at: gone: ssh:")
