"""Observes a server as other servers see it: its DNS records, its greeting on port 25, its MTA-STS policy.

All lookups run concurrently, and nothing is judged here.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import dns.resolver

from mailkeep.dns import mta_sts, records, smtp_greeting, spf_dmarc
from mailkeep.dns.client import Answer, Answers, Client, Question
from mailkeep.dns.mta_sts import ServedPolicy
from mailkeep.dns.record_comparison import record_kind
from mailkeep.dns.smtp_greeting import Greeting
from mailkeep.dns.spf_dmarc import Dmarc, Spf
from mailkeep.dns.zones import name_and_parents, registered_domain
from mailkeep.errors import UserError
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings

NamedText = tuple[str, str]  # a name, and the text of a TXT record there
T = TypeVar("T")
_MAX_THREADS = 100  # most of them wait


@dataclass(frozen=True, slots=True)
class DnsAnswers:
    """The answers of the resolver (`public`) and of each authoritative server, with SPF and DMARC records evaluated.

    `doubled` are names whose record a web form put below the name with the domain a second time
    (`mail.example.org.example.org`). `validates`: the resolver checks DNSSEC signatures.
    """

    public: Answers
    authoritative: Mapping[Question, Mapping[str, Answer]]
    spf: Mapping[NamedText, Spf]
    dmarc: Mapping[NamedText, Dmarc]
    doubled: frozenset[str]
    validates: bool


@dataclass(frozen=True, slots=True)
class Observation:
    """`greetings` by address of the host, `policies` (MTA-STS) by mail domain."""

    answers: DnsAnswers
    greetings: Mapping[str, Greeting]
    policies: Mapping[str, ServedPolicy]


def observe_server(settings: Settings, secrets: Secrets, resolver: dns.resolver.Resolver) -> Observation:
    """Takes as long as the slowest lookup, half a minute at most. Raises UserError if the resolver answers nothing."""
    return asyncio.run(_observe_all(settings, secrets, resolver))


def caa_questions(settings: Settings) -> list[Question]:
    """The names whose CAA records apply to the certificate: each of its names, and those above (RFC 8659 §3)."""
    names = (name for covered in settings.certificate_names for name in name_and_parents(covered))
    return [Question(name, "CAA") for name in dict.fromkeys(names)]


def leftover_questions(settings: Settings) -> Iterator[Question]:
    """Records that should not exist. A former one would lead mail astray, or stop it."""
    declared = {address.version for address in settings.host.addresses}
    for version, record_type in ((4, "A"), (6, "AAAA")):
        if version not in declared:
            yield Question(settings.host.name, record_type)
    if settings.dns.mta_sts == "off":
        yield from (Question(f"_mta-sts.{domain}", "TXT") for domain in settings.domains)


def query_names(questions: list[Question], resolver: dns.resolver.Resolver) -> DnsAnswers:
    """The answers to these questions alone. Raises UserError if the resolver answers nothing."""
    return asyncio.run(_query_names(questions, [], resolver))


async def _observe_all(settings: Settings, secrets: Secrets, resolver: dns.resolver.Resolver) -> Observation:
    questions = [Question(record.name, record.type) for record in records.all_records(settings, secrets)]
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_MAX_THREADS))
    answers, greetings, policies = await asyncio.gather(
        _query_names([*questions, *leftover_questions(settings)], caa_questions(settings), resolver),
        _fetch_greetings(settings),
        _fetch_policies(settings, Client(resolver)),
    )
    return Observation(answers, greetings, policies)


async def _query_names(
    questions: list[Question], public_only: list[Question], resolver: dns.resolver.Resolver
) -> DnsAnswers:
    client, root = Client(resolver), Question(".", "SOA")
    public, authoritative = await asyncio.gather(
        client.ask_resolver([*questions, *public_only, root]), client.ask_name_servers(questions)
    )
    if all(answer.error for answer in public.values()):
        raise UserError(
            f"The resolver at {', '.join(map(str, resolver.nameservers))} answers nothing. Name another with "
            "--resolver ADDRESS, or check whether this machine is online."
        )
    texts = set(_named_texts(public, authoritative))
    missing = [question for question in questions if question.type != "PTR" and not public[question].values]
    spf, dmarc, doubled = await asyncio.gather(
        _evaluate_all(spf_dmarc.evaluate_spf, _texts_of_kind(texts, "v=spf1"), resolver),
        _evaluate_all(spf_dmarc.evaluate_dmarc, _texts_of_kind(texts, "v=DMARC1"), resolver),
        client.ask_resolver(map(_doubled_question, missing)),
    )
    doubled_names = (question.name for question in missing if doubled[_doubled_question(question)].values)
    return DnsAnswers(public, authoritative, spf, dmarc, frozenset(doubled_names), public[root].authentic)


def _doubled_question(question: Question) -> Question:
    return Question(f"{question.name}.{registered_domain(question.name)}", question.type)


def _named_texts(public: Answers, authoritative: Mapping[Question, Mapping[str, Answer]]) -> Iterator[NamedText]:
    for question, by_server in authoritative.items():
        for answer in (public[question], *by_server.values()):
            yield from ((question.name, value) for value in answer.values if question.type == "TXT")


def _texts_of_kind(texts: Iterable[NamedText], kind: str) -> list[NamedText]:
    return [(name, text) for name, text in texts if record_kind("TXT", text) == kind]


async def _evaluate_all(
    evaluate: Callable[[str, str, dns.resolver.Resolver], T], texts: list[NamedText], resolver: dns.resolver.Resolver
) -> dict[NamedText, T]:
    results = await _call_in_threads(evaluate, ((*text, resolver) for text in texts))
    return dict(zip(texts, results, strict=True))


async def _fetch_greetings(settings: Settings) -> dict[str, Greeting]:
    addresses = [str(address) for address in settings.host.addresses]
    calls = ((address, settings.host.name) for address in addresses)
    return dict(zip(addresses, await _call_in_threads(smtp_greeting.fetch_greeting, calls), strict=True))


async def _fetch_policies(settings: Settings, client: Client) -> dict[str, ServedPolicy]:
    domains = settings.domains if settings.dns.mta_sts != "off" else ()
    questions = {
        domain: [Question(mta_sts.policy_host(domain), record_type) for record_type in ("A", "AAAA")]
        for domain in domains
    }
    answers = await client.ask_resolver(question for pair in questions.values() for question in pair)
    addresses = {
        domain: [address for question in pair for address in answers[question].values]
        for domain, pair in questions.items()
    }
    return dict(zip(domains, await _call_in_threads(mta_sts.fetch_policy, addresses.items()), strict=True))


async def _call_in_threads(blocking: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> list[T]:
    """Each call in its own thread, for libraries without asyncio."""
    return list(await asyncio.gather(*(asyncio.to_thread(blocking, *arguments) for arguments in calls)))
