"""Reports are read in the shapes in which receivers send them."""

import pytest
from report_samples import (
    BEGIN,
    DMARC_SAMPLES,
    GOOGLE_TLS,
    MAILRU_TLS,
    OURS,
    PASSED_DKIM,
    Sample,
    compose_body_report,
    compose_record,
    compose_xml,
)

from mailkeep_server.reports.dmarc_report import DmarcReport
from mailkeep_server.reports.report_mail import read_report_mail
from mailkeep_server.reports.tls_report import TlsReport


@pytest.mark.parametrize("reporter", DMARC_SAMPLES)
def test_each_reporters_shape_is_read(reporter: str) -> None:
    sample: Sample = DMARC_SAMPLES[reporter]
    mail = read_report_mail(sample.message)
    assert (mail.faults, mail.sender) == ([], sample.sender)
    [report] = mail.reports
    assert isinstance(report, DmarcReport)
    assert (report.reporter, report.domain, report.begin, report.unread_rows) == (
        sample.reporter,
        "example.org",
        BEGIN,
        0,
    )
    rows = tuple((row.source, messages, row.dkim, row.spf) for row, messages in report.rows.items())
    assert rows == sample.rows
    assert {row.header_from for row in report.rows} == {"example.org"}


def test_every_signature_and_check_is_kept_with_its_domain() -> None:
    [report] = read_report_mail(DMARC_SAMPLES["Amazon SES"].message).reports
    assert isinstance(report, DmarcReport)
    [row] = report.rows
    assert row.signatures == (("amazonses.example", "pass"), ("example.org", "pass"))
    assert row.spf_checks == (("us-west-2.amazonses.example", "pass"),)


@pytest.mark.parametrize("message", [GOOGLE_TLS, MAILRU_TLS], ids=["Google", "Mail.ru"])
def test_tls_reports_are_read(message: bytes) -> None:
    mail = read_report_mail(message)
    assert mail.faults == []
    [report] = mail.reports
    assert isinstance(report, TlsReport)
    assert (report.begin, report.unread_rows) == (BEGIN, 0)
    failures = [(row.result, row.sessions, row.detail) for row in report.rows if row.result]
    if message is MAILRU_TLS:
        fetch_error = "sts-policy-fetch-error"
        assert failures == [
            (fetch_error, 1, "bad https response code: 404"),
            (fetch_error, 1, "bad https response code: 500"),
        ]
    else:
        assert failures == []
        assert [(row.policy, row.sessions) for row in report.rows] == [("sts", 12)]


def test_rows_that_say_the_same_are_one() -> None:
    record = compose_record(OURS, 4, "pass", "fail", PASSED_DKIM)
    [report] = read_report_mail(b"\n" + compose_xml("example.net", "1", record, record)).reports
    assert isinstance(report, DmarcReport)
    assert list(report.rows.values()) == [8]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "windows-1252", "us-ascii"])
def test_other_charsets_are_read(encoding: str) -> None:
    text = compose_xml("Bücher" if encoding != "us-ascii" else "Books").decode()
    [report] = read_report_mail(b"\n" + text.replace("UTF-8", encoding).encode(encoding)).reports
    assert report.reporter in ("Bücher", "Books")


@pytest.mark.parametrize("declared", ["UTF-8", "utf-8-sig-none", "x-mac-none", "shift_jis", "UTF-16"])
def test_a_wrong_charset_costs_a_letter_and_no_report(declared: str) -> None:
    text = compose_xml("B\xfccher").decode("utf-8").replace("UTF-8", declared).encode("latin-1")
    mail = read_report_mail(compose_body_report("a@example.net", text, "text/xml"))
    assert mail.faults == []
    assert [report.reporter for report in mail.reports] == ["B\ufffdcher"]


@pytest.mark.parametrize(
    "message",
    [
        b"Subject: lunch\n\nAt noon? {or later}\n",
        b"Subject: x\nContent-Type: text/html\n\n<html><body>Hello</body></html>",
        b"Subject: x\nContent-Type: text/html\n\n  <!DOCTYPE html><p>Hello",
        b"",
        b"\n",
        b"no headers at all",
    ],
)
def test_other_mail_is_no_report_and_no_fault(message: bytes) -> None:
    mail = read_report_mail(message)
    assert (mail.reports, mail.faults) == ([], [])
