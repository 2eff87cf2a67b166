"""A jail without working firewall rules, and a firewall that lets everything in, are seen in nft's own listing."""

import json
from copy import deepcopy
from typing import Any

from mailkeep_server.common.nft_ruleset import drops_by_default, find_jail_faults, parse_ruleset


def listing(*ports: int) -> dict[str, Any]:
    """That of `nft -j -t list ruleset` with a jail `dovecot`."""
    place = {"family": "inet", "table": "f2b-table"}
    chain = {**place, "name": "f2b-chain", "hook": "input", "type": "filter", "prio": -1, "policy": "accept"}
    items: list[dict[str, Any]] = [{"metainfo": {"json_schema_version": 1}}, {"chain": chain}]
    for name, protocol in (("addr-set-dovecot", "ip"), ("addr6-set-dovecot", "ip6")):
        dport = {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"set": [*ports]}}
        saddr = {"op": "==", "left": {"payload": {"protocol": protocol, "field": "saddr"}}, "right": f"@{name}"}
        items.append({"set": {**place, "name": name}})
        rule = {**place, "chain": "f2b-chain", "expr": [{"match": dport}, {"match": saddr}, {"drop": None}]}
        items.append({"rule": rule})
    return {"nftables": items}


def faults(ruleset: dict[str, Any], *ports: int) -> list[str]:
    return list(find_jail_faults("dovecot", ports, parse_ruleset(json.dumps(ruleset))))


def test_a_jail_with_sets_and_rules_is_alive() -> None:
    assert faults(listing(143, 993), 143, 993) == []


def test_a_jail_without_rules_or_sets_or_with_too_few_ports_is_dead() -> None:
    whole = listing(143)
    without = {"nftables": [item for item in whole["nftables"] if "rule" not in item]}
    assert len(faults(without, 143)) == 2
    assert "no rule that drops what is in addr-set-dovecot" in faults(without, 143)[0]
    assert faults({"nftables": []}, 143)[0] == "jail dovecot: nft has no set addr-set-dovecot"
    assert faults(whole, 143, 993)[0] == "jail dovecot: the rule for addr-set-dovecot leaves open 993"
    on_output = deepcopy(whole)
    on_output["nftables"][1]["chain"]["hook"] = "output"
    assert len(faults(on_output, 143)) == 2


def test_a_firewall_that_is_gone_or_accepts_keeps_nobody_out() -> None:
    ours = {"family": "inet", "table": "mailkeep", "name": "input", "hook": "input", "policy": "drop"}
    assert drops_by_default([ours])
    assert not drops_by_default([])
    assert not drops_by_default([ours | {"policy": "accept"}])
