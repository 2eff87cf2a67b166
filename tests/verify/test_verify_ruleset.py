"""nft's rules are read as nft applies them. The samples are as `nft -j list ruleset` prints them."""

from ipaddress import ip_network
from typing import Any

import pytest

from mailkeep.verify import ruleset
from mailkeep_server.common import nft_ruleset

ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}
OFFICE = {"prefix": {"addr": "198.51.100.0", "len": 24}}


def match_on(key: str, name: str, right: Any, op: str = "==") -> dict[str, Any]:
    """`tcp dport 25` is match_on("tcp", "dport", 25), `iif lo` match_on("meta", "iif", "lo")."""
    left = {key: {"key": name}} if key in ("meta", "ct") else {"payload": {"protocol": key, "field": name}}
    return {"match": {"op": op, "left": left, "right": right}}


def doors(*ports: int, protocol: str = "tcp", network: str = "") -> set[tuple[str, int, str]]:
    return {(protocol, port, network) for port in ports}


def build_rule(*expressions: dict[str, Any], chain: str = "input") -> dict[str, Any]:
    return {"family": "inet", "table": "mailkeep", "chain": chain, "expr": list(expressions)}


def state_map(**verdicts: str) -> dict[str, Any]:
    data = [[state, {verdict: None}] for state, verdict in verdicts.items()]
    return {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": data}}}


@pytest.mark.parametrize(
    ("expressions", "opens"),
    [
        ((match_on("meta", "iif", "lo"), ACCEPT), None),
        ((match_on("ip", "saddr", "@blocked4"), {"counter": {}}, DROP), None),
        ((state_map(established="accept", invalid="drop"),), None),
        ((match_on("icmp", "type", "echo-request"), {"limit": {}}, ACCEPT), None),
        ((match_on("ip6", "saddr", "fe80::"), match_on("udp", "dport", 546), ACCEPT), None),
        ((match_on("tcp", "dport", {"set": [22, 25]}), match_on("ct", "state", "new", "in"), ACCEPT), doors(22, 25)),
        ((match_on("tcp", "dport", {"range": [5000, 5002]}), ACCEPT), doors(5000, 5001, 5002)),
        ((match_on("tcp", "dport", {"set": [25, {"range": [80, 81]}]}), ACCEPT), doors(25, 80, 81)),
        ((match_on("udp", "dport", 53), ACCEPT), doors(53, protocol="udp")),
        (
            (match_on("ip", "saddr", {"set": ["192.0.2.7", OFFICE]}), match_on("tcp", "dport", 9100), ACCEPT),
            doors(9100, network="192.0.2.7/32") | doors(9100, network="198.51.100.0/24"),
        ),
        (
            (match_on("ip", "saddr", "@friends"), match_on("tcp", "dport", 9100), ACCEPT),
            "ip saddr @friends tcp dport 9100 accept: whoever is in that set",
        ),
        ((match_on("tcp", "dport", 25, "!="), ACCEPT), "more than single ports"),
        ((match_on("ip", "saddr", "203.0.113.7"), ACCEPT), "more than single ports"),
        ((ACCEPT,), "more than single ports"),
        (({"jump": {"target": "other"}},), "more than single ports"),
        ((state_map(new="accept"),), "new connections of any kind"),
    ],
)
def test_what_a_rule_opens(expressions: tuple[dict[str, Any], ...], opens: object) -> None:
    assert ruleset.find_opening(build_rule(*expressions)) == opens


def test_a_ban_is_a_rule_that_drops_what_is_in_the_set() -> None:
    ban = build_rule(match_on("tcp", "dport", {"set": [25, 465]}), match_on("ip", "saddr", "@addr-set-postfix"), DROP)
    assert nft_ruleset.drops_members_of(ban, "addr-set-postfix")
    assert not nft_ruleset.drops_members_of(ban, "addr-set-dovecot")
    assert not nft_ruleset.drops_members_of(
        build_rule(match_on("ip", "saddr", "@addr-set-postfix"), {"counter": {}}), "addr-set-postfix"
    )
    assert nft_ruleset.destination_ports(ban) == {25, 465}
    assert nft_ruleset.destination_ports(build_rule(match_on("ip", "saddr", "@addr-set-recidive"), DROP)) is None


def test_a_rule_counts_only_in_a_chain_that_packets_pass() -> None:
    chains = [
        {"family": "inet", "table": "mailkeep", "name": "input", "hook": "input"},
        {"family": "inet", "table": "mailkeep", "name": "unused"},
    ]
    assert nft_ruleset.sees_input(build_rule(DROP), chains)
    assert not nft_ruleset.sees_input(build_rule(DROP, chain="unused"), chains)


def test_networks_are_the_same_however_nft_writes_them() -> None:
    elements = [{"prefix": {"addr": "192.0.2.0", "len": 25}}, {"range": ["192.0.2.128", "192.0.2.255"]}, "2001:db8::1"]
    assert ruleset.parse_networks(elements) == {ip_network("192.0.2.0/24"), ip_network("2001:db8::1")}
