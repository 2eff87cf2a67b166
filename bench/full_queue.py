#!/usr/bin/env python3
"""Incident A's queue, 50,543 messages of one account beside mail of others, worked off with `mailkeepctl queue`.

Prints the seconds of each step on a freshly built server. The queue is made of copies of messages that accounts
submitted. Exit 1: somebody else's message is gone, or one of the account's is left.

    python bench/full_queue.py [--messages 50543]
"""

import argparse
import json
import smtplib
import ssl
import sys
import time
from pathlib import Path

import fresh
import machine

from mailkeep.lab import Lab, poll
from mailkeep.lab.site import Site

ANNA, BEN = "anna@example.test", "ben@example-two.test"
FILLER = (Path(__file__).parents[1] / "tests/lab/queue_filler.py").read_text()
REMOTES = ("outside.test", "elsewhere.test", "third.test")
STEPS = (
    "mailkeepctl status",
    "mailkeepctl queue",
    f"mailkeepctl queue --account {ANNA}",
    "mailkeepctl queue hold --remote third.test",
    "mailkeepctl queue release --remote third.test",
    f"mailkeepctl freeze {ANNA}",
    f"mailkeepctl queue list --account {ANNA} --json > /root/queue.json",
    f"mailkeepctl queue delete --account {ANNA} --yes",
    "mailkeepctl queue",
)


class Night:
    def __init__(self, site: Site) -> None:
        self.site, self.server = site, site.server

    def submit(self, author: str, recipient: str) -> None:
        """Raises smtplib.SMTPException."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with smtplib.SMTP_SSL(str(self.server.ip), 465, context=context) as client:
            client.login(author, self.site.passphrases[author])
            client.sendmail(author, recipient, f"From: {author}\r\nSubject: of the night\r\n\r\nHello.\r\n")

    def count(self) -> dict[str, int]:
        """Messages by sender."""
        groups = json.loads(self.server.run("mailkeepctl queue --json", timeout=600).stdout)["by_sender"]
        return {group["name"]: group["messages"] for group in groups if group["name"] in (ANNA, BEN)}

    def fill(self, messages: int) -> None:
        self.server.run("postconf -e defer_transports=smtp && postfix reload")
        for remote in REMOTES:
            self.submit(ANNA, f"x@{remote}")
        self.submit(BEN, "y@outside.test")
        poll(lambda: self.count() == {ANNA: len(REMOTES), BEN: 1}, 60, "the messages are not deferred", interval=1)
        rows = map(json.loads, self.server.run("postqueue -j").stdout.splitlines())
        ids = [row["queue_id"] for row in rows if row["sender"] == ANNA]
        self.server.run(f"python3 - {messages - len(ids)} {' '.join(ids)}", stdin=FILLER, timeout=3600)

    def measure(self, command: str) -> float:
        """Seconds. `mailkeepctl status` says by its exit code that something is wrong."""
        began = time.monotonic()
        self.server.run(f"{command}; test $? != 1", timeout=3600)
        return time.monotonic() - began


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--messages", type=int, default=50_543)
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-queue") as lab:
        sys.exit(0 if work_queue_off(lab, options.messages) else 1)


def work_queue_off(lab: Lab, messages: int) -> bool:
    night = Night(fresh.build_server(lab, lambda _: None))
    night.fill(messages)
    print(f"in the queue: {night.count()}", flush=True)
    total = 0.0
    for command in STEPS:
        seconds = night.measure(command)
        total += seconds
        print(f"{seconds:7.1f} s  {command}", flush=True)
    left = night.count()
    print(f"{total / 60:.1f} minutes in all; left in the queue: {left}")
    return left == {BEN: 1}


if __name__ == "__main__":
    main()
