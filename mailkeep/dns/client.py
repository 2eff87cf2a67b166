"""A DNS client that has all its questions under way at once, to a resolver and to the authoritative servers."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.resolver
from dns.rdtypes.ANY.TXT import TXT

from mailkeep.errors import UserError

PORT = 53  # of name servers
TIMEOUT = 5.0  # seconds for a question, repetitions included
_PAYLOAD = 1232  # octets that pass everywhere unfragmented; a longer answer comes by TCP
_AT_ONCE = 200  # questions under way; each is a socket


class Question(NamedTuple):
    """`name` is absolute, without the trailing dot."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`values` are as zone files have them, but TXT unquoted and in one piece; there are none where there is no such
    record. `alias` is where a CNAME leads, `ttl` in seconds. `authentic`: the resolver has validated the answer.
    `error` says why there is no answer at all."""

    values: tuple[str, ...] = ()
    alias: str = ""
    ttl: int = 0
    authentic: bool = False
    error: str = ""


Answers = Mapping[Question, Answer]


def make_resolver(where: str = "") -> dns.resolver.Resolver:
    """The one at this address (`192.0.2.53`, or `192.0.2.53@5353`); without, this machine's. UserError when it is
    none."""
    try:
        made = dns.resolver.Resolver(configure=not where)
        if where:
            address, at, port = where.partition("@")
            made.nameservers, made.port = [str(ip_address(address))], _port(port) if at else PORT
    except ValueError:
        raise UserError(
            f"{where!r}: no resolver. Expected the address of one, such as 192.0.2.53 or 192.0.2.53@5353."
        ) from None
    except dns.exception.DNSException as error:
        raise UserError(f"This machine has no resolver: {error}. Name one with --resolver.") from None
    _set_up(made)
    return made


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ValueError(text)
    return int(text)


def _set_up(made: dns.resolver.BaseResolver) -> None:
    made.lifetime = TIMEOUT
    # AD in a question asks for it in the answer (RFC 6840 §5.7).
    made.flags = dns.flags.RD | dns.flags.AD
    made.use_edns(0, 0, _PAYLOAD)


class Client:
    """Asks with this resolver; to be used within one event loop."""

    def __init__(self, resolver: dns.resolver.Resolver) -> None:
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._resolver.nameservers, self._resolver.port = resolver.nameservers, resolver.port
        _set_up(self._resolver)
        self._limit = asyncio.Semaphore(_AT_ONCE)

    async def ask_resolver(self, questions: Iterable[Question]) -> dict[Question, Answer]:
        """What the resolver says, and with it most of the world."""
        listed = list(dict.fromkeys(questions))
        return dict(zip(listed, await asyncio.gather(*map(self._ask_resolver, listed)), strict=True))

    async def ask_name_servers(self, questions: Iterable[Question]) -> dict[Question, dict[str, Answer]]:
        """What each server of the name's zone says, by the server's name; nothing where they cannot be found."""
        listed = list(dict.fromkeys(questions))
        names = list({question.name for question in listed})
        zone_of = dict(zip(names, await asyncio.gather(*map(self._zone, names)), strict=True))
        zones = list(set(zone_of.values()))
        servers_of = dict(zip(zones, await asyncio.gather(*map(self._servers, zones)), strict=True))
        asked = [(one, server, at) for one in listed for server, at in servers_of[zone_of[one.name]].items()]
        answers = await asyncio.gather(*(self._ask_server(address, question) for question, _, address in asked))
        found: dict[Question, dict[str, Answer]] = {question: {} for question in listed}
        for (question, server, _), answer in zip(asked, answers, strict=True):
            found[question][server] = answer
        return found

    async def _ask_resolver(self, question: Question) -> Answer:
        try:
            return _answer(question, await self._resolve(question))
        except dns.resolver.NoNameservers:
            return Answer(error=await self._why_not(question))
        except (dns.exception.DNSException, OSError) as error:
            return Answer(error=str(error))

    async def _resolve(self, question: Question) -> dns.message.Message:
        """The response, which may well be that there is no such name."""
        try:
            async with self._limit:
                found = await self._resolver.resolve(*question, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN as error:
            response: dns.message.Message = next(iter(error.kwargs["responses"].values()))
            return response
        return found.response

    async def _why_not(self, question: Question) -> str:
        """A resolver that validates gives no bogus answer, unless told not to check (CD, RFC 4035 §3.2.2)."""
        unchecked = dns.message.make_query(*question)
        unchecked.flags |= dns.flags.CD
        where, port = str(self._resolver.nameservers[0]), self._resolver.port
        try:
            reply, _ = await dns.asyncquery.udp_with_fallback(unchecked, where, TIMEOUT, port)
        except (dns.exception.DNSException, OSError):
            return "no server answers"
        bogus = reply.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
        return "its DNSSEC signatures do not validate" if bogus else "its servers fail"

    async def _ask_server(self, address: str, question: Question) -> Answer:
        query = dns.message.make_query(*question, use_edns=0, payload=_PAYLOAD)
        query.flags &= ~dns.flags.RD
        try:
            async with self._limit:
                reply, _ = await dns.asyncquery.udp_with_fallback(query, address, TIMEOUT, PORT)
        except (dns.exception.DNSException, OSError) as error:
            return Answer(error=str(error) or type(error).__name__)
        if reply.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return _answer(question, reply)
        return Answer(error=f"it answers {dns.rcode.to_text(reply.rcode())}")

    async def _zone(self, name: str) -> str:
        """The zone that `name` is in: its SOA comes with the answer "there is no such record" too (RFC 2308 §3).

        Where `name` is an alias, that is the SOA of the zone that it leads to; its own zone is that of the name above,
        for a zone does not begin with an alias (RFC 1034 §3.6.2)."""
        try:
            response = await self._resolve(Question(name, "SOA"))
        except (dns.exception.DNSException, OSError):
            return ""
        if any(rrset.rdtype == dns.rdatatype.CNAME for rrset in response.answer):
            return await self._zone(name.partition(".")[2] or ".")
        sections = (*response.answer, *response.authority)
        return next((str(rrset.name) for rrset in sections if rrset.rdtype == dns.rdatatype.SOA), "")

    async def _servers(self, zone: str) -> dict[str, str]:
        """The names of a zone's servers, each with one of its addresses."""
        names = (await self._ask_resolver(Question(zone, "NS"))).values if zone else ()
        addresses = await asyncio.gather(*map(self._address, names))
        return {name.rstrip("."): address for name, address in zip(names, addresses, strict=True) if address}

    async def _address(self, name: str) -> str:
        """IPv4 first: this machine may have no other."""
        for kind in ("A", "AAAA"):
            if values := (await self._ask_resolver(Question(name, kind))).values:
                return values[0]
        return ""


def _answer(question: Question, response: dns.message.Message) -> Answer:
    aliases = [rrset for rrset in response.answer if rrset.rdtype == dns.rdatatype.CNAME]
    found = [rrset for rrset in response.answer if rrset.rdtype.name == question.type]
    return Answer(
        values=tuple(sorted(_text(rdata) for rrset in found for rdata in rrset)),
        alias=str(aliases[-1][0].target).rstrip(".") if aliases else "",
        ttl=max((rrset.ttl for rrset in found), default=0),
        authentic=bool(response.flags & dns.flags.AD),
    )


def _text(rdata: dns.rdata.Rdata) -> str:
    if isinstance(rdata, TXT):
        return b"".join(rdata.strings).decode(errors="replace")
    return rdata.to_text()
