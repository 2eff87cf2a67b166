"""What an SPF or a DMARC record comes to. Parsers, and the look-ups that such records ask for, are checkdmarc's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, cast

import dns.exception
import dns.resolver
from checkdmarc.dmarc import DMARCError, parse_dmarc_record
from checkdmarc.spf import SPFError, parse_spf_record

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Spf:
    """`passes`: who does, includes evaluated; `rest`: how all others fare (`fail`, `softfail`, `neutral`, `pass`);
    `terms` as they are written. `error` says why receivers take the record for none."""

    passes: tuple[Network, ...] = ()
    rest: str = ""
    terms: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Dmarc:
    """The tags that are written in the record; `error` says why receivers take it for none."""

    tags: Mapping[str, str]
    error: str = ""


def spf(name: str, text: str, resolver: dns.resolver.Resolver) -> Spf:
    """More than ten look-ups, or two that find nothing, are an error (RFC 7208 §4.6.4)."""
    try:
        found = cast(Any, parse_spf_record(text, name, resolver=resolver, timeout=resolver.lifetime))
    except (SPFError, dns.exception.DNSException) as error:
        return Spf(error=str(error))
    parsed = found["parsed"]
    redirect = parsed["redirect"] or {}
    rest = (redirect.get("parsed") or parsed)["all"]  # a redirect stands for `all` (RFC 7208 §6.1)
    return Spf(tuple(_passes(parsed)), rest, tuple(text.split()[1:]))


def _passes(parsed: Mapping[str, Any]) -> Iterator[Network]:
    for one in parsed["mechanisms"]:
        if one["action"] != "pass":
            continue
        if one["mechanism"] in ("ip4", "ip6"):
            yield ip_network(one["value"], strict=False)
        for host in (one, *one.get("hosts", ())):
            yield from map(ip_network, host.get("addresses", ()))
        if one.get("parsed"):
            yield from _passes(one["parsed"])
    if (redirect := parsed["redirect"]) and redirect["parsed"]:
        yield from _passes(redirect["parsed"])


def dmarc(name: str, text: str, resolver: dns.resolver.Resolver) -> Dmarc:
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
