"""A new source that fails is told within a day, once, and when it is over; and forged reports cannot flood anybody."""

import json
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from report_samples import BEGIN, END, NOW, OURS
from store_samples import open_new_store

from mailkeep_server.reports.announcements import (
    MAX_DOMAINS_A_DAY,
    MAX_FAILURES,
    MAX_KEPT,
    announce_failures,
    list_failures,
    note_failures,
    write_announcements,
)
from mailkeep_server.reports.config import ReportsConfig
from mailkeep_server.reports.dmarc_report import DmarcReport, DmarcRow
from mailkeep_server.reports.store import DAY, ReportStore
from mailkeep_server.reports.tls_report import TlsReport, TlsRow

CONFIG = ReportsConfig(
    "postmaster@mail.example.org",
    ("example.org", *(f"d{number}.example" for number in range(20))),
    {"own": (ip_network(OURS),), "spf": (ip_network("198.51.100.0/24"),)},
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReportStore]:
    with open_new_store(tmp_path, CONFIG) as store:
        yield store


def tell(
    store: ReportStore, report: DmarcReport | TlsReport | None, now: float, sender: str = "example.net"
) -> list[str]:
    """What one run of the reader announces."""
    if report:
        note_failures(store.database, list_failures(report, sender, CONFIG), now)
    return list(announce_failures(store.database, now))


def make_report(*sources: str, domain: str = "example.org", passed: bool = False) -> DmarcReport:
    report = DmarcReport("\u202eReceiver", "id", BEGIN, END, domain, "none")
    for source in sources:
        signatures = (("news.example", "pass"),)
        report.rows[DmarcRow(source, domain, passed, False, "none", signatures)] = 7
    return report


def test_a_new_source_is_told_once_and_when_it_is_over(store: ReportStore) -> None:
    [text] = tell(store, make_report("192.0.2.66"), NOW)
    assert text == (
        "example.org: mail failed DMARC from a new source: 192.0.2.66 (7 messages, as example.net says: signed as "
        "news.example, not as your domain). `mailkeep reports` says more"
    )
    for day in range(1, 10):
        assert tell(store, make_report("192.0.2.66"), NOW + day * DAY) == []
    assert tell(store, None, NOW + 15 * DAY) == []
    [over] = tell(store, None, NOW + 17 * DAY)
    assert over == "example.org: over: mail failed DMARC (192.0.2.0/24): no report of it for 7 days"
    assert tell(store, None, NOW + 30 * DAY) == []


def test_mail_that_passes_is_no_news(store: ReportStore) -> None:
    assert tell(store, make_report("192.0.2.66", OURS, passed=True), NOW) == []


def test_our_own_server_and_declared_senders_are_named_as_such(store: ReportStore) -> None:
    [text] = tell(store, make_report(OURS, "198.51.100.60"), NOW)
    assert f"{OURS}, this server, (7 messages" in text
    assert "198.51.100.60, a sender of dns.spf, (7 messages" in text


def test_a_neighbour_of_a_source_is_no_new_source(store: ReportStore) -> None:
    assert len(tell(store, make_report("192.0.2.66"), NOW)) == 1
    assert tell(store, make_report("192.0.2.67"), NOW + 2 * DAY) == []


@pytest.mark.slow
def test_a_flood_of_forged_reports_is_one_text_a_day_and_domain(store: ReportStore) -> None:
    for number in range(200):
        sources = [f"10.{number}.{row}.1" for row in range(50)]
        note_failures(store.database, list_failures(make_report(*sources), "forged.example", CONFIG), NOW)
    [text] = list(announce_failures(store.database, NOW))
    assert f"and {MAX_FAILURES - 3} more" in text
    assert len(text) < 900
    assert tell(store, make_report("192.0.2.66"), NOW + 3600) == [], "it waits for the next day"
    assert store.database.execute("SELECT count(*) FROM failures").fetchone() == (MAX_FAILURES,)


def test_what_waited_is_told_the_next_day(store: ReportStore) -> None:
    assert len(tell(store, make_report("192.0.2.66"), NOW)) == 1
    assert tell(store, make_report("203.0.113.99"), NOW + 3600) == []
    [text] = tell(store, None, NOW + 21 * 3600)
    assert "203.0.113.99" in text
    assert "192.0.2.66" not in text


def test_many_domains_are_told_in_turn(store: ReportStore) -> None:
    for number in range(20):
        report = make_report("192.0.2.66", domain=f"d{number}.example")
        note_failures(store.database, list_failures(report, "example.net", CONFIG), NOW)
    first = list(announce_failures(store.database, NOW))
    second = list(announce_failures(store.database, NOW + 3600))
    assert (len(first), second) == (MAX_DOMAINS_A_DAY, [])
    later = [text for day in range(1, 6) for text in announce_failures(store.database, NOW + day * DAY)]
    assert len({text.partition(":")[0] for text in (*first, *later)}) == 20


def test_a_tls_failure_is_told_by_policy_and_result(store: ReportStore) -> None:
    rows = [
        TlsRow("example.org", "sts", "", 40),
        TlsRow("example.org", "sts", "certificate-expired", 3),
        TlsRow("example.org", "no-policy-found", "starttls-not-supported", 3),
    ]
    [text] = tell(store, TlsReport("Sender", "id", BEGIN, END, rows), NOW)
    assert text == (
        "example.org: TLS to this server failed: the certificate has expired (MTA-STS): 3 sessions, as example.net "
        "says. `mailkeep reports` says more"
    )
    assert tell(store, TlsReport("Sender", "id2", BEGIN, END, rows), NOW + DAY) == []


def test_the_reporters_own_words_are_not_in_it(store: ReportStore) -> None:
    report = make_report("192.0.2.66")
    report.reporter = "Your bank: call 555"
    [text] = tell(store, report, NOW, sender="")
    assert "bank" not in text
    assert "as a sender without a name says" in text


def test_announcements_are_numbered_and_few(tmp_path: Path) -> None:
    file = tmp_path / "announcements.json"
    write_announcements(file, [], NOW)
    assert not file.exists()
    write_announcements(file, [f"text {number}" for number in range(30)], NOW)
    content = json.loads(file.read_text())
    assert len(content["announcements"]) == MAX_KEPT
    assert content["announcements"][-1] == {"id": content["last"], "time": NOW, "text": "text 29"}
    file.write_text("{spoilt")
    write_announcements(file, ["again"], NOW + 60)
    assert json.loads(file.read_text())["last"] > content["last"], "the watch must not take it for an old one"
