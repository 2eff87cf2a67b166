"""A DNS client that sends all its questions concurrently, to a resolver and to authoritative name servers."""

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
_MAX_PAYLOAD = 1232  # octets that pass everywhere unfragmented; a longer answer comes by TCP
_MAX_CONCURRENT = 200  # questions; each has a socket


class Question(NamedTuple):
    """`name` is absolute, without the trailing dot."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`values` are in zone file form, but TXT is unquoted and in one piece; they are empty if there is no such record.

    `alias` is the target of a CNAME, `ttl` in seconds. `authentic`: the resolver validated the answer by DNSSEC.
    `error` says why there is no answer.
    """

    values: tuple[str, ...] = ()
    alias: str = ""
    ttl: int = 0
    authentic: bool = False
    error: str = ""


Answers = Mapping[Question, Answer]


def make_resolver(address: str = "") -> dns.resolver.Resolver:
    """The resolver at this address (`192.0.2.53`, or `192.0.2.53@5353`); without one, this machine's own.

    Raises UserError for an invalid address, or if this machine has no resolver.
    """
    try:
        resolver = dns.resolver.Resolver(configure=not address)
        if address:
            ip, separator, port = address.partition("@")
            resolver.nameservers, resolver.port = [str(ip_address(ip))], _parse_port(port) if separator else PORT
    except ValueError:
        raise UserError(
            f"{address!r} is no address of a resolver. Write it as 192.0.2.53, or with a port as 192.0.2.53@5353."
        ) from None
    except dns.exception.DNSException as error:
        raise UserError(f"This machine has no resolver: {error}. Name one with --resolver.") from None
    _configure(resolver)
    return resolver


def _parse_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ValueError(text)
    return int(text)


def _configure(resolver: dns.resolver.BaseResolver) -> None:
    resolver.lifetime = TIMEOUT
    # AD in a question asks for AD in the answer (RFC 6840 §5.7).
    resolver.flags = dns.flags.RD | dns.flags.AD
    resolver.use_edns(0, 0, _MAX_PAYLOAD)


class Client:
    """Asks this resolver, and name servers that it finds by it. Use it within one event loop."""

    def __init__(self, resolver: dns.resolver.Resolver) -> None:
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._resolver.nameservers, self._resolver.port = resolver.nameservers, resolver.port
        _configure(self._resolver)
        self._limit = asyncio.Semaphore(_MAX_CONCURRENT)

    async def ask_resolver(self, questions: Iterable[Question]) -> dict[Question, Answer]:
        """The resolver's answers: what most of the world sees."""
        unique = list(dict.fromkeys(questions))
        return dict(zip(unique, await asyncio.gather(*map(self._ask_resolver_once, unique)), strict=True))

    async def ask_name_servers(self, questions: Iterable[Question]) -> dict[Question, dict[str, Answer]]:
        """The answers of each authoritative server, by the server's name; empty if the servers cannot be found."""
        unique = list(dict.fromkeys(questions))
        names = list({question.name for question in unique})
        zone_of = dict(zip(names, await asyncio.gather(*map(self._find_zone, names)), strict=True))
        zones = list(set(zone_of.values()))
        servers_of = dict(zip(zones, await asyncio.gather(*map(self._find_servers, zones)), strict=True))
        queries = [
            (question, server, address)
            for question in unique
            for server, address in servers_of[zone_of[question.name]].items()
        ]
        answers = await asyncio.gather(*(self._ask_server(address, question) for question, _, address in queries))
        by_server: dict[Question, dict[str, Answer]] = {question: {} for question in unique}
        for (question, server, _), answer in zip(queries, answers, strict=True):
            by_server[question][server] = answer
        return by_server

    async def _ask_resolver_once(self, question: Question) -> Answer:
        try:
            return _parse_response(question, await self._resolve(question))
        except dns.resolver.NoNameservers:
            return Answer(error=await self._explain_failure(question))
        except (dns.exception.DNSException, OSError) as error:
            return Answer(error=str(error))

    async def _resolve(self, question: Question) -> dns.message.Message:
        """The response, which may say that there is no such name."""
        try:
            async with self._limit:
                answer = await self._resolver.resolve(*question, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN as error:
            response: dns.message.Message = next(iter(error.kwargs["responses"].values()))
            return response
        return answer.response

    async def _explain_failure(self, question: Question) -> str:
        """A validating resolver withholds a bogus answer, unless checking is disabled (CD, RFC 4035 §3.2.2)."""
        unchecked = dns.message.make_query(*question)
        unchecked.flags |= dns.flags.CD
        address, port = str(self._resolver.nameservers[0]), self._resolver.port
        try:
            reply, _ = await dns.asyncquery.udp_with_fallback(unchecked, address, TIMEOUT, port)
        except (dns.exception.DNSException, OSError):
            return "no server answers"
        is_bogus = reply.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
        return "its DNSSEC signatures do not validate" if is_bogus else "its servers fail"

    async def _ask_server(self, address: str, question: Question) -> Answer:
        query = dns.message.make_query(*question, use_edns=0, payload=_MAX_PAYLOAD)
        query.flags &= ~dns.flags.RD
        try:
            async with self._limit:
                reply, _ = await dns.asyncquery.udp_with_fallback(query, address, TIMEOUT, PORT)
        except (dns.exception.DNSException, OSError) as error:
            return Answer(error=str(error) or type(error).__name__)
        if reply.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return _parse_response(question, reply)
        return Answer(error=f"it answers {dns.rcode.to_text(reply.rcode())}")

    async def _find_zone(self, name: str) -> str:
        """The zone of `name`, from the SOA record, which a negative answer has too (RFC 2308 §3).

        For an alias, that is the zone of its target. The zone of the alias itself is that of its parent name, because
        no zone begins with an alias (RFC 1034 §3.6.2).
        """
        try:
            response = await self._resolve(Question(name, "SOA"))
        except (dns.exception.DNSException, OSError):
            return ""
        if any(rrset.rdtype == dns.rdatatype.CNAME for rrset in response.answer):
            return await self._find_zone(name.partition(".")[2] or ".")
        sections = (*response.answer, *response.authority)
        return next((str(rrset.name) for rrset in sections if rrset.rdtype == dns.rdatatype.SOA), "")

    async def _find_servers(self, zone: str) -> dict[str, str]:
        """One address of each of the zone's name servers, by their names."""
        names = (await self._ask_resolver_once(Question(zone, "NS"))).values if zone else ()
        addresses = await asyncio.gather(*map(self._find_address, names))
        return {name.rstrip("."): address for name, address in zip(names, addresses, strict=True) if address}

    async def _find_address(self, name: str) -> str:
        """IPv4 first: this machine may have no IPv6."""
        for record_type in ("A", "AAAA"):
            if values := (await self._ask_resolver_once(Question(name, record_type))).values:
                return values[0]
        return ""


def _parse_response(question: Question, response: dns.message.Message) -> Answer:
    aliases = [rrset for rrset in response.answer if rrset.rdtype == dns.rdatatype.CNAME]
    rrsets = [rrset for rrset in response.answer if rrset.rdtype.name == question.type]
    return Answer(
        values=tuple(sorted(_to_text(rdata) for rrset in rrsets for rdata in rrset)),
        alias=str(aliases[-1][0].target).rstrip(".") if aliases else "",
        ttl=max((rrset.ttl for rrset in rrsets), default=0),
        authentic=bool(response.flags & dns.flags.AD),
    )


def _to_text(rdata: dns.rdata.Rdata) -> str:
    if isinstance(rdata, TXT):
        return b"".join(rdata.strings).decode(errors="replace")
    return rdata.to_text()
