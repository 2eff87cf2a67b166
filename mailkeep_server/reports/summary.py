"""The rows of reports as `mailkeepctl reports` gives them: by domain and source, with what failed and why."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from mailkeep_server.reports.config import ReportsConfig
from mailkeep_server.reports.explain import (
    explain_dmarc_failure,
    explain_tls_failure,
    has_broken_signature,
    parse_pairs,
)
from mailkeep_server.reports.store import COMPLAINT, DAY, READ

MAX_SOURCES = 100
"""Of one domain. The others are one sum."""
MAX_WEIGHED_SENDERS = 5
"""Who has as many names to forge reports in may have more."""
MAX_REPORTERS = 50
MAX_CAUSES = 5
SUMS = ("messages", "passed", "refused", "junked", "changed")
"""Of a source. `changed` messages failed, and had a signature of the domain that did not verify."""


def summarise_reports(database_file: Path, config: ReportsConfig, since: float, domain: str = "") -> dict[str, Any]:
    """Reports whose time ended after `since`, about `domain` or all. Raises sqlite3.Error.

    `domains` has for each of ours that a report names: `reports`, `days` (with reports), `first` and `last` (seconds
    since the epoch), `messages`, `passed`, `reporters`, `sources` and `tls`. `outcomes` counts what was not read.
    """
    empty = {"address": config.address, "since": int(since), "outcomes": {}, "domains": []}
    if not database_file.exists():
        return empty
    with closing(sqlite3.connect(f"file:{database_file}?mode=ro", uri=True, timeout=30)) as database:
        outcomes = database.execute(
            "SELECT outcome, sum(number) FROM outcomes WHERE day >= ? AND outcome NOT IN (?, ?) GROUP BY outcome",
            (int(since) // DAY, READ, COMPLAINT),
        )
        names = [name for name in sorted(config.domains) if domain in ("", name)]
        summaries = [_summarise_domain(database, name, config, since) for name in names]
        named = [summary for summary in summaries if summary["reports"]]
        return {**empty, "outcomes": dict(outcomes), "domains": named}


def _summarise_domain(database: sqlite3.Connection, domain: str, config: ReportsConfig, since: float) -> dict[str, Any]:
    values = {"domain": domain, "since": int(since)}
    reports = database.execute(
        "SELECT reporter, sender, begin, end FROM reports WHERE end >= :since AND (id IN (SELECT report FROM dmarc_rows"
        " WHERE domain = :domain) OR id IN (SELECT report FROM tls_rows WHERE domain = :domain))",
        values,
    ).fetchall()
    reporters = Counter((reporter, sender) for reporter, sender, _, _ in reports)
    sources = _bound_sources(_list_sources(database, domain, config, values))
    return {
        "domain": domain,
        "reports": len(reports),
        "days": len({end // DAY for _, _, _, end in reports}),
        "first": min((begin for _, _, begin, _ in reports), default=0),
        "last": max((end for _, _, _, end in reports), default=0),
        "messages": sum(source["messages"] for source in sources),
        "passed": sum(source["passed"] for source in sources),
        "reporters": [
            {"name": name, "sender": sender, "reports": number}
            for (name, sender), number in reporters.most_common(MAX_REPORTERS)
        ],
        "sources": sources,
        "tls": _summarise_tls(database, values),
    }


def _list_sources(
    database: sqlite3.Connection, domain: str, config: ReportsConfig, values: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    rows = database.execute(
        "SELECT source, sender, dkim, spf, disposition, signatures, spf_checks, reason, sum(messages), max(end)"
        " FROM dmarc_rows JOIN reports ON reports.id = dmarc_rows.report"
        " WHERE dmarc_rows.domain = :domain AND end >= :since GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1",
        values,
    )
    for source, of_source in groupby(rows, itemgetter(0)):
        yield _summarise_source(source, domain, config, of_source)


def _summarise_source(
    source: str, domain: str, config: ReportsConfig, rows: Iterable[tuple[Any, ...]]
) -> dict[str, Any]:
    sums, last = Counter[str](), 0
    causes, signers, senders = Counter[str](), Counter[str](), set[str]()
    for _, sender, dkim, spf, disposition, signatures, spf_checks, reason, messages, end in rows:
        pairs = parse_pairs(signatures)
        signers.update({name: messages for name, result in pairs if result == "pass"})
        senders.add(sender)
        last = max(last, end)
        outcome = {"messages": messages, "dkim": messages * dkim, "spf": messages * spf}
        if dkim or spf:
            outcome["passed"] = messages
        else:
            causes[explain_dmarc_failure(domain, pairs, parse_pairs(spf_checks), reason)] += messages
            outcome["changed"] = messages * has_broken_signature(domain, pairs)
            outcome["refused"] = messages * (disposition == "reject")
            outcome["junked"] = messages * (disposition == "quarantine")
        sums.update(outcome)
    # By its address; else by what it can do: SPF of ours names it, or it kept our signature.
    kind = config.find_kind(source) or ("spf" if sums["spf"] else "signed" if sums["dkim"] else "unknown")
    return {
        "source": source,
        "kind": kind,
        "senders": len(senders),
        "signers": [name for name, _ in signers.most_common(MAX_CAUSES)],
        "causes": dict(causes.most_common(MAX_CAUSES)),
        "last": last,
        **{name: sums[name] for name in SUMS},
    }


def _bound_sources(sources: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is beyond MAX_SOURCES is one entry without an address. Memory holds some hundreds at a time."""
    kept: list[dict[str, Any]] = []
    others = {"source": "", "kind": "unknown", "senders": 0, "signers": [], "causes": {}, "last": 0, "others": 0}
    others |= dict.fromkeys(SUMS, 0)
    for source in sources:
        kept.append(source)
        if len(kept) > 4 * MAX_SOURCES:
            kept = _fold_rest(kept, others)
    kept = _fold_rest(kept, others)
    return [*kept, others] if others["others"] else kept


def _fold_rest(sources: list[dict[str, Any]], others: dict[str, Any]) -> list[dict[str, Any]]:
    """Ours first, then those that most senders name: one forger's large numbers push no source of others' out."""
    ordered = sorted(
        sources,
        key=lambda source: (
            source["kind"] == "unknown",
            -min(source["senders"], MAX_WEIGHED_SENDERS),
            source["passed"] - source["messages"],
            -source["messages"],
        ),
    )
    for source in ordered[MAX_SOURCES:]:
        others["others"] += 1
        for name in SUMS:
            others[name] += source[name]
    return ordered[:MAX_SOURCES]


def _summarise_tls(database: sqlite3.Connection, values: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry a policy: sessions that succeeded, and those that failed by cause."""
    rows = database.execute(
        "SELECT tls_rows.policy, result, sum(sessions), max(end) FROM tls_rows"
        " JOIN reports ON reports.id = tls_rows.report"
        " WHERE tls_rows.domain = :domain AND end >= :since GROUP BY 1, 2",
        values,
    )
    policies: dict[str, dict[str, Any]] = {}
    for policy, result, sessions, last in rows:
        entry = policies.setdefault(policy, {"policy": policy, "succeeded": 0, "failed": 0, "causes": {}, "last": 0})
        entry["last"] = max(entry["last"], last)
        if not result:
            entry["succeeded"] += sessions
        elif sessions:
            entry["failed"] += sessions
            causes = entry["causes"]
            cause = explain_tls_failure(policy, result)
            if cause in causes or len(causes) < MAX_CAUSES:
                causes[cause] = causes.get(cause, 0) + sessions
    return list(policies.values())
