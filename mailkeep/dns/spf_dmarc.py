"""SPF and DMARC records, evaluated. checkdmarc parses them, and makes the lookups that they ask for."""

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
    """An evaluated SPF record.

    `networks` pass, includes evaluated. `default` is the result of all other senders: `fail`, `softfail`, `neutral` or
    `pass`. `terms` are those of the record, in lower case and without a leading `+`. Each has the networks that it
    lets pass, or None if its result depends on more than an address. `error` says why receivers ignore the record.
    `missing_name` is the name whose SPF record it includes in vain.
    """

    networks: Networks = ()
    default: str = ""
    terms: Mapping[str, Networks | None] = field(default_factory=dict)
    error: str = ""
    missing_name: str = ""


@dataclass(frozen=True, slots=True)
class Dmarc:
    """The explicit tags of a DMARC record; `error` says why receivers ignore it."""

    tags: Mapping[str, str]
    error: str = ""


def evaluate_spf(name: str, text: str, resolver: dns.resolver.Resolver) -> Spf:
    """More than ten lookups, or two that find nothing, are an error (RFC 7208 §4.6.4)."""
    version, *terms = text.split(" ")
    lowered = " ".join((version.lower(), *terms))  # RFC 7208 §12 allows any case of the version, checkdmarc does not
    try:
        result = cast(Any, parse_spf_record(lowered, name, resolver=resolver, timeout=resolver.lifetime))
    except SPFRecordNotFound as error:
        return Spf(error=str(error), missing_name=error.domain)
    except (SPFError, dns.exception.DNSException) as error:
        return Spf(error=str(error))
    parsed = result["parsed"]
    redirect = parsed["redirect"] or {}
    default = (redirect.get("parsed") or parsed)["all"]  # a redirect stands for `all` (RFC 7208 §6.1)
    normalised = [term.lower().removeprefix("+") for term in terms if term]
    networks = {term: _term_networks(term, parsed) for term in normalised}
    return Spf(tuple(_passing_networks(parsed)), default, networks)


def _passing_networks(parsed: Mapping[str, Any]) -> Iterator[Network]:
    for mechanism in parsed["mechanisms"]:
        yield from _mechanism_networks(mechanism)
    if (redirect := parsed["redirect"]) and redirect["parsed"]:
        yield from _passing_networks(redirect["parsed"])


def _mechanism_networks(mechanism: Mapping[str, Any]) -> Iterator[Network]:
    if mechanism["action"] != "pass":
        return
    if mechanism["mechanism"] in ("ip4", "ip6"):
        yield ip_network(mechanism["value"], strict=False)
    for host in (mechanism, *mechanism.get("hosts", ())):
        yield from map(ip_network, host.get("addresses", ()))
    if mechanism.get("parsed"):
        yield from _passing_networks(mechanism["parsed"])


def _term_networks(term: str, parsed: Mapping[str, Any]) -> Networks | None:
    if term.startswith("redirect=") and parsed["redirect"]:
        return tuple(_passing_networks(parsed["redirect"]["parsed"] or {"mechanisms": (), "redirect": None}))
    if term == "all" or term[0] in "-~?" or re.match(r"[a-z][a-z0-9_.-]*=", term):
        return ()  # part of `default`, lets nobody pass, or is a modifier (RFC 7208 §6)
    matching = [mechanism for mechanism in parsed["mechanisms"] if _mechanism_text(mechanism) == term]
    if not matching or "%" in term or term.startswith(("exists", "ptr")):
        return None
    return tuple(_mechanism_networks(matching[0]))


def _mechanism_text(mechanism: Mapping[str, Any]) -> str:
    value = mechanism["value"].lower()
    return f"{mechanism['mechanism']}{':' if value and value[0] != '/' else ''}{value}"


def evaluate_dmarc(name: str, text: str, resolver: dns.resolver.Resolver) -> Dmarc:
    try:
        result = cast(Any, parse_dmarc_record(text, name, resolver=resolver, timeout=resolver.lifetime))
    except (DMARCError, dns.exception.DNSException) as error:
        return Dmarc({}, str(error))
    return Dmarc({name: _tag_text(tag["value"]) for name, tag in result["tags"].items() if tag["explicit"]})


def _tag_text(value: object) -> str:
    """The value in one piece. checkdmarc parses addresses of reports into a list."""
    if isinstance(value, list):
        return ",".join(f"{uri['scheme']}:{uri['address']}" for uri in value if isinstance(uri, dict))
    return str(value)
