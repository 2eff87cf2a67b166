"""Reports of other servers, the whole way: mail of a stranger, the reader, words for the operator, the alert."""

import gzip
import json
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.site import Site
from mailkeep.parts import reports

REPORTER, REPORTER_DOMAIN = "noreply-dmarc@outside.test", "outside.test"
OPERATOR = "operator@outside.test"
ADDRESS = "postmaster@mail.example.test"
STRANGER_SOURCE = "198.51.100.77"
STATE = "/var/lib/mailkeep-reports"


@dataclass(frozen=True)
class ReportsServer:
    site: Site
    outside: Internet

    @property
    def server(self) -> Server:
        return self.site.server

    def receive(self, name: str, content: bytes, kind: str = "application/gzip") -> None:
        """A report as a receiver of our mail sends it: the body is the attachment."""
        message = (
            f"From: {REPORTER}\r\nTo: {ADDRESS}\r\nSubject: Report Domain: example.test\r\n"
            f"Message-ID: <{name}@o.test>\r\nDate: Mon, 02 Nov 2026 00:00:00 +0000\r\n"
            f"MIME-Version: 1.0\r\nContent-Type: {kind}\r\n"
            "Content-Transfer-Encoding: base64\r\n\r\n"
        ).encode() + b64encode(content)
        reply = self.outside.send(REPORTER, ADDRESS, self.server.ip, message)
        assert (reply.code, reply.refused) == (250, {})

    def wait_for_copies(self, number: int) -> None:
        poll(lambda: self.count_copies() >= number, 30, "no copy of the report reached the reader")

    def count_copies(self) -> int:
        return int(self.server.run(f"ls {STATE}/new | wc -l").stdout)

    def read_reports(self) -> None:
        self.server.run("systemctl start mailkeep-reports.service")

    def run_mailkeep(self, command_name: str, *arguments: str) -> tuple[int, str]:
        """Exit code and output of a command about this server."""
        command = [sys.executable, "-m", "mailkeep", command_name, str(self.site.inventory), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout or done.stderr


def compose_dmarc(report_id: str, rows: list[tuple[str, int, bool]], days_ago: int = 1) -> bytes:
    """As Google has it: each row is a source, a number of messages, and whether they passed."""
    end = datetime.now(UTC) - timedelta(days=days_ago)
    records = "".join(
        f"<record><row><source_ip>{source}</source_ip><count>{count}</count><policy_evaluated><disposition>none"
        f"</disposition><dkim>{'pass' if passed else 'fail'}</dkim><spf>fail</spf></policy_evaluated></row>"
        f"<identifiers><header_from>example.test</header_from></identifiers><auth_results><dkim><domain>"
        f"{'example.test' if passed else 'news.test'}</domain><result>pass</result><selector>s1</selector></dkim>"
        "</auth_results></record>"
        for source, count, passed in rows
    )
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><feedback><report_metadata><org_name>outside.test</org_name>'
        f"<email>{REPORTER}</email><report_id>{report_id}</report_id><date_range>"
        f"<begin>{end.timestamp() - 86400:.0f}</begin><end>{end.timestamp():.0f}</end></date_range></report_metadata>"
        f"<policy_published><domain>example.test</domain><p>none</p></policy_published>{records}</feedback>"
    ).encode()


def compose_tls(failed: int) -> bytes:
    """As RFC 8460 appendix B has it."""
    end = datetime.now(UTC) - timedelta(hours=12)
    policy = {"policy-type": "sts", "policy-domain": "example.test", "policy-string": ["version: STSv1"]}
    detail = {"result-type": "certificate-expired", "failed-session-count": failed}
    report = {
        "organization-name": "outside.test",
        "date-range": {
            "start-datetime": (end - timedelta(days=1)).isoformat(),
            "end-datetime": end.isoformat(),
        },
        "report-id": "tls-1",
        "policies": [
            {
                "policy": policy,
                "summary": {"total-successful-session-count": 40, "total-failure-session-count": failed},
                "failure-details": [detail],
            }
        ],
    }
    return json.dumps(report).encode()


