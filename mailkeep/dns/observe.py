"""What the world sees of a server: its records, its greeting on port 25, its MTA-STS policy.

All that is looked at is looked at at the same time, and nothing is judged here.
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
from mailkeep.dns.record_comparison import kind
from mailkeep.dns.smtp_greeting import Greeting
from mailkeep.dns.spf_dmarc import Dmarc, Spf
from mailkeep.dns.zones import parents, registered
from mailkeep.errors import UserError
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings

Text = tuple[str, str]  # a name, and a TXT record at it
T = TypeVar("T")
_THREADS = 100  # which mostly wait


@dataclass(frozen=True, slots=True)
class DnsAnswers:
    """What the DNS says. `spf` and `dmarc` are what such records come to, `doubled` the names that a web form has
    completed though they were whole (`mail.example.org.example.org`). `validates`: the resolver checks signatures."""

    public: Answers
    authoritative: Mapping[Question, Mapping[str, Answer]]
    spf: Mapping[Text, Spf]
    dmarc: Mapping[Text, Dmarc]
    doubled: frozenset[str]
    validates: bool


@dataclass(frozen=True, slots=True)
class Observation:
    """`greetings` by address of the host, MTA-STS policies as `served` by mail domain."""

    answers: DnsAnswers
    greetings: Mapping[str, Greeting]
    policies: Mapping[str, ServedPolicy]


def observe_server(settings: Settings, secrets: Secrets, resolver: dns.resolver.Resolver) -> Observation:
    """Takes as long as the slowest of what it looks at; half a minute at the very most. UserError when the resolver
    says nothing of anything."""
    return asyncio.run(_look(settings, secrets, resolver))


def caa_questions(settings: Settings) -> list[Question]:
    """Where CAA records may be that count for the certificate: at each of its names, and above (RFC 8659 §3)."""
    above = (one for name in settings.certificate_names for one in parents(name))
    return [Question(one, "CAA") for one in dict.fromkeys(above)]


async def _look(settings: Settings, secrets: Secrets, resolver: dns.resolver.Resolver) -> Observation:
    questions = [Question(record.name, record.type) for record in records.all_records(settings, secrets)]
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    names, greetings, served = await asyncio.gather(
        _names([*questions, *leftover_questions(settings)], caa_questions(settings), resolver),
        _greetings(settings),
        _served(settings, Client(resolver)),
    )
    return Observation(names, greetings, served)


def leftover_questions(settings: Settings) -> Iterator[Question]:
    """What should have no answer, and may have one of former days that leads mail astray, or stops it."""
    declared = {address.version for address in settings.host.addresses}
    for version, type_ in ((4, "A"), (6, "AAAA")):
        if version not in declared:
            yield Question(settings.host.name, type_)
    if settings.dns.mta_sts == "off":
        yield from (Question(f"_mta-sts.{domain}", "TXT") for domain in settings.domains)


def query_names(questions: list[Question], resolver: dns.resolver.Resolver) -> DnsAnswers:
    """What the DNS says of these alone. UserError when the resolver says nothing of anything."""
    return asyncio.run(_names(questions, [], resolver))


async def _names(questions: list[Question], public_only: list[Question], resolver: dns.resolver.Resolver) -> DnsAnswers:
    client, root = Client(resolver), Question(".", "SOA")
    public, authoritative = await asyncio.gather(
        client.ask_resolver([*questions, *public_only, root]), client.ask_name_servers(questions)
    )
    if all(answer.error for answer in public.values()):
        raise UserError(
            f"The resolver at {', '.join(map(str, resolver.nameservers))} gives no answer to anything. Name one "
            "that does: --resolver ADDRESS; or see whether this machine is online."
        )
    texts = set(_texts(public, authoritative))
    missing = [question for question in questions if question.type != "PTR" and not public[question].values]
    spf, dmarc, doubled = await asyncio.gather(
        _evaluated(spf_dmarc.evaluate_spf, [text for text in texts if kind("TXT", text[1]) == "v=spf1"], resolver),
        _evaluated(spf_dmarc.evaluate_dmarc, [text for text in texts if kind("TXT", text[1]) == "v=DMARC1"], resolver),
        client.ask_resolver(Question(f"{name}.{registered(name)}", kind) for name, kind in missing),
    )
    twice = (name for name, kind in missing if doubled[Question(f"{name}.{registered(name)}", kind)].values)
    return DnsAnswers(public, authoritative, spf, dmarc, frozenset(twice), public[root].authentic)


def _texts(public: Answers, authoritative: Mapping[Question, Mapping[str, Answer]]) -> Iterator[Text]:
    for question, by_server in authoritative.items():
        for answer in (public[question], *by_server.values()):
            yield from ((question.name, value) for value in answer.values if question.type == "TXT")


async def _evaluated(
    one: Callable[[str, str, dns.resolver.Resolver], T], texts: list[Text], resolver: dns.resolver.Resolver
) -> dict[Text, T]:
    return dict(zip(texts, await _at_once(one, ((*text, resolver) for text in texts)), strict=True))


async def _greetings(settings: Settings) -> dict[str, Greeting]:
    addresses = [str(address) for address in settings.host.addresses]
    greetings = await _at_once(smtp_greeting.fetch_greeting, ((address, settings.host.name) for address in addresses))
    return dict(zip(addresses, greetings, strict=True))


async def _served(settings: Settings, client: Client) -> dict[str, ServedPolicy]:
    domains = settings.domains if settings.dns.mta_sts != "off" else ()
    names = [(domain, Question(f"mta-sts.{domain}", kind)) for domain in domains for kind in ("A", "AAAA")]
    answers = await client.ask_resolver(question for _, question in names)
    addresses: dict[str, list[str]] = {domain: [] for domain in domains}
    for domain, question in names:
        addresses[domain] += answers[question].values
    return dict(zip(domains, await _at_once(mta_sts.fetch_policy, addresses.items()), strict=True))


async def _at_once(blocking: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> list[T]:
    """Each in a thread of its own, for libraries that know nothing of asyncio."""
    return list(await asyncio.gather(*(asyncio.to_thread(blocking, *arguments) for arguments in calls)))
