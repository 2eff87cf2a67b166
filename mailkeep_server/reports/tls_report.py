"""A TLS report: JSON as in RFC 8460 section 4.4, about how other servers' connections to ours were encrypted."""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mailkeep_server.reports.report_text import ReportError, clean_domain, clean_text, read_count

MAX_TEXT = 2**20
"""Bytes. Values of JSON take up to thirty times as much memory as their text."""
MAX_POLICIES = 20
MAX_FAILURES = 50
UNKNOWN = "unknown"
_RESULT = re.compile(r"[a-z-]{1,40}")
"""RFC 8460 section 4.3 has a registry of results, which grows."""
POLICIES = frozenset(("sts", "tlsa", "no-policy-found"))


@dataclass(frozen=True, slots=True)
class TlsRow:
    """Sessions under one policy with one `result`; "" means success. `server` is ours, `detail` the sender's text."""

    domain: str
    policy: str
    result: str
    sessions: int
    server: str = ""
    detail: str = ""


@dataclass(slots=True)
class TlsReport:
    """Times in seconds since the epoch. `unread_rows` were malformed, or beyond the bound."""

    reporter: str
    report_id: str
    begin: int
    end: int
    rows: list[TlsRow] = field(default_factory=list)
    unread_rows: int = 0


def parse_tls_report(text: bytes) -> TlsReport:
    """Raises ReportError."""
    if len(text) > MAX_TEXT:
        raise ReportError(f"its JSON is longer than {MAX_TEXT // 2**20} MB")
    try:
        content = json.loads(text.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        raise ReportError("its JSON is malformed") from None
    if not isinstance(content, dict) or not isinstance(content.get("policies"), list):
        raise ReportError("it is JSON, but no report")
    times = _get_table(content, "date-range")
    report = TlsReport(
        reporter=clean_text(content.get("organization-name") or ""),
        report_id=clean_text(content.get("report-id") or "", 200),
        begin=_read_time(times.get("start-datetime")),
        end=_read_time(times.get("end-datetime")),
    )
    for policy in content["policies"][:MAX_POLICIES]:
        _add_policy(report, policy)
    report.unread_rows += len(content["policies"][MAX_POLICIES:])
    if not report.rows:
        raise ReportError("it says nothing of any domain")
    return report


def _add_policy(report: TlsReport, entry: Any) -> None:
    """A malformed entry counts as one row that was not read."""
    try:
        policy, summary = _get_table(entry, "policy"), _get_table(entry, "summary")
        domain, kind = clean_domain(policy.get("policy-domain", "")), str(policy.get("policy-type", "")).lower()
        if not domain or kind not in POLICIES:
            raise ReportError("a policy without a domain or a known type")
        succeeded = read_count(summary.get("total-successful-session-count", 0))
        failed = read_count(summary.get("total-failure-session-count", 0))
    except ReportError:
        report.unread_rows += 1
        return
    report.rows.append(TlsRow(domain, kind, "", succeeded))
    details = entry.get("failure-details") if isinstance(entry.get("failure-details"), list) else []
    rows = [row for detail in details[:MAX_FAILURES] if (row := _read_failure(domain, kind, detail))]
    report.unread_rows += len(details) - len(rows)
    if failed and not rows:  # RFC 8460 section 4.4: details are optional
        rows = [TlsRow(domain, kind, UNKNOWN, failed)]
    report.rows += rows


def _read_failure(domain: str, kind: str, detail: Any) -> TlsRow | None:
    if not isinstance(detail, dict):
        return None
    try:
        sessions = read_count(detail.get("failed-session-count", 0))
    except ReportError:
        return None
    server = clean_domain(detail.get("receiving-mx-hostname") or "")
    result = str(detail.get("result-type"))
    result = result if _RESULT.fullmatch(result) else UNKNOWN
    return TlsRow(domain, kind, result, sessions, server, clean_text(detail.get("failure-reason-code") or ""))


def _get_table(content: Any, name: str) -> dict[str, Any]:
    """Raises ReportError if it is no table."""
    table = content.get(name, {}) if isinstance(content, dict) else None
    if not isinstance(table, dict):
        raise ReportError(f"{name} is no table")
    return table


def _read_time(text: object) -> int:
    """RFC 3339. Raises ReportError."""
    try:
        moment = datetime.fromisoformat(str(text)[:40])
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise ReportError("its times are none") from None
