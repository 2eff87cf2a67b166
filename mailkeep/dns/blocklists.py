"""Whether DNS blocklists (RFC 5782) list the host's addresses or the mail domains.

A list that is overloaded, closed or dead may answer too. So each list is also asked for two test entries (RFC 5782
§5). Its answer counts only if it lists the entry that it must list, and not the one that it must not.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Literal

import dns.resolver

from mailkeep.dns.client import Answers, Client, Question
from mailkeep.settings.models import Settings
from mailkeep_server.common.dnsbl import ListingState, judge_listing

State = ListingState | Literal["trusted"]


@dataclass(frozen=True, slots=True)
class Blocklist:
    """A DNS list. `must_list` is its test entry; `delisting` says how to leave the list. Being on an allowlist is
    good: mail servers trust those addresses more."""

    zone: str
    subject_kind: Literal["addresses", "domains"]
    delisting: str
    must_list: str = "127.0.0.2"
    ipv6: bool = False
    is_allowlist: bool = False

    @property
    def must_not_list(self) -> str:
        """The test entry that no working list has."""
        return "invalid" if self.subject_kind == "domains" else "127.0.0.1"


_SPAMHAUS = "look up the reason and ask for removal at https://check.spamhaus.org/"
LISTS = (
    Blocklist("zen.spamhaus.org", "addresses", _SPAMHAUS, ipv6=True),
    Blocklist("bl.spamcop.net", "addresses", "the listing ends by itself a day after the last complaint"),
    Blocklist("b.barracudacentral.org", "addresses", "https://www.barracudacentral.org/rbl/removal-request"),
    Blocklist("psbl.surriel.com", "addresses", "https://psbl.org/ removes it at once"),
    Blocklist("bl.mailspike.net", "addresses", "https://mailspike.io/ip_verify"),
    Blocklist("dnsbl.dronebl.org", "addresses", "https://dronebl.org/lookup removes it"),
    Blocklist("dnsbl-1.uceprotect.net", "addresses", "the listing ends by itself after 7 days; do not pay for less"),
    Blocklist("dbl.spamhaus.org", "domains", _SPAMHAUS, "dbltest.com"),
    Blocklist("multi.surbl.org", "domains", "https://surbl.org/surbl-analysis", "surbl-org-permanent-test-point.com"),
    Blocklist("multi.uribl.com", "domains", "https://admin.uribl.com/ removes it"),
    Blocklist("list.dnswl.org", "addresses", "register at https://www.dnswl.org/", ipv6=True, is_allowlist=True),
)
_NO_ANSWER_REASONS = {
    "refused": "it does not answer queries through this resolver",
    "gone": "it does not work; ignore it",
}


@dataclass(frozen=True, slots=True)
class BlocklistEntry:
    """The state of `subject`, an address or a domain, on `list`. `answer` is the list's own text, or the reason why it
    has none; `delisting` says how to leave the list."""

    list: str
    subject: str
    state: State
    answer: str = ""
    delisting: str = ""

    @property
    def is_conclusive(self) -> bool:
        """Whether the list answered yes or no."""
        return self.state in ("listed", "trusted", "clear")

    def asdict(self) -> dict[str, str]:
        return asdict(self)


def query_blocklists(
    settings: Settings, resolver: dns.resolver.Resolver, lists: tuple[Blocklist, ...] = LISTS
) -> list[BlocklistEntry]:
    """Look up every address and domain in every list. Takes as long as the slowest list: a few seconds at most."""
    return asyncio.run(_query_all(settings, resolver, lists))


async def _query_all(
    settings: Settings, resolver: dns.resolver.Resolver, lists: tuple[Blocklist, ...]
) -> list[BlocklistEntry]:
    client = Client(resolver)
    pairs = [(blocklist, subject) for blocklist in lists for subject in list_subjects(blocklist, settings)]
    tests = [(blocklist, test) for blocklist in lists for test in (blocklist.must_list, blocklist.must_not_list)]
    names = [entry_name(blocklist, subject) for blocklist, subject in (*pairs, *tests)]
    answers = await client.ask_resolver(Question(name, "A") for name in names)
    positive = [name for (name, _), answer in answers.items() if answer.values]
    reasons = await client.ask_resolver(Question(name, "TXT") for name in positive)
    return [_build_entry(blocklist, subject, answers, reasons) for blocklist, subject in pairs]


def list_subjects(blocklist: Blocklist, settings: Settings) -> Iterator[str]:
    """The addresses or domains of ours that this list can have."""
    if blocklist.subject_kind == "domains":
        yield from (*settings.domains, settings.host.name)
    else:
        addresses = settings.host.addresses
        yield from (str(address) for address in addresses if address.version == 4 or blocklist.ipv6)


def entry_name(blocklist: Blocklist, subject: str) -> str:
    """The DNS name of an address or a domain in this list (RFC 5782 §2.1, §2.2, §3)."""
    try:
        pointer = ip_address(subject).reverse_pointer
    except ValueError:
        return f"{subject}.{blocklist.zone}"
    return f"{pointer.removesuffix('.in-addr.arpa').removesuffix('.ip6.arpa')}.{blocklist.zone}"


def _build_entry(blocklist: Blocklist, subject: str, answers: Answers, reasons: Answers) -> BlocklistEntry:
    names = [entry_name(blocklist, name) for name in (subject, blocklist.must_list, blocklist.must_not_list)]
    results = [answers[Question(name, "A")] for name in names]
    state = judge_listing(*(None if result.error else list(result.values) for result in results))
    if state == "listed":
        reason = " ".join(reasons[Question(names[0], "TXT")].values)
        text = f"{', '.join(results[0].values)} {reason}".strip()
        if blocklist.is_allowlist:
            return BlocklistEntry(blocklist.zone, subject, "trusted", text)
        return BlocklistEntry(blocklist.zone, subject, state, text, blocklist.delisting)
    if state == "unknown":
        error = next(result.error for result in results if result.error)
        return BlocklistEntry(blocklist.zone, subject, state, error)
    return BlocklistEntry(blocklist.zone, subject, state, _NO_ANSWER_REASONS.get(state, ""))
