#!/usr/bin/env python3
"""Incident A's queue, 50,543 messages of one account beside mail of others, worked off with `mailkeepctl queue`.

Prints the seconds of each step on a freshly built server. The queue is made of copies of messages that accounts
submitted. Its disk is a small one, and has no byte left, as it was in the incident. Exit 1: somebody else's message is
gone, one of the account's is left, or the server takes no mail afterwards.

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
from mailkeep.lab.postfix_reload import RELOAD_POSTFIX
from mailkeep.lab.site import Site

ANNA, BEN = "anna@example.test", "ben@example-two.test"
FILLER = (Path(__file__).parents[1] / "tests/lab/queue_filler.py").read_text()
QUEUE = "/var/spool/postfix"
SMALL_DISK = f"""set -e
systemctl stop postfix
mkdir /small; mount -t tmpfs -o size=2G tmpfs /small; cp -a {QUEUE}/. /small; mount --bind /small {QUEUE}
systemctl restart dovecot postfix mailkeep-watch"""
FILLER_FILE = f"{QUEUE}/full"
"""What else has filled the disk."""
NO_ROOM = 452
"""The answer of a server without room (postconf(5), queue_minfree)."""
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

    def is_full(self) -> bool:
        try:
            self.submit(BEN, "y@outside.test")
        except smtplib.SMTPSenderRefused as error:
            return error.smtp_code == NO_ROOM
        return False

    def fill(self, messages: int) -> bool:
        """Whether the server refuses mail then."""
        self.server.run(SMALL_DISK)
        self.server.run(f"postconf -e defer_transports=smtp && {RELOAD_POSTFIX}")
        for remote in REMOTES:
            self.submit(ANNA, f"x@{remote}")
        self.submit(BEN, "y@outside.test")
        poll(lambda: self.count() == {ANNA: len(REMOTES), BEN: 1}, 60, "the messages are not deferred", interval=1)
        rows = map(json.loads, self.server.run("postqueue -j").stdout.splitlines())
        ids = [row["queue_id"] for row in rows if row["sender"] == ANNA]
        self.server.run(f"python3 - {messages - len(ids)} {' '.join(ids)}", stdin=FILLER, timeout=3600)
        self.server.run(f"head -c 4G /dev/zero > {FILLER_FILE}", check=False)
        print(f"free on the queue's disk: {self.measure_free_disk()} KiB", flush=True)
        return self.is_full()

    def measure_free_disk(self) -> int:
        """KiB."""
        return int(self.server.run(f"df --output=avail {QUEUE} | tail -1").stdout)

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
    was_full = night.fill(messages)
    print(f"in the queue: {night.count()}; the server refuses mail: {was_full}", flush=True)
    total = 0.0
    for command in STEPS:
        seconds = night.measure(command)
        total += seconds
        print(f"{seconds:7.1f} s  {command}", flush=True)
    left, free = night.count(), night.measure_free_disk()
    night.server.run(f"rm {FILLER_FILE}")
    is_full = night.is_full()
    print(f"free on the queue's disk: {free} KiB")
    print(f"{total / 60:.1f} minutes in all; left in the queue: {left}; the server refuses mail: {is_full}")
    return left == {BEN: 1} and was_full and not is_full


if __name__ == "__main__":
    main()
