"""What `mailkeepctl reports --json` of one or several servers says about a domain, as data."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

DAY = 86_400  # seconds

KINDS = {
    "own": "this server",
    "spf": "in dns.spf",
    "forwarder": "a forwarder of mail.yml",
    "signed": "unknown, with your signature",
    "unknown": "unknown",
}
"""Of sources."""


@dataclass(frozen=True, slots=True)
class Source:
    """A server that sent mail in a domain's name, as so many `senders` of reports say. `address` is empty for `others`
    together."""

    address: str
    kind: str
    signers: tuple[str, ...]
    messages: int
    passed: int
    refused: int
    junked: int
    changed: int
    causes: dict[str, int]
    senders: int
    others: int = 0

    @property
    def failed(self) -> int:
        return self.messages - self.passed

    @property
    def is_ours(self) -> bool:
        return self.kind in ("own", "spf")


@dataclass(frozen=True, slots=True)
class TlsSessions:
    """Connections to this server under one policy: `sts`, `tlsa` or `no-policy-found`."""

    policy: str
    succeeded: int
    failed: int
    causes: dict[str, int]


@dataclass(frozen=True, slots=True)
class DomainReports:
    """`first` and `last` are seconds since the epoch; `reporters` counts reports by name and domain of `From:`."""

    domain: str
    reports: int
    first: int
    last: int
    reporters: dict[tuple[str, str], int]
    sources: tuple[Source, ...]
    tls: tuple[TlsSessions, ...]

    @property
    def span_days(self) -> int:
        """The days that the reports cover from first to last."""
        return round((self.last - self.first) / DAY)

    @property
    def messages(self) -> int:
        return sum(source.messages for source in self.sources)

    @property
    def passed(self) -> int:
        return sum(source.passed for source in self.sources)


def merge_summaries(summaries: Iterable[dict[str, Any]]) -> list[DomainReports]:
    """The domains of all servers, by name. Raises LookupError and TypeError for a summary of another version."""
    by_domain: dict[str, list[dict[str, Any]]] = {}
    for summary in summaries:
        for entry in summary["domains"]:
            by_domain.setdefault(entry["domain"], []).append(entry)
    return [_merge_domain(domain, entries) for domain, entries in sorted(by_domain.items())]


def merge_outcomes(summaries: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Reports that were not counted, by reason."""
    counts = Counter[str]()
    for summary in summaries:
        counts.update(summary["outcomes"])
    return dict(counts)


def _merge_domain(domain: str, entries: list[dict[str, Any]]) -> DomainReports:
    reporters = Counter[tuple[str, str]]()
    for entry in entries:
        reporters.update({(each["name"], each["sender"]): each["reports"] for each in entry["reporters"]})
    return DomainReports(
        domain,
        sum(entry["reports"] for entry in entries),
        min(entry["first"] for entry in entries),
        max(entry["last"] for entry in entries),
        dict(reporters.most_common()),
        tuple(_merge_sources(source for entry in entries for source in entry["sources"])),
        tuple(_merge_sessions(sessions for entry in entries for sessions in entry["tls"])),
    )


def _merge_sources(entries: Iterable[dict[str, Any]]) -> Iterator[Source]:
    by_address: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        by_address.setdefault(entry["source"], []).append(entry)
    for address, same in by_address.items():
        sums = {
            name: sum(entry[name] for entry in same) for name in ("messages", "passed", "refused", "junked", "changed")
        }
        kind = next((kind for kind in KINDS if any(entry["kind"] == kind for entry in same)), "unknown")
        signers = dict.fromkeys(signer for entry in same for signer in entry["signers"])
        senders = max(entry["senders"] for entry in same)  # of several servers, the same receivers write to each
        others = sum(entry.get("others", 0) for entry in same)
        yield Source(address, kind, tuple(signers), causes=_add_causes(same), senders=senders, others=others, **sums)


def _merge_sessions(entries: Iterable[dict[str, Any]]) -> Iterator[TlsSessions]:
    by_policy: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        by_policy.setdefault(entry["policy"], []).append(entry)
    for policy, same in by_policy.items():
        succeeded, failed = (sum(entry[name] for entry in same) for name in ("succeeded", "failed"))
        yield TlsSessions(policy, succeeded, failed, _add_causes(same))


def _add_causes(entries: Iterable[dict[str, Any]]) -> dict[str, int]:
    causes = Counter[str]()
    for entry in entries:
        causes.update(entry["causes"])
    return dict(causes.most_common())
