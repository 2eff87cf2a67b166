"""What would be seen of a zone: the values of a zone file, as `mailkeep.dns.look` hands them to the judge."""

from collections.abc import Callable, Iterable

import dns.resolver

from mailkeep.dns import spf_dmarc
from mailkeep.dns.client import Answer, Question
from mailkeep.dns.observe import DnsAnswers, Observation
from mailkeep.dns.record_comparison import kind
from mailkeep.dns.records import Record

Values = dict[Question, tuple[str, ...]]
SERVER = "ns.example.net"
NOBODY = dns.resolver.Resolver(configure=False)  # our records ask for no look-up


def values(listed: Iterable[Record]) -> Values:
    found: Values = {}
    for record in listed:
        question = Question(record.name, record.type)
        found[question] = (*found.get(question, ()), record.value)
    return found


def seen(published: Values, asked: Iterable[Question] = ()) -> Observation:
    """A world in which the zone has these values; `asked` are questions without an answer."""
    answers = {question: Answer(published.get(question, ()), ttl=3600, authentic=True) for question in asked}
    answers |= {question: Answer(found, ttl=3600, authentic=True) for question, found in published.items()}
    texts = {(question.name, text) for question, found in published.items() for text in found}
    names = DnsAnswers(
        public=answers,
        authoritative={question: {SERVER: answer} for question, answer in answers.items()},
        spf=_each(spf_dmarc.evaluate_spf, texts, "v=spf1"),
        dmarc=_each(spf_dmarc.evaluate_dmarc, texts, "v=DMARC1"),
        doubled=frozenset(),
        validates=True,
    )
    return Observation(names, {}, {})


def _each(
    one: Callable[[str, str, dns.resolver.Resolver], object], texts: Iterable[tuple[str, str]], tag: str
) -> dict[tuple[str, str], object]:
    return {(name, text): one(name, text, NOBODY) for name, text in texts if kind("TXT", text) == tag}
