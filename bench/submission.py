#!/usr/bin/env python3
"""What the guard costs a mail server whose users send all at once.

The demonstration's server is built in the lab, and gets a second submission port that does not ask the guard. Twenty
clients at a time send, in turn, through the one and the other: each message over a connection of its own, with TLS and
a login, from which the server signs and then discards it. Prints messages a second, medians, and what the guard takes.

`bench/policy.py postfix` measures the same without TLS, login and signature, which no submission is.

    python bench/submission.py [--rounds N] [--messages N]
"""

import argparse
import smtplib
import ssl
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import fresh
import machine

from mailkeep.lab import Server, poll
from mailkeep.lab.site import Site

GOAL_COST = 5
CLIENTS = 20
SENDER, RECIPIENT = "anna@example.test", "friend@example.net"
GUARDED, BARE = 465, 10465
PLENTY = 1_000_000
WITHOUT = {
    "smtpd_recipient_restrictions": "reject_non_fqdn_recipient,reject_unlisted_recipient",
    "smtpd_end_of_data_restrictions": "",
    "smtpd_milters": "$signing_milter",
}
MESSAGE = f"From: {SENDER}\r\nTo: {RECIPIENT}\r\nSubject: Bench\r\n\r\n" + "See you on Thursday.\r\n" * 180


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7, help="how often each is measured (default: 7)")
    arguments.add_argument("--messages", type=int, default=300, help="each time (default: 300)")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-submission") as lab:
        built = fresh.build_server(lab, roomy)
        add_unguarded(built.server)
        measure(built, options.rounds, options.messages)


def roomy(declared: dict[str, Any]) -> None:
    """Limits that nobody meets, and the second port open."""
    counted = [f"{what}_per_{time}" for what in ("messages", "recipients") for time in ("10_minutes", "hour", "day")]
    limits = dict.fromkeys((*counted, "new_recipients_per_day", "networks_per_hour"), PLENTY)
    server = dict.fromkeys(("recipients_per_hour", "recipients_per_day"), PLENTY)
    declared |= {"firewall": {"open": [BARE]}, "guard": {"limits": limits, "server": server}}


def add_unguarded(server: Server) -> None:
    service = f"{BARE}/inet"
    options = " ".join(f"'{service}/{name}={value}'" for name, value in WITHOUT.items())
    server.run(
        f"postconf -M '{service}='\"$(postconf -M submissions/inet | sed 's/^submissions/{BARE}/')\" && "
        f"postconf -P {options} && postconf -e default_transport=discard default_process_limit=100 && postfix reload"
    )


def measure(built: Site, rounds: int, messages: int) -> None:
    ways = {"without the guard": BARE, "with the guard": GUARDED}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for port in ways.values():
        poll(partial(answers, built, port), 20, f"port {port} does not answer")
        send(built, port, messages)  # processes start, caches fill
    for number in range(rounds):
        for name in sorted(ways, reverse=bool(number % 2)):
            rates[name].append(send(built, ways[name], messages))
    costs = [100 * (1 - ours / bare) for bare, ours in zip(*rates.values(), strict=True)]
    for name, several in rates.items():
        by_round = ", ".join(f"{rate:.0f}" for rate in several)
        print(f"{name}: {statistics.median(several):.1f} messages/s; by round {by_round}")
    print(f"the guard costs {statistics.median(costs):.1f} %, goal at most {GOAL_COST}; ", end="")
    print(f"by round {', '.join(f'{cost:.0f}' for cost in costs)}")


def answers(built: Site, port: int) -> bool:
    try:
        deliver(built, port)
    except OSError:
        return False
    return True


def send(built: Site, port: int, messages: int) -> float:
    """Messages a second, until the last one has left the queue."""
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in pool.map(partial(deliver, built), [port] * messages):
            pass
    built.server.run(
        'while [ -n "$(find /var/spool/postfix/incoming /var/spool/postfix/active -type f -print -quit)" ]; '
        "do sleep 0.02; done"
    )
    return messages / (time.monotonic() - began)


def deliver(built: Site, port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP_SSL(str(built.server.ip), port, "bench.example.net", timeout=60, context=context) as connection:
        connection.login(SENDER, built.passphrases[SENDER])
        connection.sendmail(SENDER, RECIPIENT, MESSAGE)


if __name__ == "__main__":
    main()
