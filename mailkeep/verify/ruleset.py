"""Reading nft's rules in its JSON form (libnftables-json(5))."""

from collections.abc import Iterable, Iterator
from ipaddress import collapse_addresses, ip_address, ip_network, summarize_address_range
from typing import Any

from mailkeep_server.common.nft_ruleset import (
    Rule,
    destination_ports,
    drops_members_of,
    equality_matches,
    match_field,
    sees_input,
)

__all__ = ["Rule", "destination_ports", "drops_members_of", "lets_in", "networks", "sees_input"]

HARMLESS = {"icmp", "icmpv6"}


def lets_in(rule: Rule) -> str | set[int] | None:
    """The TCP ports that it opens to new connections, None when it opens nothing of interest, or in words what else."""
    if any(_opens(part) for part in rule["expr"] if "vmap" in part):
        return "new connections of any kind"
    if not any(verdict in part for part in rule["expr"] for verdict in ("accept", "jump", "goto")):
        return None
    matched = equality_matches(rule)
    protocols = {
        match["left"]["payload"]["protocol"] for match in matched if "protocol" in match["left"].get("payload", {})
    }
    if protocols & HARMLESS or any(
        match_field(match) in ("iif", "iifname") and match["right"] == "lo" for match in matched
    ):
        return None
    if (found := destination_ports(rule)) is None:
        return "more than single ports"
    if "udp" in protocols:
        return None if found == {546} else f"UDP {sorted(found)}"  # DHCPv6 (RFC 8415 section 7.2)
    return found


def _opens(part: dict[str, Any]) -> bool:
    """Whether a verdict map accepts anything but what belongs to connections that are there."""
    verdicts = part["vmap"]["data"].get("set", ())
    return any("accept" in verdict for state, verdict in verdicts if state not in ("established", "related"))


def networks(elements: Iterable[Any]) -> set[object]:
    """The networks that the elements of an interval set cover, in their shortest form."""
    found = [network for element in elements for network in _element(element)]
    return {
        *collapse_addresses(network for network in found if network.version == 4),
        *collapse_addresses(network for network in found if network.version == 6),
    }


def _element(element: Any) -> Iterator[Any]:
    if isinstance(element, str):
        yield ip_network(element)
    elif "prefix" in element:
        yield ip_network(f"{element['prefix']['addr']}/{element['prefix']['len']}")
    else:
        yield from summarize_address_range(*map(ip_address, element["range"]))
