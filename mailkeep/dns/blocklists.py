"""Whether others distrust the host's addresses or the mail domains, by the DNS lists (RFC 5782) that they go by.

A list that is overrun, closed or dead answers too. So each is asked for its own test entries at the same time: what it
says counts only if it lists the one that it must list, and not the one that it must not (RFC 5782 §5).
"""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Literal

import dns.resolver

from mailkeep.dns.client import Answers, Client, Question
from mailkeep.settings.models import Settings
from mailkeep_server import dns_monitor

State = dns_monitor.State | Literal["trusted"]


@dataclass(frozen=True, slots=True)
class Blocklist:
    """`of` says what it lists; `off` how to get off it. `test` is an entry that it must have."""

    zone: str
    of: Literal["addresses", "domains"]
    off: str
    test: str = "127.0.0.2"
    ipv6: bool = False
    trusts: bool = False


LISTS = (
    Blocklist("zen.spamhaus.org", "addresses", "https://check.spamhaus.org/ says why, and takes you off", ipv6=True),
    Blocklist("bl.spamcop.net", "addresses", "it ends by itself a day after the last complaint"),
    Blocklist("b.barracudacentral.org", "addresses", "https://www.barracudacentral.org/rbl/removal-request"),
    Blocklist("psbl.surriel.com", "addresses", "https://psbl.org/ takes you off at once"),
    Blocklist("bl.mailspike.net", "addresses", "https://mailspike.io/ip_verify"),
    Blocklist("dnsbl.dronebl.org", "addresses", "https://dronebl.org/lookup takes you off"),
    Blocklist("dnsbl-1.uceprotect.net", "addresses", "it ends by itself after 7 days; do not pay for less"),
    Blocklist("dbl.spamhaus.org", "domains", "https://check.spamhaus.org/ says why, and takes you off", "dbltest.com"),
    Blocklist("multi.surbl.org", "domains", "https://surbl.org/surbl-analysis", "surbl-org-permanent-test-point.com"),
    Blocklist("multi.uribl.com", "domains", "https://admin.uribl.com/ takes you off"),
    Blocklist("list.dnswl.org", "addresses", "https://www.dnswl.org/ takes good servers in", ipv6=True, trusts=True),
)
_WHY = {
    "refused": "it answers nobody who asks through this resolver",
    "gone": "it does not work, and counts for nothing",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What `list` says of `subject`, an address or a domain: `said` in its own words, and how to get `off`."""

    list: str
    subject: str
    state: State
    said: str = ""
    off: str = ""

    @property
    def counts(self) -> bool:
        """Whether the list has said yes or no."""
        return self.state in ("listed", "trusted", "clear")

    def asdict(self) -> dict[str, str]:
        return asdict(self)


def ask(settings: Settings, resolver: dns.resolver.Resolver, lists: tuple[Blocklist, ...] = LISTS) -> list[Entry]:
    """Of every list about every address and domain; takes as long as the slowest list, at most some seconds."""
    return asyncio.run(_ask(settings, resolver, lists))


async def _ask(settings: Settings, resolver: dns.resolver.Resolver, lists: tuple[Blocklist, ...]) -> list[Entry]:
    client = Client(resolver)
    asked = [(one, subject) for one in lists for subject in (*subjects(one, settings), one.test, never(one))]
    answers = await client.public(Question(entry_name(one, subject), "A") for one, subject in asked)
    reasons = await client.public(Question(name, "TXT") for (name, _), answer in answers.items() if answer.values)
    return [_entry(one, subject, answers, reasons) for one in lists for subject in subjects(one, settings)]


def subjects(one: Blocklist, settings: Settings) -> Iterator[str]:
    if one.of == "domains":
        yield from (*settings.domains, settings.host.name)
    else:
        yield from (str(address) for address in settings.host.addresses if address.version == 4 or one.ipv6)


def never(one: Blocklist) -> str:
    """What a list must not have."""
    return "invalid" if one.of == "domains" else "127.0.0.1"


def entry_name(one: Blocklist, subject: str) -> str:
    """Where the list has its entry of an address or a domain, if it has one (RFC 5782 §2.1, §2.2, §3)."""
    try:
        pointer = ip_address(subject).reverse_pointer
    except ValueError:
        return f"{subject}.{one.zone}"
    return f"{pointer.removesuffix('.in-addr.arpa').removesuffix('.ip6.arpa')}.{one.zone}"


def _entry(one: Blocklist, subject: str, answers: Answers, reasons: Answers) -> Entry:
    asked = [answers[Question(entry_name(one, entry), "A")] for entry in (subject, one.test, never(one))]
    state = dns_monitor.state(*(None if answer.error else list(answer.values) for answer in asked))
    if state == "listed":
        reason = " ".join(reasons[Question(entry_name(one, subject), "TXT")].values)
        said = f"{', '.join(asked[0].values)} {reason}".strip()
        return Entry(one.zone, subject, "trusted" if one.trusts else "listed", said, "" if one.trusts else one.off)
    if state == "unknown":
        return Entry(one.zone, subject, state, next(answer.error for answer in asked if answer.error))
    return Entry(one.zone, subject, state, _WHY.get(state, ""))
