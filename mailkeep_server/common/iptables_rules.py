"""Reads the output of iptables-save(8) into the form of nft's rules, for `packet_path`.

nft lists the tables of iptables-nft too, but does not say what a module of iptables matches. A rule for established
connections looks like one for all. Those of iptables-legacy it does not list.
"""

import shlex
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mailkeep_server.common.commands import run
from mailkeep_server.common.nft_ruleset import Chain, Rule, Ruleset

HOOKS = {"INPUT": "input", "PREROUTING": "prerouting"}
TARGETS = {
    "ACCEPT": "accept",
    "DROP": "drop",
    "REJECT": "reject",
    "RETURN": "return",
    "NFQUEUE": "queue",
    "DNAT": "dnat",
    "REDIRECT": "redirect",
}
SILENT_TARGETS = ("LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "CT", "TRACE", "TCPMSS", "AUDIT", "SET")
"""After these, the packet goes on."""
UNKNOWN = {"xt": {"type": "match", "name": "unknown"}}


def _build_match(left: dict[str, Any], right: Any) -> dict[str, Any]:
    return {"match": {"op": "==", "left": left, "right": right}}


def _match_address(field: str) -> Callable[[str, str], dict[str, Any]]:
    def convert_address(value: str, family: str) -> dict[str, Any]:
        addr, _, length = value.partition("/")
        full = 32 if family == "ip" else 128
        if not length.isdecimal() and length:
            return UNKNOWN  # a mask of several numbers
        left = {"payload": {"protocol": family, "field": field}}
        return _build_match(left, {"prefix": {"addr": addr, "len": int(length or full)}})

    return convert_address


def _match_ports(value: str, _family: str) -> dict[str, Any]:
    ranges = [
        {"range": [int(first), int(last or 65535)]} if separator else int(first)
        for first, separator, last in (part.partition(":") for part in value.split(","))
    ]
    return _build_match({"payload": {"protocol": "th", "field": "dport"}}, {"set": ranges})


def _match_type(flag: str) -> Callable[[str, str], dict[str, Any]]:
    return lambda value, _: _build_match({"fib": {"result": "type", "flags": [flag]}}, value.lower().split(","))


OPTIONS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "-s": _match_address("saddr"),
    "-d": _match_address("daddr"),
    "-i": lambda value, _: _build_match({"meta": {"key": "iifname"}}, value.replace("+", "*")),
    "-o": lambda *_: _build_match({"payload": {"protocol": "udp", "field": "none"}}, 0),  # incoming packets have none
    "-p": lambda value, _: _build_match({"meta": {"key": "l4proto"}}, value),
    "--dport": _match_ports,
    "--dports": _match_ports,
    "--ctstate": lambda value, _: _build_match({"ct": {"key": "state"}}, value.lower().split(",")),
    "--state": lambda value, _: _build_match({"ct": {"key": "state"}}, value.lower().split(",")),
    "--dst-type": _match_type("daddr"),
    "--src-type": _match_type("saddr"),
    "--limit": lambda *_: {"limit": {}},
    "--hashlimit-upto": lambda *_: {"limit": {}},
    "--hashlimit-above": lambda *_: {"limit": {"inv": True}},
    "--connlimit-upto": lambda *_: {"limit": {}},
    "--connlimit-above": lambda *_: {"limit": {"inv": True}},
    "--hitcount": lambda *_: {"limit": {"inv": True}},  # of `recent`: an address that came so often
    "--match-set": lambda value, family: _build_match({"payload": {"protocol": family, "field": "saddr"}}, f"@{value}"),
}
IGNORED_OPTIONS = (
    *("--comment", "--limit-burst", "-m", "--reject-with", "--log-prefix", "--log-level", "--packet"),
    *("--hashlimit-burst", "--hashlimit-mode", "--hashlimit-name", "--hashlimit-srcmask", "--hashlimit-htable-expire"),
    *("--connlimit-mask", "--connlimit-saddr"),
)
"""They have one value at most, and do not matter to a new connection."""


