"""The watch tells of rules that were changed by hand, of an accept before the jails' drops, and of another firewall."""

import json
from pathlib import Path
from typing import Any

import pytest

from mailkeep_server.watch import firewall_sensors
from mailkeep_server.watch.alert_queue import BATCH_SECONDS
from mailkeep_server.watch.firewall_sensors import FirewallSensor

RESTART_SECONDS = 6.0  # of fail2ban, on a small machine in an upgrade
TABLE = "table inet mailkeep {\n\tchain input {\n\t\ttcp dport 25 accept\n\t}\n}\n"


class Nft:
    """The machine's ruleset; `generation` is the kernel's number of it."""

    def __init__(self) -> None:
        place = {"family": "inet", "table": "mailkeep"}
        self.items: list[dict[str, Any]] = [{"chain": place | {"name": "input", "hook": "input", "policy": "drop"}}]
        ports = {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"set": [22, 25]}}
        self.items.append({"rule": place | {"chain": "input", "expr": [{"match": ports}, {"accept": None}]}})
        self.table = TABLE
        self.generation, self.lists = 1, 0

    def add_chain(self, table: str, policy: str, *rules: list[dict[str, Any]]) -> None:
        place = {"family": "inet", "table": table}
        self.items.append({"chain": place | {"name": "filter", "hook": "input", "policy": policy}})
        self.items += [{"rule": place | {"chain": "filter", "expr": rule}} for rule in rules]
        self.generation += 1

    def run(self, *command: str) -> str:
        if "table" in command:
            return self.table
        self.lists += 1
        return json.dumps({"nftables": self.items})


@pytest.fixture
def nft(monkeypatch: pytest.MonkeyPatch) -> Nft:
    machine = Nft()
    monkeypatch.setattr(firewall_sensors, "run", machine.run)
    monkeypatch.setattr(FirewallSensor, "FOREIGN_SECONDS", 0.0)
    monkeypatch.setattr(firewall_sensors.nft_generation, "read_generation", lambda: machine.generation)
    return machine


@pytest.fixture
def sensor(tmp_path: Path) -> FirewallSensor:
    (tmp_path / "loaded").write_text(TABLE)
    return FirewallSensor({}, ["192.0.2.1"], [22, 25], tmp_path / "loaded")


def test_a_server_as_deployed_has_no_trouble_and_is_judged_once(nft: Nft, sensor: FirewallSensor) -> None:
    assert [sensor.find_troubles() for _ in range(5)] == [{}] * 5
    assert nft.lists == 1


def test_another_firewall_that_drops_what_ours_lets_in_is_a_trouble_until_it_is_gone(
    nft: Nft, sensor: FirewallSensor
) -> None:
    sensor.find_troubles()
    before = list(nft.items)
    nft.add_chain("firewalld", "drop")
    [(text, end)] = sensor.find_troubles().values()
    assert "the chain filter in the table inet firewalld of firewalld, at the ports 22, 25." in text
    assert end.startswith("The chain filter")
    nft.items, nft.generation = before, nft.generation + 1
    assert sensor.find_troubles() == {}
    assert list(sensor.take_events()) == []


