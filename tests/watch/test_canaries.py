"""Canaries are nobody's addresses, and come back too seldom to be taken for offenders. A dead jail is seen in nft."""

import json
import os
from copy import deepcopy
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from mailkeep_server.common import nft_ruleset
from mailkeep_server.common.nft_ruleset import drops_by_default, find_jail_faults
from mailkeep_server.watch import jail_proof
from mailkeep_server.watch.config import Config
from mailkeep_server.watch.jail_proof import NETWORKS, canaries

OWN = ["198.51.100.74", "203.0.113.0/27"]


def test_canaries_are_of_the_documentation_networks_and_none_of_ours() -> None:
    for turn in range(1000):
        v4, v6 = map(ip_address, canaries(turn, OWN))
        assert any(v4 in ip_network(network) for network in NETWORKS)
        assert not any(v4 in ip_network(f"{own.partition('/')[0]}/27", strict=False) for own in OWN)
        assert v6 in ip_network("2001:db8::/32")


def test_no_canary_comes_back_within_a_day() -> None:
    a_day = 48 * 4  # every half hour, in four jails
    assert len({canaries(turn, OWN)[0] for turn in range(a_day)}) == a_day


def test_canaries_are_never_ours_even_where_all_documentation_networks_are() -> None:
    with pytest.raises(ValueError, match="no address is left"):
        canaries(0, list(NETWORKS))


@pytest.mark.parametrize("there", [True, False])
def test_nobody_else_can_open_the_lock_and_so_hold_up_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Config, there: bool
) -> None:
    monkeypatch.setattr(jail_proof, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(jail_proof, "PROOF", tmp_path / "jails.json")
    monkeypatch.setattr(jail_proof.config, "load", lambda: replace(config, jails={}))
    monkeypatch.setattr(jail_proof, "run", lambda *_, **__: "")
    if there:
        jail_proof.LOCK.touch(0o644)
    before = os.umask(0o022)
    try:
        jail_proof.main([])
    finally:
        os.umask(before)
    assert jail_proof.LOCK.stat().st_mode & 0o777 == 0o600


def listing(*ports: int) -> dict[str, Any]:
    """As `nft -j -t list ruleset` prints it, of a jail `dovecot`."""
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


def faults(listed: dict[str, Any], *ports: int) -> list[str]:
    return list(find_jail_faults("dovecot", ports, nft_ruleset.parse_ruleset(json.dumps(listed))))


def test_a_jail_with_sets_and_rules_is_alive() -> None:
    assert faults(listing(143, 993), 143, 993) == []


def test_a_jail_without_rules_or_sets_or_with_too_few_ports_is_dead() -> None:
    whole = listing(143)
    without = {"nftables": [item for item in whole["nftables"] if "rule" not in item]}
    assert len(faults(without, 143)) == 2
    assert "no rule that drops what is in addr-set-dovecot" in faults(without, 143)[0]
    assert faults({"nftables": []}, 143)[0] == "jail dovecot: nft has no set addr-set-dovecot"
    assert faults(whole, 143, 993)[0] == "jail dovecot: the rule for addr-set-dovecot leaves open 993"
    elsewhere = deepcopy(whole)
    elsewhere["nftables"][1]["chain"]["hook"] = "output"
    assert len(faults(elsewhere, 143)) == 2


def test_a_firewall_that_is_gone_or_accepts_keeps_nobody_out() -> None:
    ours = {"family": "inet", "table": "mailkeep", "name": "input", "hook": "input", "policy": "drop"}
    assert drops_by_default([ours])
    assert not drops_by_default([])
    assert not drops_by_default([ours | {"policy": "accept"}])
