"""What reports support is said in one sentence, from the rows of the server; nothing is concluded of silence."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from dns_samples import make_settings

from mailkeep.dns.received_reports import DomainReports, merge_outcomes, merge_summaries
from mailkeep.dns.report_conclusions import conclude_dmarc, conclude_tls, find_policy, judge_reports
from mailkeep_server.reports.config import ReportsConfig
from mailkeep_server.reports.dmarc_report import DmarcReport, DmarcRow
from mailkeep_server.reports.listing import format_summary
from mailkeep_server.reports.store import DAY, OVER_BOUND, ReportStore
from mailkeep_server.reports.summary import MAX_SOURCES, summarise_reports
from mailkeep_server.reports.tls_report import TlsReport, TlsRow

NOW = 1_795_850_000
OURS, SHOP, LIST, STRANGER = "203.0.113.25", "198.51.100.60", "198.51.100.90", "192.0.2.66"
FORWARDER = "198.51.100.70"
CONFIG = ReportsConfig(
    "postmaster@mail.example.org",
    ("example.org", "example.com", "mail.example.org"),
    {"own": (ip_network(OURS),), "spf": (), "forwarder": (ip_network(FORWARDER),)},
)
PASS, SPF_PASS = {"dkim": True, "spf": True}, {"dkim": False, "spf": True}
FAIL = {"dkim": False, "spf": False}
BROKEN = FAIL | {"signatures": (("example.org", "fail"),)}
FOREIGN = FAIL | {"signatures": (("news.example", "pass"),)}
KEPT = {"dkim": True, "spf": False, "signatures": (("example.org", "pass"),)}

Row = tuple[str, int, dict[str, Any]]


class Server:
    """The rows of one server, as its reader keeps them."""

    def __init__(self, path: Path) -> None:
        self.path, self.reports = path, 0
        self.store = ReportStore(path, CONFIG)

    def report(
        self, *rows: Row, domain: str = "example.org", days_ago: int = 1, sender: str = "google.example"
    ) -> None:
        end = NOW - days_ago * DAY
        self.reports += 1
        report = DmarcReport("Google", f"id{self.reports}", end - DAY, end, domain, "none")
        for source, messages, fields in rows:
            report.rows[DmarcRow(source, domain, disposition="none", **fields)] += messages
        with self.store.transaction():
            assert self.store.add_report(sender, report, NOW) == "read"

    def report_tls(self, *rows: TlsRow, days_ago: int = 1) -> None:
        end = NOW - days_ago * DAY
        self.reports += 1
        with self.store.transaction():
            report = TlsReport("Google", f"t{self.reports}", end - DAY, end, list(rows))
            assert self.store.add_report("google.example", report, NOW) == "read"

    def summarise(self, domain: str = "", days: int = 30) -> dict[str, Any]:
        return summarise_reports(self.path, CONFIG, NOW - days * DAY, domain)

    def find_domain(self, name: str = "example.org") -> DomainReports:
        [reports] = [reports for reports in merge_summaries([self.summarise()]) if reports.domain == name]
        return reports


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "reports.db")


def test_all_mail_that_passed_for_a_month_leads_to_reject(server: Server) -> None:
    server.report((OURS, 400, PASS), days_ago=28)
    server.report((OURS, 7, PASS), (SHOP, 5, SPF_PASS))
    conclusion = conclude_dmarc(server.find_domain(), "none")
    assert conclusion.sentence == "For 28 days all of your 412 messages passed: go to reject."
    assert conclusion.state == "ready"
    assert conclude_dmarc(server.find_domain(), "reject").sentence.endswith("passed: reject is right.")


@pytest.mark.parametrize(
    ("rows", "state", "text"),
    [
        ([], "ready", "all of your 5 messages passed: go to reject."),
        ([(STRANGER, 9, FAIL)], "strangers", "9 messages of unknown sources failed: 192.0.2.66 (not signed as"),
        ([(OURS, 2, FAIL)], "failing", "2 of your 7 messages failed: 203.0.113.25 (not signed as your domain"),
        ([(SHOP, 4, SPF_PASS), (SHOP, 1, FAIL)], "failing", "1 of your 10 messages failed: 198.51.100.60"),
        ([(LIST, 3, BROKEN)], "changed", "3 more were changed on the way by others, as by mailing lists"),
        ([(LIST, 3, KEPT)], "ready", "all of your 8 messages passed: go to reject."),
    ],
)
def test_what_stands_against_a_step_is_named(server: Server, rows: list[Row], state: str, text: str) -> None:
    server.report((OURS, 4, PASS), *rows, days_ago=29)
    server.report((OURS, 1, PASS))
    conclusion = conclude_dmarc(server.find_domain(), "none")
    assert text in conclusion.sentence
    assert conclusion.state == state


@pytest.mark.parametrize("policy", ["none", "quarantine", "reject"])
@pytest.mark.parametrize(
    ("rows", "step"),
    [
        ([(OURS, 2, FAIL)], f"{OURS}: `mailkeep dns NAME --check` compares the SPF record with this address."),
        ([(OURS, 2, BROKEN)], f"{OURS}: This server signed, and the signature did not verify."),
        ([(OURS, 2, FOREIGN)], f"{OURS}: This server passes on mail that news.example signed."),
        ([(SHOP, 4, SPF_PASS), (SHOP, 1, FAIL)], f"{SHOP}: dns.spf names it, but its envelope sender"),
        ([(SHOP, 4, SPF_PASS), (SHOP, 1, FOREIGN)], "have it sign as example.org instead of news.example."),
        ([(SHOP, 4, SPF_PASS), (SHOP, 1, BROKEN)], f"{SHOP}: It signs as example.org, and the signature does not"),
        ([(LIST, 3, BROKEN)], f"{LIST}: A list or forwarder that changes mail: ask it"),
        ([(FORWARDER, 3, BROKEN)], f"{FORWARDER}: A forwarder of mail.yml"),
        ([(STRANGER, 9, FAIL)], f"{STRANGER}: If it is yours, add it to dns.spf, or to inbound.trusted"),
        ([(STRANGER, 9, FOREIGN)], f"{STRANGER}: If news.example sends for you, have it sign as example.org."),
    ],
)
def test_mail_that_fails_has_a_next_step(server: Server, rows: list[Row], step: str, policy: str) -> None:
    """Whatever the policy: with reject, such mail is lost today."""
    server.report((OURS, 40, PASS), *rows, days_ago=29)
    server.report((OURS, 1, PASS))
    conclusion = conclude_dmarc(server.find_domain(), policy)
    assert len(conclusion.steps) == 1
    assert step in conclusion.steps[0]


def test_what_failures_cost_under_a_policy_is_told(server: Server) -> None:
    server.report((OURS, 4, PASS), (OURS, 1, FAIL))
    endings = {policy: conclude_dmarc(server.find_domain(), policy).sentence for policy in ("quarantine", "reject")}
    assert endings["quarantine"].endswith(". Receivers put them into Junk: mend that, also before reject.")
    assert endings["reject"].endswith(". Receivers refuse them: mend that now.")


def test_each_cause_has_one_step_and_the_largest_comes_first(server: Server) -> None:
    rows = [(f"192.0.2.{number}", number, FAIL) for number in range(1, 9)]
    server.report((OURS, 4, PASS), *rows, ("192.0.2.50", 30, FOREIGN))
    steps = conclude_dmarc(server.find_domain(), "reject").steps
    assert [step.split(":")[0] for step in steps] == ["192.0.2.50", "192.0.2.8"]


def test_where_all_passed_no_step_is_named(server: Server) -> None:
    server.report((OURS, 4, PASS), (LIST, 3, KEPT))
    assert conclude_dmarc(server.find_domain(), "reject").steps == ()


def test_few_days_are_too_few(server: Server) -> None:
    server.report((OURS, 412, PASS), days_ago=4)
    server.report((OURS, 1, PASS))
    conclusion = conclude_dmarc(server.find_domain(), "quarantine")
    assert conclusion.state == "early"
    assert conclusion.sentence == "For 4 days all of your 413 messages passed. Wait until reports cover 14 days."


def test_nothing_is_concluded_of_silence(server: Server) -> None:
    assert merge_summaries([server.summarise()]) == []
    server.report_tls(TlsRow("example.org", "sts", "", 3))
    assert conclude_dmarc(server.find_domain(), "none").state == "unknown"


def test_with_reject_forgeries_are_no_reproach(server: Server) -> None:
    server.report((OURS, 4, PASS), (STRANGER, 9, FAIL), days_ago=29)
    conclusion = conclude_dmarc(server.find_domain(), "reject")
    assert conclusion.state == "right"
    assert conclusion.sentence.endswith("9 messages of unknown sources failed: reject keeps them out.")


def test_sources_are_named_as_what_they_are(server: Server) -> None:
    server.report((OURS, 4, PASS), (SHOP, 1, SPF_PASS), (LIST, 1, KEPT), (STRANGER, 2, FAIL), (LIST, 1, BROKEN))
    sources = {source.address: source for source in server.find_domain().sources}
    kinds = {address: source.kind for address, source in sources.items()}
    assert kinds == {OURS: "own", SHOP: "spf", LIST: "signed", STRANGER: "unknown"}
    assert (sources[LIST].passed, sources[LIST].failed, sources[LIST].changed) == (1, 1, 1)
    assert sources[LIST].causes == {"signed as your domain, but changed on the way, as mailing lists do": 1}


def test_only_the_asked_time_and_domain_count(server: Server) -> None:
    server.report((OURS, 4, PASS), days_ago=20)
    server.report((OURS, 1, PASS), domain="example.com")
    assert [entry["domain"] for entry in server.summarise(days=10)["domains"]] == ["example.com"]
    assert [entry["domain"] for entry in server.summarise("example.org")["domains"]] == ["example.org"]


def test_many_sources_are_one_sum_beyond_the_bound(server: Server) -> None:
    for part in range(3):
        rows = [(f"10.{part}.{number}.1", 1, FAIL) for number in range(100)]
        server.report(*rows, sender=f"r{part}.example")
    [domain] = server.summarise()["domains"]
    assert len(domain["sources"]) == MAX_SOURCES + 1
    assert domain["sources"][-1]["others"] == 300 - MAX_SOURCES
    assert server.find_domain().messages == 300


def test_a_forgers_numbers_push_no_other_source_out(server: Server) -> None:
    for part in range(5):
        rows = [(f"10.{part}.{number}.1", 10**9, FAIL) for number in range(100)]
        server.report(*rows, sender="forger.example")
    for sender in ("google.example", "yahoo.example"):
        server.report((STRANGER, 2, FAIL), (OURS, 1, PASS), sender=sender)
    [domain] = server.summarise()["domains"]
    assert [source["source"] for source in domain["sources"][:2]] == [OURS, STRANGER]
    assert [source["senders"] for source in domain["sources"][:3]] == [2, 2, 1]
    assert domain["messages"] == 500 * 10**9 + 6


def test_servers_are_added_up(tmp_path: Path) -> None:
    first, second = Server(tmp_path / "a.db"), Server(tmp_path / "b.db")
    first.report((OURS, 4, PASS), (STRANGER, 1, FAIL), days_ago=20)
    second.report((OURS, 6, PASS))
    with second.store.transaction():
        second.store.count_outcome(OVER_BOUND, NOW, 3)
    summaries = [first.summarise(), second.summarise()]
    [reports] = merge_summaries(summaries)
    assert (reports.messages, reports.passed, reports.reports, reports.span_days) == (11, 10, 2, 20)
    assert reports.reporters == {("Google", "google.example"): 2}
    assert merge_outcomes(summaries) == {OVER_BOUND: 3}


def test_tls_sessions_lead_to_enforce_or_name_the_fault(server: Server) -> None:
    server.report_tls(TlsRow("example.org", "sts", "", 40), days_ago=20)
    server.report_tls(TlsRow("example.org", "sts", "", 2))
    reports = server.find_domain()
    [sessions] = reports.tls
    ready = conclude_tls(sessions, reports.span_days, "testing")
    assert ready.sentence == "For 20 days all of 42 TLS sessions succeeded: go to dns.mta_sts: enforce."
    assert conclude_tls(sessions, reports.span_days, "enforce").state == "right"
    assert conclude_tls(sessions, 3, "testing").state == "early"
    server.report_tls(TlsRow("example.org", "sts", "certificate-expired", 3))
    [sessions] = server.find_domain().tls
    failing = conclude_tls(sessions, 20, "enforce")
    assert failing.sentence == "3 of 45 TLS sessions failed: the certificate has expired (MTA-STS). Their mail waits."


def test_the_check_of_the_dns_says_which_policy_the_rows_support(server: Server) -> None:
    settings = make_settings("example.org", "example.com", dmarc="none")
    server.report((OURS, 4, PASS), days_ago=29)
    server.report((OURS, 4, PASS))
    [finding] = judge_reports(settings, merge_summaries([server.summarise()]))
    assert (finding.level, finding.name, finding.observed) == ("instruction", "_dmarc.example.org", "none")
    assert "all of your 8 messages passed: go to reject" in finding.problem
    assert finding.advice == "Wait for example.com"
    for days_ago in (29, 1):
        server.report((OURS, 4, PASS), domain="example.com", days_ago=days_ago)
    findings = list(judge_reports(settings, merge_summaries([server.summarise()])))
    assert {finding.advice for finding in findings} == {"Set dns.dmarc: reject, and publish the record"}
    server.report((OURS, 1, FAIL), domain="example.com")
    findings = list(judge_reports(settings, merge_summaries([server.summarise()])))
    levels = {finding.name: finding.level for finding in findings}
    assert levels == {"_dmarc.example.com": "warning", "_dmarc.example.org": "instruction"}
    assert f"{OURS}: `mailkeep dns NAME --check` compares" in findings[0].advice


def test_with_reject_only_faults_are_findings(server: Server) -> None:
    settings = make_settings("example.org", dmarc="reject", mta_sts="testing")
    server.report((OURS, 4, PASS), (STRANGER, 9, FAIL), days_ago=29)
    server.report((OURS, 4, PASS), domain="mail.example.org")
    assert list(judge_reports(settings, merge_summaries([server.summarise()]))) == []
    assert find_policy(settings, "mail.example.org") == "reject"
    server.report_tls(TlsRow("example.org", "sts", "certificate-expired", 3))
    server.report_tls(TlsRow("example.org", "no-policy-found", "starttls-not-supported", 3))
    [finding] = judge_reports(settings, merge_summaries([server.summarise()]))
    assert (finding.level, finding.type) == ("warning", "TLS")


def test_the_listing_on_the_server_has_each_source_on_a_line(server: Server) -> None:
    server.report((OURS, 4, PASS), (STRANGER, 9, FAIL))
    server.report_tls(TlsRow("example.org", "sts", "certificate-expired", 3))
    with server.store.transaction():
        server.store.count_outcome("unreadable", NOW, 2)
    lines = list(format_summary(server.summarise()))
    assert lines[0] == "example.org: 4 of 13 messages passed, in 2 reports"
    assert f"{STRANGER:40} unknown" in lines[2]
    assert lines[3] == "  TLS, MTA-STS: 0 sessions succeeded, 3 failed  the certificate has expired (MTA-STS) (3)"
    assert lines[4:] == ["2 reports not counted: unreadable", "1 domain with reports."]