def test_a_new_firewall_that_may_drop_is_told_once_and_one_that_was_there_is_not(
    nft: Nft, sensor: FirewallSensor
) -> None:
    by_mark = {"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 7}}
    nft.add_chain("before", "accept", [by_mark, {"drop": None}])
    sensor.find_troubles()
    assert list(sensor.take_events()) == []
    nft.add_chain("after", "accept", [by_mark, {"drop": None}])
    assert sensor.find_troubles() == {}
    [(key, text, is_urgent)] = sensor.take_events()
    assert (key, is_urgent) == ("firewall:inet after filter", False)
    assert "It may drop packets to the ports 22, 25" in text
    nft.generation += 1
    sensor.find_troubles()
    assert list(sensor.take_events()) == []


def test_a_container_engine_and_a_blocklist_are_no_trouble(nft: Nft, sensor: FirewallSensor) -> None:
    container = {
        "match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "172.17.0.2"}
    }
    listed = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@blocked"}}
    nft.add_chain("docker", "accept", [container, {"drop": None}])
    nft.add_chain("crowdsec", "accept", [listed, {"drop": None}])
    assert sensor.find_troubles() == {}


def test_a_rule_that_was_added_to_our_table_by_hand_is_told_with_its_text(nft: Nft, sensor: FirewallSensor) -> None:
    sensor.find_troubles()
    nft.table = TABLE.replace("\t\ttcp", "\t\tmeta skuid 1000 accept\n\t\ttcp")
    nft.generation += 1
    assert "changed by hand: `meta skuid 1000 accept`." in sensor.find_troubles()["rules"][0]


def test_a_reload_that_has_not_yet_written_down_its_rules_is_over_with_the_next_sample(
    nft: Nft, sensor: FirewallSensor
) -> None:
    nft.table = TABLE.replace("25", "25, 465")
    assert "rules" in sensor.find_troubles()
    sensor.loaded.write_text(nft.table)
    assert sensor.find_troubles() == {}, "although nft's rules are the same as before"


def test_where_nothing_was_written_down_nothing_is_compared(nft: Nft, sensor: FirewallSensor) -> None:
    """As on a server of before, until its firewall is loaded again."""
    sensor.loaded.unlink()
    nft.table = ""
    assert sensor.find_troubles() == {}


def test_an_accept_in_fail2bans_table_is_a_trouble(nft: Nft, sensor: FirewallSensor) -> None:
    left = {"payload": {"protocol": "ip", "field": "saddr"}}
    accept = [{"match": {"op": "==", "left": left, "right": "203.0.113.9"}}, {"accept": None}]
    nft.add_chain("f2b-table", "accept", accept)
    assert "before they are dropped: ip saddr 203.0.113.9 accept." in sensor.find_troubles()["order"][0]


def test_a_restart_of_fail2ban_is_no_trouble_and_a_fault_is_reported_within_ten_seconds(sensor: FirewallSensor) -> None:
    assert (sensor.samples - 1) * sensor.interval >= RESTART_SECONDS
    assert sensor.samples * sensor.interval + BATCH_SECONDS < 10


def test_foreign_rules_that_change_all_the_time_are_judged_each_quarter_of_a_minute(
    nft: Nft, sensor: FirewallSensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a foreign jail, with each ban; the last change is judged, too."""
    monkeypatch.undo()
    monkeypatch.setattr(firewall_sensors, "run", nft.run)
    monkeypatch.setattr(firewall_sensors.nft_generation, "read_generation", lambda: nft.generation)
    now, judged, judge = 1000.0, [], firewall_sensors.packet_path.find_foreign_chains
    monkeypatch.setattr(firewall_sensors.time, "monotonic", lambda: now)
    monkeypatch.setattr(
        firewall_sensors.packet_path, "find_foreign_chains", lambda *of: judged.append(now) or judge(*of)
    )
    sensor.find_troubles()
    for number in range(10):
        nft.add_chain(f"jail{number}", "drop")
        now += 1.5
        troubles = sensor.find_troubles()
    assert judged == [1000.0, 1015.0]
    assert len(troubles) == 10
    nft.add_chain("last", "drop")
    now += 1.5
    assert len(sensor.find_troubles()) == 10
    now += 15
    assert len(sensor.find_troubles()) == 11


def test_rules_changed_by_hand_are_listed_again_after_a_reload_or_a_while(
    nft: Nft, sensor: FirewallSensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(firewall_sensors.time, "monotonic", lambda: now)
    nft.table = TABLE.replace("25", "25, 465")
    for _ in range(4):
        assert "rules" in sensor.find_troubles()
    assert nft.lists == 1
    now += 15
    sensor.find_troubles()
    assert nft.lists == 2


def test_foreign_rules_that_cannot_be_judged_do_not_hide_our_own_faults(
    nft: Nft, sensor: FirewallSensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("iptables-save: exit 1")

    nft.add_chain("firewalld", "drop")
    assert {*sensor.find_troubles()} == {"foreign inet firewalld filter"}
    nft.generation += 1
    monkeypatch.setattr(firewall_sensors.packet_path, "leave_out_ours", fail)
    nft.table = TABLE.replace("25", "25, 465")
    assert {*sensor.find_troubles()} == {"rules", "foreign", "foreign inet firewalld filter"}
    monkeypatch.undo()
    monkeypatch.setattr(firewall_sensors, "run", nft.run)
    nft.generation += 1
    monkeypatch.setattr(FirewallSensor, "FOREIGN_SECONDS", 0.0)
    assert {*sensor.find_troubles()} == {"rules", "foreign inet firewalld filter"}
