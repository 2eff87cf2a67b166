"""Whether nft's rules drop what is banned, in the JSON form of `nft -j list ruleset` (libnftables-json(5))."""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Rule = dict[str, Any]


@dataclass(frozen=True)
class Listed:
    rules: list[Rule]
    chains: list[dict[str, Any]]
    sets: list[dict[str, Any]]


def listed(text: str) -> Listed:
    """What nft printed."""
    items: list[dict[str, Any]] = json.loads(text)["nftables"]
    kinds = ([item[kind] for item in items if kind in item] for kind in ("rule", "chain", "set"))
    return Listed(*kinds)


def keeps_out(chains: Iterable[dict[str, Any]]) -> bool:
    """Whether our table drops what comes in and is not let in."""
    ours = [chain for chain in chains if (chain["table"], chain["name"]) == ("mailkeep", "input")]
    return any(chain.get("hook") == "input" and chain.get("policy") == "drop" for chain in ours)


def jail_faults(jail: str, wanted: Collection[int] | None, found: Listed) -> Iterator[str]:
    """What a jail lacks: fail2ban keeps who it bans in a set for IPv4 and one for IPv6, and a rule looks at each."""
    names = {one["name"] for one in found.sets if one["table"] == "f2b-table"}
    for name in (f"addr-set-{jail}", f"addr6-set-{jail}"):
        if name not in names:
            yield f"jail {jail}: nft has no set {name}"
        else:
            yield from faults(jail, [name], None if wanted is None else set(wanted), found.rules, found.chains)


def faults(
    jail: str, sets: Iterable[str], wanted: set[int] | None, rules: Iterable[Rule], chains: Iterable[dict[str, Any]]
) -> Iterator[str]:
    """What is wrong with the rules of a jail: what is in its sets must be dropped on these ports (None: all)."""
    for name in sets:
        found = [rule for rule in rules if drops(rule, name) and sees_input(rule, chains)]
        if not found:
            yield f"jail {jail}: nft has no rule that drops what is in {name}"
        elif left := _uncovered(found, wanted):
            yield f"jail {jail}: the rule for {name} leaves open {left}"


def _uncovered(rules: Iterable[Rule], wanted: set[int] | None) -> str:
    """The ports of these (None: all there are) that no rule covers."""
    covered = [ports(rule) for rule in rules]
    if None in covered:
        return ""
    if wanted is None:
        return "all ports but those it names"
    return ", ".join(str(port) for port in sorted(wanted.difference(*(one for one in covered if one))))


def drops(rule: Rule, set_name: str) -> bool:
    """Whether it drops packets from addresses of this set."""
    from_set = any(match["right"] == f"@{set_name}" for match in matches(rule))
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
    found = [set(_numbers(match["right"])) for match in matches(rule) if field(match) == "dport"]
    return set.intersection(*found) if found else None


def matches(rule: Rule) -> list[dict[str, Any]]:
    return [part["match"] for part in rule["expr"] if "match" in part and part["match"]["op"] in ("==", "in")]


def field(match: dict[str, Any]) -> str:
    left = match["left"]
    return str(left.get("payload", {}).get("field") or left.get("meta", {}).get("key") or "")


def _numbers(right: Any) -> Iterator[int]:
    for one in right["set"] if isinstance(right, dict) and "set" in right else [right]:
        if isinstance(one, dict):
            first, last = one["range"]
            yield from range(first, last + 1)
        else:
            yield int(one)
