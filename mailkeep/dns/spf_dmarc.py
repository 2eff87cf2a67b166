"""What an SPF or a DMARC record comes to. Parsers, and the look-ups that such records ask for, are checkdmarc's."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, cast

import dns.exception
import dns.resolver
from checkdmarc.dmarc import DMARCError, parse_dmarc_record
from checkdmarc.spf import SPFError, SPFRecordNotFound, parse_spf_record

Network = IPv4Network | IPv6Network
Networks = tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class Spf:
    """`passes`: who does, includes evaluated; `rest`: how all others fare (`fail`, `softfail`, `neutral`, `pass`);
    `terms` as they are written (but in small letters, and without the `+` that goes without saying), each with whom it
    lets pass, or None where that is more than an address tells. `error` says why receivers take the record for none;
    `lacks` is the name whose SPF record it asks for in vain."""

    passes: Networks = ()
    rest: str = ""
    terms: Mapping[str, Networks | None] = field(default_factory=dict)
    error: str = ""
    lacks: str = ""


@dataclass(frozen=True, slots=True)
class Dmarc:
    """The tags that are written in the record; `error` says why receivers take it for none."""

    tags: Mapping[str, str]
    error: str = ""


def evaluate_spf(name: str, text: str, resolver: dns.resolver.Resolver) -> Spf:
    """More than ten look-ups, or two that find nothing, are an error (RFC 7208 §4.6.4)."""
    version, *terms = text.split(" ")
    small = " ".join((version.lower(), *terms))  # the version's case is nothing to receivers (§12), but to checkdmarc
    try:
        found = cast(Any, parse_spf_record(small, name, resolver=resolver, timeout=resolver.lifetime))
    except SPFRecordNotFound as error:
        return Spf(error=str(error), lacks=error.domain)
    except (SPFError, dns.exception.DNSException) as error:
        return Spf(error=str(error))
    parsed = found["parsed"]
    redirect = parsed["redirect"] or {}
    rest = (redirect.get("parsed") or parsed)["all"]  # a redirect stands for `all` (RFC 7208 §6.1)
    written = [term.lower().removeprefix("+") for term in terms if term]
    return Spf(tuple(_passes(parsed)), rest, {term: _term(term, parsed) for term in written})


def _passes(parsed: Mapping[str, Any]) -> Iterator[Network]:
    for one in parsed["mechanisms"]:
        yield from _lets_pass(one)
    if (redirect := parsed["redirect"]) and redirect["parsed"]:
        yield from _passes(redirect["parsed"])


def _lets_pass(one: Mapping[str, Any]) -> Iterator[Network]:
    if one["action"] != "pass":
        return
    if one["mechanism"] in ("ip4", "ip6"):
        yield ip_network(one["value"], strict=False)
    for host in (one, *one.get("hosts", ())):
        yield from map(ip_network, host.get("addresses", ()))
    if one.get("parsed"):
        yield from _passes(one["parsed"])


def _term(term: str, parsed: Mapping[str, Any]) -> Networks | None:
    if term.startswith("redirect=") and parsed["redirect"]:
        return tuple(_passes(parsed["redirect"]["parsed"] or {"mechanisms": (), "redirect": None}))
    if term == "all" or term[0] in "-~?" or re.match(r"[a-z][a-z0-9_.-]*=", term):
        return ()  # `rest` has it; or it lets nobody pass; or it is a modifier (RFC 7208 §6)
    listed = [one for one in parsed["mechanisms"] if _written_mechanism(one) == term]
    if not listed or "%" in term or term.startswith(("exists", "ptr")):
        return None
    return tuple(_lets_pass(listed[0]))


def _written_mechanism(one: Mapping[str, Any]) -> str:
    value = one["value"].lower()
    return f"{one['mechanism']}{':' if value and value[0] != '/' else ''}{value}"


def evaluate_dmarc(name: str, text: str, resolver: dns.resolver.Resolver) -> Dmarc:
    try:
        found = cast(Any, parse_dmarc_record(text, name, resolver=resolver, timeout=resolver.lifetime))
    except (DMARCError, dns.exception.DNSException) as error:
        return Dmarc({}, str(error))
    return Dmarc({tag: _written(one["value"]) for tag, one in found["tags"].items() if one["explicit"]})


def _written(value: object) -> str:
    """A tag's value in one piece: addresses of reports come as a list."""
    if isinstance(value, list):
        return ",".join(f"{one['scheme']}:{one['address']}" for one in value if isinstance(one, dict))
    return str(value)
