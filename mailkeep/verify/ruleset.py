"""The openings and blocked networks of the firewall, from nft's rules in JSON (libnftables-json(5))."""

from collections.abc import Iterable, Iterator
from ipaddress import collapse_addresses, ip_address, ip_network, summarize_address_range
from typing import Any

from mailkeep.parts.firewall import Door
from mailkeep_server.common.nft_ruleset import (
    Rule,
    describe_rule,
    destination_ports,
    equality_matches,
    list_elements,
    match_field,
)

ICMP = {"icmp", "icmpv6"}
DHCPV6_CLIENT_PORT = 546  # RFC 8415 section 7.2


def find_opening(rule: Rule) -> str | set[Door] | None:
    """The ports that a rule opens to new connections, and to whom; or a description of a wider opening.

    None: the rule opens nothing, or only what every server needs (loopback, ICMP, DHCPv6).
    """
    if any(_accepts_new(part) for part in rule["expr"] if "vmap" in part):
        return "new connections of any kind"
    if not any(verdict in part for part in rule["expr"] for verdict in ("accept", "jump", "goto")):
        return None
    matches = equality_matches(rule)
    protocols = {
        match["left"]["payload"]["protocol"] for match in matches if "protocol" in match["left"].get("payload", {})
    }
    if protocols & ICMP or any(_is_loopback(match) for match in matches):
        return None
    if (ports := destination_ports(rule)) is None:
        return "more than single ports"
    if "udp" in protocols and ports == {DHCPV6_CLIENT_PORT}:
        return None
    sources = [match["right"] for match in matches if match_field(match) == "saddr"]
    if any(isinstance(source, str) and source.startswith("@") for source in sources):
        return f"{describe_rule(rule)}: whoever is in that set"
    networks = {str(network) for source in sources for network in parse_networks(list_elements(source))} or {""}
    return {("udp" if "udp" in protocols else "tcp", port, network) for port in ports for network in networks}


def _is_loopback(match: dict[str, Any]) -> bool:
    return match_field(match) in ("iif", "iifname") and match["right"] == "lo"


def _accepts_new(part: dict[str, Any]) -> bool:
    """Whether a verdict map accepts more than packets of existing connections."""
    verdicts = part["vmap"]["data"].get("set", ())
    return any("accept" in verdict for state, verdict in verdicts if state not in ("established", "related"))


def parse_networks(elements: Iterable[Any]) -> set[object]:
    """The networks that the elements of an interval set cover, in their shortest form."""
    networks = [network for element in elements for network in _parse_element(element)]
    return {
        *collapse_addresses(network for network in networks if network.version == 4),
        *collapse_addresses(network for network in networks if network.version == 6),
    }


def _parse_element(element: Any) -> Iterator[Any]:
    if isinstance(element, str):
        yield ip_network(element)
    elif "prefix" in element:
        yield ip_network(f"{element['prefix']['addr']}/{element['prefix']['len']}")
    else:
        yield from summarize_address_range(*map(ip_address, element["range"]))
