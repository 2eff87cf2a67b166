"""What the operator is told of reports: a source that begins to fail, a TLS failure, and the end of each.

A report is a claim that anybody can make. So a domain has at most one announcement a day of a kind, which names at most
MAX_NAMED failures and counts the others. It consists of addresses and domains, never of the reporter's own words.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.networks import network_of
from mailkeep_server.common.wording import count_noun
from mailkeep_server.reports.config import ReportsConfig
from mailkeep_server.reports.dmarc_report import DmarcReport, DmarcRow
from mailkeep_server.reports.explain import explain_dmarc_failure, explain_tls_failure
from mailkeep_server.reports.store import DAY
from mailkeep_server.reports.tls_report import TlsReport

OVER_AFTER = 7 * DAY
"""Without a report of the failure. Reporters send one a day, some late."""
MIN_PAUSE = 20 * 3600
"""Seconds between two announcements of one domain and kind: the timer of the reader is no clock."""
MAX_NAMED = 3
MAX_FAILURES = 2000
"""That are remembered. Beyond, new ones are rows alone."""
MAX_DOMAINS_A_DAY = 5
MAX_KEPT = 20
"""Announcements in the file. The watch reads each within seconds."""

_SUBJECTS = {"dmarc": "mail failed DMARC", "tls": "TLS to this server failed"}
_KINDS = {"own": "this server", "spf": "a sender of dns.spf", "forwarder": "a forwarder"}


@dataclass(frozen=True, slots=True)
class Failure:
    """`subject` is what is new: the network of a source, or a policy and a result of TLS."""

    kind: str
    domain: str
    subject: str
    description: str


def list_failures(report: DmarcReport | TlsReport, sender: str, config: ReportsConfig) -> Iterator[Failure]:
    """Those of our domains."""
    if isinstance(report, TlsReport):
        for tls_row in report.rows:
            domain = config.find_domain(tls_row.domain)
            if domain and tls_row.result and tls_row.sessions and tls_row.policy != "no-policy-found":
                cause = explain_tls_failure(tls_row.policy, tls_row.result)
                sessions = count_noun(tls_row.sessions, "session")
                text = f"{cause}: {sessions}, as {sender or 'a sender without a name'} says"
                yield Failure("tls", domain, f"{tls_row.policy} {tls_row.result}", text)
        return
    for row, messages in report.rows.items():
        domain = config.find_domain(row.header_from or report.domain)
        if domain and messages and not (row.dkim or row.spf):
            yield Failure("dmarc", domain, network_of(row.source), _describe(row, domain, messages, sender, config))


def _describe(row: DmarcRow, domain: str, messages: int, sender: str, config: ReportsConfig) -> str:
    kind = _KINDS.get(config.find_kind(row.source), "")
    source = f"{row.source}, {kind}," if kind else row.source
    cause = explain_dmarc_failure(domain, row.signatures, row.spf_checks, row.reason)
    claim = f"as {sender or 'a sender without a name'} says"
    return f"{source} ({count_noun(messages, 'message')}, {claim}: {cause})"


def note_failures(database: sqlite3.Connection, failures: Iterator[Failure], now: float) -> None:
    """Remembers each: new, or seen again. Raises sqlite3.Error."""
    [number] = database.execute("SELECT count(*) FROM failures").fetchone()
    for failure in failures:
        key = (failure.kind, failure.domain, failure.subject)
        update = "UPDATE failures SET last = ? WHERE kind = ? AND domain = ? AND subject = ?"
        if database.execute(update, (int(now), *key)).rowcount == 0 and number < MAX_FAILURES:
            number += 1
            database.execute("INSERT INTO failures VALUES (?, ?, ?, ?, ?, 0)", (*key, failure.description, int(now)))


def announce_failures(database: sqlite3.Connection, now: float) -> Iterator[str]:
    """The announcements that are due, a sentence each. Raises sqlite3.Error."""
    groups = database.execute(
        "SELECT kind, domain, max(announced) FROM failures GROUP BY kind, domain ORDER BY min(announced), kind, domain"
    ).fetchall()
    [recent] = database.execute(
        "SELECT count(*) FROM (SELECT 1 FROM failures WHERE announced > ? GROUP BY kind, domain)", (now - MIN_PAUSE,)
    ).fetchone()
    for kind, domain, last_announcement in groups:
        yield from _announce_ends(database, kind, domain, now)
        if now - last_announcement >= MIN_PAUSE and recent < MAX_DOMAINS_A_DAY:
            sentences = list(_announce_new(database, kind, domain, now))
            recent += len(sentences)
            yield from sentences


def _announce_new(database: sqlite3.Connection, kind: str, domain: str, now: float) -> Iterator[str]:
    condition = "kind = ? AND domain = ? AND announced = 0"
    [number] = database.execute(f"SELECT count(*) FROM failures WHERE {condition}", (kind, domain)).fetchone()  # noqa: S608
    if not number:
        return
    select = f"SELECT description FROM failures WHERE {condition} ORDER BY subject LIMIT {MAX_NAMED}"  # noqa: S608
    texts = [text for (text,) in database.execute(select, (kind, domain))]
    database.execute(f"UPDATE failures SET announced = ? WHERE {condition}", (int(now), kind, domain))  # noqa: S608
    subject = f"{_SUBJECTS[kind]} from a new source" if kind == "dmarc" else _SUBJECTS[kind]
    more = f"; and {number - len(texts)} more" if number > len(texts) else ""
    yield f"{domain}: {subject}: {'; '.join(texts)}{more}. `mailkeep reports` says more"


def _announce_ends(database: sqlite3.Connection, kind: str, domain: str, now: float) -> Iterator[str]:
    """Failures that no report has named for OVER_AFTER are over. Those that were never announced end in silence."""
    condition = "kind = ? AND domain = ? AND last < ?"
    values = (kind, domain, int(now) - OVER_AFTER)
    select = f"SELECT subject FROM failures WHERE {condition} AND announced > 0 ORDER BY subject"  # noqa: S608
    subjects = [subject for (subject,) in database.execute(select, values)]
    database.execute(f"DELETE FROM failures WHERE {condition}", values)  # noqa: S608
    if subjects:
        more = f" and {len(subjects) - MAX_NAMED} more" if len(subjects) > MAX_NAMED else ""
        names = ", ".join(subjects[:MAX_NAMED])
        yield f"{domain}: over: {_SUBJECTS[kind]} ({names}{more}): no report of it for {OVER_AFTER // DAY} days"


def write_announcements(file: Path, sentences: list[str], now: float) -> None:
    """Adds them for the watch, which remembers the number of the last. Raises OSError."""
    if not sentences:
        return
    try:
        former = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):  # a spoilt one begins anew, above any number that the watch remembers
        former = {"last": int(now), "announcements": []}
    last, entries = int(former["last"]), former["announcements"]
    for sentence in sentences:
        last += 1
        entries.append({"id": last, "time": int(now), "text": sentence})
    atomic_write(file, json.dumps({"last": last, "announcements": entries[-MAX_KEPT:]}, indent=1) + "\n")
