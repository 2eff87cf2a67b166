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

import dkim
import pytest
import yaml
from clients import SUBMISSIONS, compose_message, deliver_message

from mailkeep.inventory.dkim_keys import DkimKey, generate_dkim_pem
from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.site import Site
from mailkeep.parts import reports

REPORTER, REPORTER_DOMAIN = "noreply-dmarc@outside.test", "outside.test"
OPERATOR = "operator@outside.test"
ADDRESS = "postmaster@mail.example.test"
STRANGER_SOURCE = "198.51.100.77"
STATE = "/var/lib/mailkeep-reports"
ANNA, ABUSE = "anna@example.test", "abuse@mail.example.test"
PEM = generate_dkim_pem()
READERS = {domain: DkimKey(domain, "s", PEM) for domain in ("read.test", "scanned.test", "skimmed.test")}
"""Domains that complain of mail."""


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

    def submit(self, to: str, subject: str) -> str:
        """Of anna's. Returns the message ID as its reader sees it."""
        text, login = compose_message(ANNA, to, subject), (ANNA, self.site.passphrases[ANNA])
        assert deliver_message(str(self.server.ip), SUBMISSIONS, ANNA, [to], text, login=login).startswith("250")
        received = self.outside.wait_for(lambda mail: mail.message["Subject"] == subject)
        return str(received.message["Message-ID"])

    def complain(self, message_id: str, domain: str, *, signed: bool = True) -> None:
        report = compose_complaint(message_id, domain)
        if signed:
            report = dkim.sign(report, b"s", domain.encode(), PEM, include_headers=[b"from", b"subject"]) + report
        reply = self.outside.send(f"feedback@{domain}", ABUSE, self.server.ip, report)
        assert (reply.code, reply.refused) == (250, {})

    def take_complaints(self, number: int) -> None:
        self.wait_for_copies(number)
        self.read_reports()

    def read_alerts(self) -> str:
        messages = [message for message in self.outside.read_messages() if OPERATOR in message.recipients]
        texts = [message.message.get_content() for message in messages if "[mail" in str(message.message["Subject"])]
        return " ".join(" ".join(texts).split())

    def explain(self) -> str:
        return self.server.run(f"mailkeepctl why {ANNA}").stdout

    def wait_for_copies(self, number: int) -> None:
        poll(lambda: self.count_copies() >= number, 30, "no copy of the report reached the reader")

    def count_copies(self) -> int:
        return int(self.server.run(f"ls {STATE}/new | wc -l").stdout)

    def read_reports(self) -> None:
        self.server.run("systemctl reset-failed mailkeep-reports.service; systemctl start mailkeep-reports.service")

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


def compose_complaint(message_id: str, domain: str) -> bytes:
    """As RFC 5965 appendix B has it, without the recipient."""
    return (
        f"From: <feedback@{domain}>\r\nTo: <{ABUSE}>\r\nSubject: FW: complaint of {message_id} by {domain}\r\n"
        "MIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=feedback-report;\r\n\tboundary="part"\r\n\r\n'
        '--part\r\nContent-Type: text/plain; charset="US-ASCII"\r\n\r\nThis is an email abuse report.\r\n\r\n'
        "--part\r\nContent-Type: message/feedback-report\r\n\r\n"
        "Feedback-Type: abuse\r\nUser-Agent: Loop/1.0\r\nVersion: 1\r\n\r\n"
        "--part\r\nContent-Type: message/rfc822\r\nContent-Disposition: inline\r\n\r\n"
        f"From: {ANNA}\r\nTo: undisclosed-recipients:;\r\nSubject: Offer\r\nMessage-ID: {message_id}\r\n\r\n"
        "Buy.\r\n--part--\r\n"
    ).encode()


def format_zone(domain: str, key: DkimKey) -> str:
    """A string of a TXT record has at most 255 bytes."""
    text = f"v=DKIM1; k=rsa; p={key.public}"
    strings = " ".join(f'"{text[at : at + 250]}"' for at in range(0, len(text), 250))
    policy = f'_dmarc.{domain}. TXT "v=DMARC1; p=none"'
    return f"{domain}. MX 10 mx.outside.test.\n{policy}\n{key.selector}._domainkey.{domain}. TXT {strings}\n"


@pytest.fixture(scope="module")
def reports_server(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[ReportsServer]:
    server = lab.boot_server("reports", hostname="mail.example.test", image=built_image)
    internet.publish("".join(format_zone(*reader) for reader in READERS.items()), "reports")
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
        internet.publish("", "reports")


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

    def is_told() -> bool:
        return reports_server.read_alerts().count("`mailkeep reports`") >= 2

    poll(is_told, 60, "no alerts of the reports came")
    alerts = reports_server.read_alerts()
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


def test_complaints_of_readers_put_mail_to_strangers_on_hold(reports_server: ReportsServer) -> None:
    """Forged ones do nothing, one domain counts once, and three domains suffice."""
    first, second, third = READERS
    ids = {
        name: reports_server.submit(f"{name}@{domain}", f"offer to {name}")
        for name, domain in (("a", first), ("b", first), ("c", first), ("d", second), ("e", third))
    }
    forged = {"a": first, "d": second, "e": third}
    for name, domain in forged.items():
        reports_server.complain(ids[name], domain, signed=False)
    reports_server.take_complaints(len(forged))
    rows = reports_server.server.run("mailkeepctl reports").stdout
    assert "3 reports not counted: complaint whose sender nothing proves" in rows
    assert "and 0 complain" in reports_server.explain()
    for name in ("a", "b", "c"):
        reports_server.complain(ids[name], first)
    reports_server.complain("<guessed@example.test>", second)
    reports_server.take_complaints(4)
    poll(lambda: "and 1 complain" in reports_server.explain(), 30, "the guard did not hear of it")
    for name, domain in (("d", second), ("e", third)):
        reports_server.complain(ids[name], domain)
    reports_server.take_complaints(2)
    poll(lambda: "is put on hold since" in reports_server.explain(), 30, "no hold")
    assert "of 5 first-time recipients in a week, 0 do not exist" in reports_server.explain()
    assert "and 3 complain" in reports_server.explain()
    login = (ANNA, reports_server.site.passphrases[ANNA])
    for name, domain in (("new", second), ("d", second)):  # a stranger, and somebody whom the account knows by now
        text, to = compose_message(ANNA, f"{name}@{domain}", f"again to {name}"), f"{name}@{domain}"
        deliver_message(str(reports_server.server.ip), SUBMISSIONS, ANNA, [to], text, login=login)
    reports_server.outside.wait_for(lambda mail: mail.message["Subject"] == "again to d")
    assert not any(mail.message["Subject"] == "again to new" for mail in reports_server.outside.read_messages())
    letters = [mail for mail in reports_server.outside.read_messages() if OPERATOR in mail.recipients]
    assert sum("FW: complaint of" in str(mail.message["Subject"]) for mail in letters) == 9, "people read them, too"
    alert = f"{ANNA} is complained of: {first} reports its message of"
    poll(lambda: alert in reports_server.read_alerts(), 30, "the operator knows nothing")
    reports_server.server.run(f"mailkeepctl release {ANNA}")
    reports_server.outside.wait_for(lambda mail: mail.message["Subject"] == "again to new")
    assert "and 0 complain" in reports_server.explain()


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
