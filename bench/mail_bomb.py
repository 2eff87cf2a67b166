#!/usr/bin/env python3
"""A mail bomb of 50,000 confirmations against a freshly built server, and what the guard costs on port 25.

Prints where the messages are, what an account's friend and its owner notice, what the guard takes, and how long the way
back takes. Then Postfix takes messages with the guard and without it, in turn. Exit 1: a message is lost, or the inbox
has more than it should.

    python bench/mail_bomb.py [--messages 50000] [--rounds 5]
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fresh
import machine

from mailkeep.lab import Attacker, Lab, poll
from mailkeep.lab.attacker import DISTANT_HOSTS, DISTANT_NETWORKS
from mailkeep.lab.site import Site
from mailkeep_server.guard.receiving import FIRST_DAYS_FACTOR

ANNA, BEN = "anna@example.test", "ben@example-two.test"
NEW_SENDERS = 100
BOMBER = (Path(__file__).parents[1] / "tests/lab/bomber.py").read_text()
ROUND = 400
"""Messages, with the guard and without it."""


class Bomb:
    def __init__(self, site: Site, attacker: Attacker) -> None:
        self.site, self.server, self._attacker, self._next = site, site.server, attacker, 0
        hosts = range(1, DISTANT_HOSTS + 1)
        addresses = (attacker.distant_address(network, host) for host in hosts for network in range(DISTANT_NETWORKS))
        self._sources = ",".join(map(str, addresses))

    def send(self, recipient: str, number: int) -> tuple[dict[str, int], float]:
        """How many messages got which answer, and in how many seconds."""
        arguments = str(self.server.ip6), recipient, str(self._next), str(number), self._sources
        self._next += number
        began = time.monotonic()
        output = self._attacker.run_python(BOMBER, *arguments, timeout=7200).stdout
        return json.loads(output), time.monotonic() - began

    def count_folders(self, owner: str) -> dict[str, int]:
        """Confirmations by folder. The inbox also has what the server writes to its administrators."""
        command = f"doveadm -f json fetch -u {owner} mailbox '(' mailbox INBOX OR mailbox 'Bulk *' ')' subject Confirm"
        return dict(Counter(row["mailbox"] for row in json.loads(self.server.run(command).stdout)))

    def wait_for_delivery(self) -> None:
        poll(lambda: not self.server.run("postqueue -j").stdout, 3600, "the queue does not get empty")

    def read_guard_memory(self) -> float:
        """Peak, in MB."""
        pid = self.server.run("systemctl show -P MainPID mailkeep-guard").stdout.strip()
        line = self.server.run(f"grep VmHWM /proc/{pid}/status").stdout
        return int(line.split()[1]) / 1024

    def measure(self, act: Callable[[], Any]) -> float:
        """Seconds."""
        began = time.monotonic()
        act()
        return time.monotonic() - began


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--messages", type=int, default=50_000)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-bomb") as lab:
        sys.exit(0 if run_bomb(lab, options.messages, options.rounds) else 1)


def run_bomb(lab: Lab, messages: int, rounds: int) -> bool:
    site = fresh.build_server(lab, lambda settings: settings.update(guard={"receiving": limits(2 * messages)}))
    internet = lab.boot_internet(fresh=False)
    internet.publish(f"*.shops.outside.test. A {internet.ip}\nold.outside.test. A {internet.ip}\n", "shops")
    attacker = lab.boot_attacker()
    attacker.add_distant_addresses(site.server)
    bomb = Bomb(site, attacker)
    print(f"the guard before: {bomb.read_guard_memory():.1f} MB", flush=True)
    answers, seconds = bomb.send(ANNA, messages)
    print(f"{messages} confirmations in {seconds:.0f} s ({messages / seconds:.0f} a second): {answers}", flush=True)
    bomb.wait_for_delivery()
    folders = bomb.count_folders(ANNA)
    print(f"folders: {folders}; the guard at its peak: {bomb.read_guard_memory():.1f} MB", flush=True)
    is_whole = sum(folders.values()) == messages and folders["INBOX"] < NEW_SENDERS * FIRST_DAYS_FACTOR
    unsort = bomb.measure(lambda: site.server.run(f"mailkeepctl unsort {ANNA}", timeout=3600))
    folders = bomb.count_folders(ANNA)
    print(f"mailkeepctl unsort: {unsort:.0f} s, then {folders}", flush=True)
    compare_costs(bomb, rounds)
    return is_whole and folders == {"INBOX": messages}


def limits(messages: int) -> dict[str, int]:
    return {
        "messages_per_hour": messages,
        "network_messages_per_hour": messages,
        "new_senders_per_hour": NEW_SENDERS,
    }


def compare_costs(bomb: Bomb, rounds: int) -> None:
    """Delivery takes longer than reception: the mail stays in the queue, and is thrown away."""
    rates: dict[str, list[float]] = {"with the guard": [], "without it": []}
    bomb.server.run("postconf -e defer_transports=lmtp")
    for _ in range(rounds):
        for name, milters in (("with the guard", "$guard_incoming_milter"), ("without it", "")):
            bomb.server.run(f"postconf -e 'smtpd_milters={milters}' && systemctl restart postfix")
            _, seconds = bomb.send(BEN, ROUND)
            rates[name].append(ROUND / seconds)
            bomb.server.run("postsuper -d ALL")
    for name, values in rates.items():
        print(f"{name}: {statistics.median(values):.0f} messages a second ({min(values):.0f} to {max(values):.0f})")


if __name__ == "__main__":
    main()
