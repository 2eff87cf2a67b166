"""A container's way past Postfix is closed by the rules, tried with packets in network namespaces of their own."""

import os
import shutil

import pytest

from mailkeep.parts import firewall
from mailkeep.settings.models import Settings
from mailkeep.verify.probe import forwarding

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft"),
]
# This machine may have no user postfix; 198.18.0.0/15 and 2001:db8:18::/64 are the imitated container's networks.
SENDERS = ("!= postfix", "!= 1")
CONTAINERS = ["198.18.0.0/15", "2001:db8:18::/64"]


def attack(settings: Settings, old: str = "", new: str = "") -> dict[str, bool]:
    """By IP version, whether the container reached the mail server elsewhere."""
    rules = firewall.build_rules(settings).decode()
    assert SENDERS[0] in rules
    assert old in rules
    results = forwarding.attack_through(rules.replace(*SENDERS).replace(old or SENDERS[0], new))
    assert all(attempt["control"] == "connected" for attempt in results.values()), results
    return {version: attempt["smtp"] == "connected" for version, attempt in results.items()}


def test_a_container_cannot_send_past_postfix(settings: Settings) -> None:
    assert attack(settings) == {"4": False, "6": False}


def test_without_the_rule_a_container_sends_past_postfix(settings: Settings) -> None:
    assert attack(settings, "tcp dport 25 counter reject", "tcp dport 27 counter reject") == {"4": True, "6": True}


def test_a_container_in_a_network_that_may_send_does(declared: dict[str, object]) -> None:
    settings = Settings.model_validate(declared | {"firewall": {"may_send": CONTAINERS}})
    assert attack(settings) == {"4": True, "6": True}
