"""Judging nft's rules in their JSON form, as `nft -j list ruleset` prints them (libnftables-json(5))."""

import difflib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Rule = dict[str, Any]
Chain = dict[str, Any]


@dataclass(frozen=True)
class Ruleset:
    rules: list[Rule]
    chains: list[Chain]
    sets: list[dict[str, Any]]


def parse_ruleset(text: str) -> Ruleset:
    """Raises ValueError or KeyError for text that nft does not print."""
    items: list[dict[str, Any]] = json.loads(text)["nftables"]
    rules, chains, sets = ([item[kind] for item in items if kind in item] for kind in ("rule", "chain", "set"))
    return Ruleset(rules, chains, sets)


def describe_rule(rule: Rule) -> str:
    """A rule for people, nearly as nft writes it."""
    return " ".join(text for part in rule["expr"] if (text := _describe_part(part)))


def _describe_part(part: dict[str, Any]) -> str:
    if "match" in part:
        match = part["match"]
        operator = f"{match['op']} " if match["op"] not in ("==", "in") else ""
        return f"{_describe_field(match['left'])} {operator}{_describe_value(match['right'])}"
    [(kind, detail)] = part.items()
    if kind in ("jump", "goto"):
        return f"{kind} {detail['target']}"
    return kind if kind in ("accept", "drop", "reject", "return", "queue", "vmap", "limit", "masquerade") else ""


def _describe_field(left: Any) -> str:
    if isinstance(left, dict) and "payload" in left and "field" in left["payload"]:
        return f"{left['payload']['protocol']} {left['payload']['field']}"
    if isinstance(left, dict) and set(left) & {"meta", "ct"}:
        [(kind, detail)] = left.items()
        return f"{kind} {detail['key']}"
    return "a condition"


def _describe_value(right: Any) -> str:
    if isinstance(right, dict) and "prefix" in right:
        return f"{right['prefix']['addr']}/{right['prefix']['len']}"
    if isinstance(right, dict) and "range" in right:
        return "-".join(map(str, right["range"]))
    elements = right["set"] if isinstance(right, dict) and "set" in right else right
    return ", ".join(map(_describe_value, elements)) if isinstance(elements, list) else str(elements)


def drops_by_default(chains: Iterable[Chain]) -> bool:
    """Whether Mailkeep's input chain is loaded, and drops each packet that no rule accepts."""
    ours = [chain for chain in chains if (chain["table"], chain["name"]) == ("mailkeep", "input")]
    return any(chain.get("hook") == "input" and chain.get("policy") == "drop" for chain in ours)


def find_jail_faults(jail: str, ports: Collection[int] | None, ruleset: Ruleset) -> Iterator[str]:
    """What a jail lacks in nft. It needs sets of banned IPv4 and IPv6 addresses, and for each a rule that drops them
    on `ports` (None: on all)."""
    loaded = {nft_set["name"] for nft_set in ruleset.sets if nft_set["table"] == "f2b-table"}
    for name in (f"addr-set-{jail}", f"addr6-set-{jail}"):
        if name in loaded:
            yield from find_rule_faults(jail, [name], ports, ruleset.rules, ruleset.chains)
        else:
            yield f"jail {jail}: nft has no set {name}"


def find_rule_faults(
    jail: str, set_names: Iterable[str], ports: Collection[int] | None, rules: Iterable[Rule], chains: Iterable[Chain]
) -> Iterator[str]:
    """What is wrong with a jail's rules: packets from its sets must be dropped on `ports` (None: on all)."""
    for name in set_names:
        dropping = [rule for rule in rules if drops_members_of(rule, name) and sees_input(rule, chains)]
        if not dropping:
            yield f"jail {jail}: nft has no rule that drops what is in {name}"
        elif open_ports := _list_open_ports(dropping, ports):
            yield f"jail {jail}: the rule for {name} leaves open {open_ports}"


def _list_open_ports(rules: Iterable[Rule], ports: Collection[int] | None) -> str:
    """Those of `ports` that no rule covers, for people; empty if there are none."""
    covered = [destination_ports(rule) for rule in rules]
    if None in covered:
        return ""
    if ports is None:
        return "all ports but those it names"
    return ", ".join(str(port) for port in sorted(set(ports).difference(*filter(None, covered))))


def compare_table(loaded: str, live: str) -> list[str]:
    """The lines that a table has too much or too few, by `nft -s -t list table` then and now. `line` has come, `no
    line` has gone; the order counts too."""
    changes = difflib.ndiff(
        [line.strip() for line in loaded.splitlines()], [line.strip() for line in live.splitlines()]
    )
    return [
        f"{'no ' if change.startswith('-') else ''}`{change[2:]}`"
        for change in changes
        if change[:2] in ("- ", "+ ") and change[2:]
    ]


def list_passing_rules(ruleset: Ruleset) -> list[str]:
    """Rules in fail2ban's table that may let a packet pass. fail2ban itself writes none."""
    return [
        describe_rule(rule)
        for rule in ruleset.rules
        if rule["table"] == "f2b-table"
        and any(set(part) & {"accept", "return", "jump", "goto", "queue", "vmap"} for part in rule["expr"])
    ]


def drops_members_of(rule: Rule, set_name: str) -> bool:
    """Whether the rule drops or rejects packets whose address is in this set."""
    matches_set = any(match["right"] == f"@{set_name}" for match in equality_matches(rule))
    return matches_set and any(verdict in part for part in rule["expr"] for verdict in ("drop", "reject"))


def sees_input(rule: Rule, chains: Iterable[Chain]) -> bool:
    """Whether incoming packets pass the rule's chain."""
    return any(
        chain.get("hook") in ("input", "prerouting")
        for chain in chains
        if (chain["family"], chain["table"], chain["name"]) == (rule["family"], rule["table"], rule["chain"])
    )


def destination_ports(rule: Rule) -> set[int] | None:
    """The destination ports that the rule is limited to; None: it is not."""
    limits = [set(_port_numbers(match["right"])) for match in equality_matches(rule) if match_field(match) == "dport"]
    return set.intersection(*limits) if limits else None


def equality_matches(rule: Rule) -> list[dict[str, Any]]:
    """The rule's conditions of the kind "field is value" or "field is in set"."""
    return [part["match"] for part in rule["expr"] if "match" in part and part["match"]["op"] in ("==", "in")]


def match_field(match: dict[str, Any]) -> str:
    """The header field (`saddr`, `dport`) or meta key (`iif`) that a condition is about."""
    left = match["left"]
    return str(left.get("payload", {}).get("field") or left.get("meta", {}).get("key") or "")


def list_elements(right: Any) -> list[Any]:
    """The values on the right side of a condition: those of a set, or the only one."""
    elements: list[Any] = right["set"] if isinstance(right, dict) and "set" in right else [right]
    return elements


def _port_numbers(right: Any) -> Iterator[int]:
    for element in list_elements(right):
        if isinstance(element, dict):
            first, last = element["range"]
            yield from range(first, last + 1)
        else:
            yield int(element)
