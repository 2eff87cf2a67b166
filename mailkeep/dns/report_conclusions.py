"""What the reports of others support: the next step of DMARC and of MTA-STS, or what stands against it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mailkeep.dns.findings import Finding
from mailkeep.dns.received_reports import DomainReports, Source, TlsSessions
from mailkeep.dns.report_steps import list_steps
from mailkeep.settings.models import Settings
from mailkeep_server.common.wording import count_noun

MIN_DAYS = 14
"""That reports must cover before a step: a newsletter or an invoice may come once in two weeks."""
MAX_NAMED = 3

_EFFECTS = {
    "none": "Mend that before reject",
    "quarantine": "Receivers put them into Junk: mend that, also before reject",
    "reject": "Receivers refuse them: mend that now",
}
"""Of a policy, on mail that fails."""

State = Literal["ready", "right", "early", "strangers", "changed", "failing", "unknown"]


@dataclass(frozen=True, slots=True)
class Conclusion:
    """`ready` and `strangers` support a stricter policy; `right` needs none; the others stand against it. `steps` say
    what to do about the mail that failed."""

    state: State
    sentence: str
    steps: tuple[str, ...] = ()


def conclude_dmarc(reports: DomainReports, policy: str) -> Conclusion:
    """The domain's present `policy` is none, quarantine or reject."""
    ours = [source for source in reports.sources if source.is_ours]
    failing = [source for source in ours if source.failed]
    ours_passed = reports.passed  # who passes DMARC has our signature, or stands in our SPF record
    total = ours_passed + sum(source.failed for source in failing)
    if failing:
        failed = sum(source.failed for source in failing)
        text = f"{failed} of your {count_noun(total, 'message')} failed: {_name_sources(failing)}. {_EFFECTS[policy]}."
        return Conclusion("failing", text, tuple(list_steps(reports.domain, failing)))
    if not reports.messages:
        return Conclusion("unknown", "No report counts any mail in its name: nothing can be concluded.")
    passed = f"For {count_noun(reports.span_days, 'day')} all of your {count_noun(total, 'message')} passed"
    if changed_by := [source for source in reports.sources if source.changed]:
        changed = sum(source.changed for source in changed_by)
        effect = "is refused" if policy == "reject" else "would be refused by reject"
        text = (
            f"{passed}, but {changed} more were changed on the way by others, as by mailing lists: such mail {effect}."
        )
        return Conclusion("changed", text, tuple(list_steps(reports.domain, changed_by)))
    strangers = [source for source in reports.sources if source.failed]
    steps = tuple(list_steps(reports.domain, strangers))
    if policy == "reject":
        forged = sum(source.failed for source in strangers)
        rest = f" {count_noun(forged, 'message')} of unknown sources failed: reject keeps them out." if forged else ""
        return Conclusion("right", f"{passed}: reject is right.{rest}", steps)
    if reports.span_days < MIN_DAYS:
        return Conclusion("early", f"{passed}. Wait until reports cover {MIN_DAYS} days.")
    if strangers:
        number = count_noun(sum(source.failed for source in strangers), "message")
        text = (
            f"{passed}. {number} of unknown sources failed: {_name_sources(strangers)}. If none is yours, go to reject."
        )
        return Conclusion("strangers", text, steps)
    return Conclusion("ready", f"{passed}: go to reject.")


def _name_sources(sources: list[Source]) -> str:
    """The largest failures first, each with its main cause."""
    ordered = sorted(sources, key=lambda source: -source.failed)
    names = [
        f"{source.address or 'others'} ({next(iter(source.causes), 'for several reasons')})"
        for source in ordered[:MAX_NAMED]
    ]
    more = len(ordered) - len(names)
    return "; ".join(names) + (f"; and {more} more" if more else "")


def conclude_tls(sessions: TlsSessions, span_days: int, mode: str) -> Conclusion:
    """`mode` is that of `dns.mta_sts`."""
    total = sessions.succeeded + sessions.failed
    if sessions.failed:
        cause = next(iter(sessions.causes), "for an unknown reason")
        effect = "Their mail waits" if mode == "enforce" else "Mend that before enforce"
        text = f"{sessions.failed} of {count_noun(total, 'TLS session')} failed: {cause}. {effect}."
        return Conclusion("failing", text)
    text = f"For {count_noun(span_days, 'day')} all of {count_noun(total, 'TLS session')} succeeded"
    if sessions.policy != "sts" or mode != "testing":
        return Conclusion("right", f"{text}.")
    if span_days < MIN_DAYS:
        return Conclusion("early", f"{text}. Wait until reports cover {MIN_DAYS} days.")
    return Conclusion("ready", f"{text}: go to dns.mta_sts: enforce.")


def find_policy(settings: Settings, domain: str) -> str:
    """The policy that `records` publishes for a domain."""
    return settings.dns.dmarc if domain in settings.own_domains else "reject"


def judge_reports(settings: Settings, domains: Iterable[DomainReports]) -> Iterator[Finding]:
    """The findings of `mailkeep dns --check`. One setting holds for all domains: it moves when all are ready."""
    by_domain = {reports.domain: reports for reports in domains}
    conclusions = {
        domain: conclude_dmarc(reports, find_policy(settings, domain)) for domain, reports in by_domain.items()
    }
    waiting = [domain for domain in settings.domains if not _is_ready(conclusions.get(domain))]
    for domain, conclusion in conclusions.items():
        if conclusion.state == "failing":
            problem, advice = f"reports of receivers: {conclusion.sentence}", " ".join(conclusion.steps)
            yield Finding("warning", f"_dmarc.{domain}", "TXT", problem, advice=advice)
        elif domain in settings.own_domains and _is_ready(conclusion):
            advice = f"Wait for {', '.join(waiting)}" if waiting else "Set dns.dmarc: reject, and publish the record"
            problem = f"reports of receivers: {conclusion.sentence}"
            yield Finding("instruction", f"_dmarc.{domain}", "TXT", problem, settings.dns.dmarc, advice)
    for reports in by_domain.values():
        yield from _judge_tls(settings, reports)


def _is_ready(conclusion: Conclusion | None) -> bool:
    return conclusion is not None and conclusion.state in ("ready", "strangers")


def _judge_tls(settings: Settings, reports: DomainReports) -> Iterator[Finding]:
    for sessions in reports.tls:
        conclusion = conclude_tls(sessions, reports.span_days, settings.dns.mta_sts)
        problem = f"reports of senders: {conclusion.sentence}"
        if conclusion.state == "failing" and sessions.policy != "no-policy-found":
            yield Finding("warning", reports.domain, "TLS", problem, advice="`mailkeep reports` shows what failed")
        elif conclusion.state == "ready":
            yield Finding(
                "instruction", f"_mta-sts.{reports.domain}", "TXT", problem, advice="Set dns.mta_sts: enforce"
            )
