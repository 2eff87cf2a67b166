"""From a message to the reports in it."""

from collections.abc import Iterator
from dataclasses import dataclass

from mailkeep_server.reports.dmarc_report import DmarcReport, parse_dmarc_report
from mailkeep_server.reports.message_parts import MAX_MESSAGE, list_leaves, read_headers, read_sender_domain
from mailkeep_server.reports.report_text import ReportError
from mailkeep_server.reports.tls_report import TlsReport, parse_tls_report
from mailkeep_server.reports.unpack import GZIP, ZIP, unpack_report

MAX_REPORTS = 5
"""In one message. RFC 7489 section 7.2.1.1 has one."""
_XML_STARTS = (b"<", b"\xef\xbb\xbf<", b"\xff\xfe<", b"\xfe\xff\x00<")
_JSON_STARTS = (b"{", b"\xef\xbb\xbf{")
_HTML_STARTS = (b"<html", b"<!doctype html", b"<div", b"<p", b"<head", b"<body", b"<meta")


@dataclass(frozen=True, slots=True)
class ReportMail:
    """What one message holds. `faults` are of what looked like a report and could not be read. Ordinary mail has
    neither."""

    sender: str
    reports: list[DmarcReport | TlsReport]
    faults: list[str]


def read_report_mail(message: bytes) -> ReportMail:
    """Raises nothing, whatever the bytes."""
    if len(message) > MAX_MESSAGE:
        return ReportMail("", [], [f"it has more than {MAX_MESSAGE // 2**20} MB"])
    headers, _ = read_headers(message)
    mail = ReportMail(read_sender_domain(headers), [], [])
    for candidate in _list_candidates(message):
        try:
            mail.reports.append(_parse_report(candidate))
        except ReportError as error:
            mail.faults.append(str(error))
        if len(mail.reports) + len(mail.faults) >= MAX_REPORTS:
            break
    return mail


def _list_candidates(message: bytes) -> Iterator[bytes]:
    """The leaves that begin as a report does. Names and types do not matter."""
    for leaf in list_leaves(message):
        content = leaf.lstrip(b" \t\r\n")
        if content.startswith((GZIP, ZIP, *_XML_STARTS, *_JSON_STARTS)) and not _is_html(content):
            yield content


def _is_html(content: bytes) -> bool:
    return content[:20].lower().startswith(_HTML_STARTS)


def _parse_report(content: bytes) -> DmarcReport | TlsReport:
    """Raises ReportError."""
    text = unpack_report(content).lstrip(b" \t\r\n")
    if text.startswith(_JSON_STARTS):
        return parse_tls_report(text)
    if text.startswith(_XML_STARTS):
        return parse_dmarc_report(text)
    raise ReportError("it is neither XML nor JSON")
