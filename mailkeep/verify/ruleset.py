"""Reading nft's rules in its JSON form (libnftables-json(5))."""

from collections.abc import Iterable, Iterator
from ipaddress import collapse_addresses, ip_address, ip_network, summarize_address_range
from typing import Any

Rule = dict[str, Any]
HARMLESS = {"icmp", "icmpv6"}


def drops(rule: Rule, set_name: str) -> bool:
    """Whether it drops packets from addresses of this set."""
    from_set = any(match["right"] == f"@{set_name}" for match in _matches(rule))
    return from_set and any(verdict in part for part in rule["expr"] for verdict in ("drop", "reject"))


def sees_input(rule: Rule, chains: Iterable[dict[str, Any]]) -> bool:
    """Whether its chain is one that incoming packets pass."""
    return any(
        chain.get("hook") in ("input", "prerouting")
        for chain in chains
        if (chain["family"], chain["table"], chain["name"]) == (rule["family"], rule["table"], rule["chain"])
    )


def ports(rule: Rule) -> set[int] | None:
    """The destination ports that it is about; None: any."""
    found = [set(_numbers(match["right"])) for match in _matches(rule) if _field(match) == "dport"]
    return set.intersection(*found) if found else None


def lets_in(rule: Rule) -> str | set[int] | None:
    """The TCP ports that it opens to new connections, None when it opens nothing of interest, or in words what else."""
    if any(_opens(part) for part in rule["expr"] if "vmap" in part):
        return "new connections of any kind"
    if not any(verdict in part for part in rule["expr"] for verdict in ("accept", "jump", "goto")):
        return None
    matches = _matches(rule)
    protocols = {
        match["left"]["payload"]["protocol"] for match in matches if "protocol" in match["left"].get("payload", {})
    }
    if protocols & HARMLESS or any(_field(match) in ("iif", "iifname") and match["right"] == "lo" for match in matches):
        return None
    if (found := ports(rule)) is None:
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


def _matches(rule: Rule) -> list[dict[str, Any]]:
    return [part["match"] for part in rule["expr"] if "match" in part and part["match"]["op"] in ("==", "in")]


def _field(match: dict[str, Any]) -> str:
    left = match["left"]
    return str(left.get("payload", {}).get("field") or left.get("meta", {}).get("key") or "")


def _numbers(right: Any) -> Iterator[int]:
    for one in right["set"] if isinstance(right, dict) and "set" in right else [right]:
        if isinstance(one, dict):
            first, last = one["range"]
            yield from range(first, last + 1)
        else:
            yield int(one)
