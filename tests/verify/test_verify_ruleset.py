"""nft's rules are read as nft means them. The rules are as `nft -j list ruleset` prints them."""

from ipaddress import ip_network
from typing import Any

import pytest

from mailkeep.verify import ruleset

ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}


def match(key: str, name: str, right: Any, op: str = "==") -> dict[str, Any]:
    """`tcp dport 25` is match("tcp", "dport", 25), `iif lo` match("meta", "iif", "lo")."""
    left = {key: {"key": name}} if key in ("meta", "ct") else {"payload": {"protocol": key, "field": name}}
    return {"match": {"op": op, "left": left, "right": right}}


def rule(*expressions: dict[str, Any], chain: str = "input") -> dict[str, Any]:
    return {"family": "inet", "table": "mailkeep", "chain": chain, "expr": list(expressions)}


def states(**verdicts: str) -> dict[str, Any]:
    data = [[state, {verdict: None}] for state, verdict in verdicts.items()]
    return {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": data}}}


@pytest.mark.parametrize(
    ("expressions", "opens"),
    [
        ((match("meta", "iif", "lo"), ACCEPT), None),
        ((match("ip", "saddr", "@blocked4"), {"counter": {}}, DROP), None),
        ((states(established="accept", invalid="drop"),), None),
        ((match("icmp", "type", "echo-request"), {"limit": {}}, ACCEPT), None),
        ((match("ip6", "saddr", "fe80::"), match("udp", "dport", 546), ACCEPT), None),
        ((match("tcp", "dport", {"set": [22, 25]}), match("ct", "state", "new", "in"), ACCEPT), {22, 25}),
        ((match("tcp", "dport", {"range": [5000, 5002]}), ACCEPT), {5000, 5001, 5002}),
        ((match("tcp", "dport", {"set": [25, {"range": [80, 81]}]}), ACCEPT), {25, 80, 81}),
        ((match("udp", "dport", 53), ACCEPT), "UDP [53]"),
        ((match("tcp", "dport", 25, "!="), ACCEPT), "more than single ports"),
        ((match("ip", "saddr", "203.0.113.7"), ACCEPT), "more than single ports"),
        ((ACCEPT,), "more than single ports"),
        (({"jump": {"target": "other"}},), "more than single ports"),
        ((states(new="accept"),), "new connections of any kind"),
    ],
)
def test_what_a_rule_opens(expressions: tuple[dict[str, Any], ...], opens: object) -> None:
    assert ruleset.lets_in(rule(*expressions)) == opens


def test_a_ban_is_a_rule_that_drops_what_is_in_the_set() -> None:
    ban = rule(match("tcp", "dport", {"set": [25, 465]}), match("ip", "saddr", "@addr-set-postfix"), DROP)
    assert ruleset.drops_members_of(ban, "addr-set-postfix")
    assert not ruleset.drops_members_of(ban, "addr-set-dovecot")
    assert not ruleset.drops_members_of(
        rule(match("ip", "saddr", "@addr-set-postfix"), {"counter": {}}), "addr-set-postfix"
    )
    assert ruleset.destination_ports(ban) == {25, 465}
    assert ruleset.destination_ports(rule(match("ip", "saddr", "@addr-set-recidive"), DROP)) is None


def test_a_rule_counts_only_in_a_chain_that_packets_pass() -> None:
    chains = [
        {"family": "inet", "table": "mailkeep", "name": "input", "hook": "input"},
        {"family": "inet", "table": "mailkeep", "name": "unused"},
    ]
    assert ruleset.sees_input(rule(DROP), chains)
    assert not ruleset.sees_input(rule(DROP, chain="unused"), chains)


def test_networks_are_the_same_however_nft_writes_them() -> None:
    elements = [{"prefix": {"addr": "192.0.2.0", "len": 25}}, {"range": ["192.0.2.128", "192.0.2.255"]}, "2001:db8::1"]
    assert ruleset.networks(elements) == {ip_network("192.0.2.0/24"), ip_network("2001:db8::1")}
