"""Observations of a zone with given values, as `mailkeep.dns.observe` hands them to the judge."""

from collections.abc import Callable, Iterable

import dns.resolver

from mailkeep.dns import spf_dmarc
from mailkeep.dns.client import Answer, Question
from mailkeep.dns.observe import DnsAnswers, Observation
from mailkeep.dns.record_comparison import record_kind
from mailkeep.dns.records import Record

Values = dict[Question, tuple[str, ...]]
SERVER = "ns.example.net"
NO_RESOLVER = dns.resolver.Resolver(configure=False)  # our records need no lookup


def values_of(records: Iterable[Record]) -> Values:
    values: Values = {}
    for record in records:
        question = Question(record.name, record.type)
        values[question] = (*values.get(question, ()), record.value)
    return values


def observe_values(published: Values, unanswered: Iterable[Question] = ()) -> Observation:
    """The zone has these values; the `unanswered` questions have none, unless they are among them."""
    answers = {question: Answer(ttl=3600, authentic=True) for question in unanswered}
    answers |= {question: Answer(values, ttl=3600, authentic=True) for question, values in published.items()}
    texts = {(question.name, text) for question, values in published.items() for text in values}
    dns_answers = DnsAnswers(
        public=answers,
        authoritative={question: {SERVER: answer} for question, answer in answers.items()},
        spf=_evaluate_texts(spf_dmarc.evaluate_spf, texts, "v=spf1"),
        dmarc=_evaluate_texts(spf_dmarc.evaluate_dmarc, texts, "v=DMARC1"),
        doubled=frozenset(),
        validates=True,
    )
    return Observation(dns_answers, {}, {})


def _evaluate_texts(
    evaluate: Callable[[str, str, dns.resolver.Resolver], object], texts: Iterable[tuple[str, str]], kind: str
) -> dict[tuple[str, str], object]:
    return {(name, text): evaluate(name, text, NO_RESOLVER) for name, text in texts if record_kind("TXT", text) == kind}