@pytest.fixture(scope="module")
def reports_server(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[ReportsServer]:
    server = lab.boot_server("reports", hostname="mail.example.test", image=built_image)
    try:
        internet.resolve_for(server)
        site = built_site.copy_for(server)
        settings = yaml.safe_load(site.settings_file.read_text())
        settings["admin"]["addresses"] = [OPERATOR]
        settings.setdefault("dns", {}).update({"dmarc": "none"})
        settings["dns"].pop("reports", None)
        site.settings_file.write_text(yaml.safe_dump(settings))
        result = site.deploy()
        assert result.code == 0, result.output
        yield ReportsServer(site, internet)
    finally:
        server.remove()


def test_a_report_comes_by_mail_and_is_told_in_words(reports_server: ReportsServer) -> None:
    ours = str(reports_server.server.ip)
    reports_server.receive("r1", gzip.compress(compose_dmarc("r1", [(ours, 400, True)], days_ago=16)))
    reports_server.receive("r2", gzip.compress(compose_dmarc("r2", [(ours, 12, True)])), "text/plain")
    reports_server.wait_for_copies(2)
    reports_server.read_reports()
    assert reports_server.count_copies() == 0
    code, text = reports_server.run_mailkeep("reports")
    assert code == 0, text
    assert "all of your 412 messages passed: go to reject." in text
    assert re.search(rf"{re.escape(ours)} +this server +412 passed", text)
    assert "outside.test (from outside.test, 2 reports)" in text
    rows = reports_server.server.run("mailkeepctl reports --domain example.test").stdout
    assert "example.test: 412 of 412 messages passed, in 2 reports" in rows


def test_the_check_of_the_dns_says_what_the_reports_support(reports_server: ReportsServer) -> None:
    resolver = reports_server.outside.resolver
    _, text = reports_server.run_mailkeep("dns", "--check", "--json", "--resolver", resolver)
    problems = {
        finding["name"]: finding["problem"] for finding in json.loads(text) if "reports of" in finding["problem"]
    }
    assert list(problems) == ["_dmarc.example.test"]
    assert "all of your 412 messages passed: go to reject" in problems["_dmarc.example.test"]


def test_the_message_itself_went_to_the_administrators(reports_server: ReportsServer) -> None:
    """The copy takes nothing away: the mail is where it always was."""
    reports_server.receive("r3", gzip.compress(compose_dmarc("r3", [])))
    received = reports_server.outside.wait_for(lambda message: "<r3@o.test>" in str(message.message["Message-ID"]))
    assert received.recipients == (OPERATOR,)


def test_nobody_writes_to_the_reader_itself(reports_server: ReportsServer) -> None:
    for recipient in ("mailkeep-reports@localhost", "mailkeep-reports@mail.example.test"):
        reply = reports_server.outside.send(REPORTER, recipient, reports_server.server.ip, b"Subject: x\r\n\r\nx\r\n")
        assert reply.code >= 500, reply


def test_a_new_source_that_fails_and_a_tls_failure_are_told_once(reports_server: ReportsServer) -> None:
    reports_server.receive("r4", gzip.compress(compose_dmarc("r4", [(STRANGER_SOURCE, 7, False)])))
    reports_server.receive("t1", compose_tls(3), "application/tlsrpt+json")
    reports_server.wait_for_copies(2)
    reports_server.read_reports()

    def read_alerts() -> str:
        messages = [message for message in reports_server.outside.read_messages() if OPERATOR in message.recipients]
        texts = [message.message.get_content() for message in messages if "[mail" in str(message.message["Subject"])]
        return " ".join(" ".join(texts).split())

    poll(lambda: read_alerts().count("`mailkeep reports`") >= 2, 60, "no alerts of the reports came")
    alerts = read_alerts()
    assert f"mail failed DMARC from a new source: {STRANGER_SOURCE}" in alerts
    assert "as outside.test says: signed as news.test, not as your domain" in alerts
    assert "TLS to this server failed: the certificate has expired (MTA-STS)" in alerts
    reports_server.receive("r5", gzip.compress(compose_dmarc("r5", [(STRANGER_SOURCE, 9, False)])))
    reports_server.wait_for_copies(1)
    reports_server.read_reports()
    code, text = reports_server.run_mailkeep("reports", "--json")
    assert code == 1, "a TLS failure is a failure of ours"
    [domain] = json.loads(text)["servers"][0]["domains"]
    assert (domain["sources"][-1]["source"], domain["sources"][-1]["messages"]) == (STRANGER_SOURCE, 16)
    announced = json.loads(reports_server.server.run(f"cat {STATE}/announcements.json").stdout)
    assert announced["last"] - min(entry["id"] for entry in announced["announcements"]) + 1 == 2, announced


def test_bombs_cost_a_line_in_the_journal(reports_server: ReportsServer) -> None:
    bomb = gzip.compress(b"<feedback>" + b" " * 200 * 2**20)
    laughs = b'<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;">]><feedback>&c;</feedback>'
    reports_server.receive("b1", bomb)
    reports_server.receive("b2", gzip.compress(laughs))
    reports_server.wait_for_copies(2)
    reports_server.read_reports()
    journal = reports_server.server.run("journalctl -u mailkeep-reports.service -o cat").stdout
    assert "it unpacks to more than 10 MB" in journal
    assert "it has a document type" in journal
    result = reports_server.server.run("systemctl show -p Result --value mailkeep-reports.service").stdout.strip()
    assert result == "success"


def test_a_reader_that_is_gone_stops_no_mail(reports_server: ReportsServer) -> None:
    """The copies wait, and nothing bounces."""
    server = reports_server.server
    server.run(f"mv {STATE}/new {STATE}/away")
    try:
        reports_server.receive("g1", gzip.compress(compose_dmarc("g1", [])))
        reports_server.outside.wait_for(lambda message: "<g1@o.test>" in str(message.message["Message-ID"]))
        poll(lambda: server.run("postqueue -j").stdout == "", 30, "the copy waits in the queue")
    finally:
        server.run(f"mv {STATE}/away {STATE}/new")
    assert not [message for message in reports_server.outside.read_messages() if REPORTER in message.recipients], (
        "a bounce about the copy"
    )


def test_the_database_is_in_the_backups_state(reports_server: ReportsServer) -> None:
    part = reports.build_part(reports_server.site.settings)
    assert set(part.kept) == {f"{STATE}/reports.db", f"{STATE}/announcements.json"}
    program = (
        "from pathlib import Path; from mailkeep_server.backup.state_copy import copy_state;"
        f"copy_state({list(part.kept)!r}, Path('/root/state'))"
    )
    server = reports_server.server
    server.run(f"cd /usr/lib/mailkeep && python3 -IBc \"import sys; sys.path.insert(0, '.'); {program}\"")
    count = "import sqlite3; print(sqlite3.connect('/root/state" + STATE + "/reports.db').execute("
    count += "'SELECT count(*) FROM reports').fetchone()[0])"
    assert int(server.run(f'python3 -c "{count}"').stdout) >= 4


def test_the_reader_has_no_rights_and_no_network(reports_server: ReportsServer) -> None:
    server = reports_server.server
    properties = server.run(
        "systemctl show mailkeep-reports.service -p User,PrivateNetwork,CapabilityBoundingSet,MemoryMax,ProtectSystem"
    ).stdout
    assert "User=mailkeep-reports" in properties
    assert "PrivateNetwork=yes" in properties
    assert "CapabilityBoundingSet=\n" in properties
    assert f"MemoryMax={128 * 2**20}" in properties
    assert server.run("systemctl is-active mailkeep-reports.timer").stdout.strip() == "active"