def parse_iptables(text: str, family: str) -> Ruleset:
    """The chains and rules of all tables; `family` is `ip` or `ip6`."""
    table, rules, chains = "", list[Rule](), list[Chain]()
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split()
            chain: Chain = {"family": family, "table": table, "name": name}
            chains.append(chain | ({"hook": HOOKS[name], "policy": policy.lower()} if name in HOOKS else {}))
        elif line.startswith("-A "):
            _, name, *words = shlex.split(line)
            rules.append({"family": family, "table": table, "chain": name, "expr": _parse_rule(words, family)})
    return Ruleset(rules, chains, [])


def _parse_rule(words: list[str], family: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    verdict: list[dict[str, Any]] = []
    words, is_negated = list(words), False
    while words:
        option = words.pop(0)
        if option == "!":
            is_negated = True
            continue
        values = []
        while words and not words[0].startswith("-") and words[0] != "!":
            values.append(words.pop(0))
        if option in ("-j", "-g"):
            verdict = _parse_target(option, values[0])
        elif option == "--tcp-flags":
            parts.append(_negate(_parse_flags(*values), is_negated))
        elif option in OPTIONS:
            parts.append(_negate(OPTIONS[option](values[0], family), is_negated))
        elif option not in IGNORED_OPTIONS and not verdict:
            parts.append(UNKNOWN)
        is_negated = False
    return parts + verdict


def _parse_target(option: str, target: str) -> list[dict[str, Any]]:
    if target in TARGETS:
        return [{TARGETS[target]: None}]
    return [] if target in SILENT_TARGETS else [{"goto" if option == "-g" else "jump": {"target": target}}]


def _parse_flags(mask: str, flags: str) -> dict[str, Any]:
    left = {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, mask.lower().split(",")]}
    return _build_match(left, [] if flags == "NONE" else flags.lower().split(","))


def _negate(part: dict[str, Any], is_negated: bool) -> dict[str, Any]:
    return {"match": part["match"] | {"op": "!="}} if is_negated and "match" in part else part


def merge_iptables(ruleset: Ruleset, saved: Iterable[Ruleset]) -> Ruleset:
    """nft's ruleset, with the tables that iptables-save has printed in place of nft's words for them."""
    saved = list(saved)
    tables = {(chain["family"], chain["table"]) for other in saved for chain in other.chains}

    def is_kept(item: dict[str, Any]) -> bool:
        return (item["family"], item["table"]) not in tables

    return Ruleset(
        [*filter(is_kept, ruleset.rules), *(rule for other in saved for rule in other.rules)],
        [*filter(is_kept, ruleset.chains), *(chain for other in saved for chain in other.chains)],
        ruleset.sets,
    )


def explain_modules(ruleset: Ruleset) -> Ruleset:
    """The ruleset, with rules that use modules of iptables as iptables-nft-save prints them, where it is installed."""
    if not any("xt" in part for rule in ruleset.rules for part in rule["expr"]):
        return ruleset
    return merge_iptables(ruleset, filter(None, map(_save_rules, ("ip", "ip6"))))


def add_legacy(ruleset: Ruleset, saved: Iterable[Ruleset]) -> Ruleset:
    """The ruleset, and beside it the tables of iptables-legacy: the same kernel asks both."""
    saved = list(saved)
    for other in saved:
        for item in (*other.rules, *other.chains):
            item["table"] += " (iptables-legacy)"
    return merge_iptables(ruleset, saved)


def read_legacy() -> list[Ruleset]:
    """The tables of iptables-legacy. It needs the right to open raw sockets."""
    families = [family for family in ("ip", "ip6") if _has_legacy_tables(family)]
    return [*filter(None, (_save_rules(family, "legacy") for family in families))]


def _has_legacy_tables(family: str) -> bool:
    try:
        return bool(Path(f"/proc/net/{family}_tables_names").read_text())
    except OSError:
        return False


def _save_rules(family: str, kind: str = "nft") -> Ruleset | None:
    try:
        return parse_iptables(run(f"{family}tables-{kind}-save"), family)
    except (OSError, RuntimeError, subprocess.TimeoutExpired):
        return None
