"""Rows are kept of our domains only, once, for a while; and no sender fills the database for the others."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from report_samples import BEGIN, END, NOW, OURS
from store_samples import count_rows, open_new_store

from mailkeep_server.common.report_days import KEPT_DAYS
from mailkeep_server.reports.config import ReportsConfig
from mailkeep_server.reports.dmarc_report import DmarcReport, DmarcRow
from mailkeep_server.reports.store import (
    ALL_BOUNDS,
    DAY,
    NEWCOMER_BOUNDS,
    OTHER_DOMAIN,
    OUT_OF_TIME,
    OVER_BOUND,
    READ,
    REPEATED,
    SENDER_BOUNDS,
    ReportStore,
)
from mailkeep_server.reports.tls_report import TlsReport, TlsRow

CONFIG = ReportsConfig("postmaster@mail.example.org", ("example.org", "mail.example.org"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReportStore]:
    with open_new_store(tmp_path, CONFIG) as store:
        yield store


def make_report(number: int = 1, rows: int = 1, domain: str = "example.org", day: int = 0) -> DmarcReport:
    begin, end = BEGIN + day * DAY, END + day * DAY
    report = DmarcReport("Receiver", f"id-{number}", begin, end, domain, "none")
    for row in range(rows):
        report.rows[DmarcRow(f"198.51.{row // 256}.{row % 256}", domain, dkim=True, spf=False, disposition="none")] = 3
    return report


def test_a_report_counts_once(store: ReportStore) -> None:
    assert store.add_report("example.net", make_report(), NOW) == READ
    assert store.add_report("example.net", make_report(), NOW + 60) == REPEATED
    assert store.add_report("example.net", make_report(2), NOW) == READ
    assert count_rows(store) == {"reports": 2, "dmarc_rows": 2, "tls_rows": 0}


def test_rows_of_other_domains_are_not_kept(store: ReportStore) -> None:
    assert store.add_report("example.net", make_report(domain="example.com"), NOW) == OTHER_DOMAIN
    assert store.add_report("example.net", make_report(domain="badexample.org"), NOW) == OTHER_DOMAIN
    mixed = make_report()
    mixed.rows[DmarcRow(OURS, "example.com", dkim=True, spf=True, disposition="none")] = 1
    mixed.rows[DmarcRow(OURS, "news.example.org", dkim=True, spf=True, disposition="none")] = 1
    assert store.add_report("example.net", mixed, NOW) == READ
    assert count_rows(store)["dmarc_rows"] == 2
    domains = store.database.execute("SELECT DISTINCT domain FROM dmarc_rows").fetchall()
    assert domains == [("example.org",)]


def test_a_report_about_the_past_or_the_future_is_not_kept(store: ReportStore) -> None:
    for day in (-40, 5):
        assert store.add_report("example.net", make_report(day=day), NOW) == OUT_OF_TIME
    endless = make_report()
    endless.begin -= 30 * DAY
    assert store.add_report("example.net", endless, NOW) == OUT_OF_TIME
    backwards = make_report()
    backwards.begin, backwards.end = backwards.end, backwards.begin
    assert store.add_report("example.net", backwards, NOW) == OUT_OF_TIME


def test_huge_times_are_no_error(store: ReportStore) -> None:
    report = make_report()
    report.begin, report.end = -(10**17), 10**17
    assert store.add_report("example.net", report, NOW) == OUT_OF_TIME


def test_one_sender_does_not_drown_the_others(store: ReportStore) -> None:
    outcomes = [store.add_report("flood.example", make_report(number), NOW) for number in range(300)]
    assert outcomes.count(READ) == SENDER_BOUNDS.reports
    assert set(outcomes) == {READ, OVER_BOUND}
    wide = [store.add_report("wide.example", make_report(number, rows=200), NOW) for number in range(5)]
    assert wide.count(READ) == SENDER_BOUNDS.rows // 200
    assert store.add_report("example.net", make_report(), NOW) == READ


@pytest.mark.slow
def test_ten_thousand_reports_of_strangers_leave_room_for_known_receivers(store: ReportStore) -> None:
    assert store.add_report("google.example", make_report(day=-2), NOW - 2 * DAY) == READ
    outcomes = [store.add_report(f"s{number}.example", make_report(number), NOW) for number in range(10_000)]
    assert outcomes.count(READ) == NEWCOMER_BOUNDS.reports
    assert store.add_report("google.example", make_report(2), NOW) == READ, "it has reported on an earlier day"
    assert count_rows(store)["dmarc_rows"] <= ALL_BOUNDS.rows
    assert store.add_report("new.example", make_report(1, day=1), NOW + DAY + 60) == READ, "the next day has room"


@pytest.mark.slow
def test_a_day_is_bounded_whoever_sends(store: ReportStore) -> None:
    for number in range(30):
        assert store.add_report(f"r{number}.example", make_report(day=-2), NOW - 2 * DAY) == READ
    outcomes = [
        store.add_report(f"r{sender}.example", make_report(number), NOW) for sender in range(30) for number in range(90)
    ]
    assert outcomes.count(READ) == ALL_BOUNDS.reports


def test_old_rows_are_forgotten(store: ReportStore) -> None:
    tls = TlsReport("Sender", "id", BEGIN, END, [TlsRow("example.org", "sts", "", 4)])
    assert store.add_report("example.net", make_report(), NOW) == READ
    assert store.add_report("example.net", tls, NOW) == READ
    store.count_outcome(READ, NOW, 2)
    store.forget_expired(NOW + (KEPT_DAYS - 1) * DAY)
    assert count_rows(store) == {"reports": 2, "dmarc_rows": 1, "tls_rows": 1}
    store.forget_expired(NOW + (KEPT_DAYS + 2) * DAY)
    assert count_rows(store) == {"reports": 0, "dmarc_rows": 0, "tls_rows": 0}
    assert store.database.execute("SELECT count(*) FROM outcomes").fetchone() == (0,)
