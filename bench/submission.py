#!/usr/bin/env python3
"""How much the guard slows a mail server whose users all send at once.

The demonstration's server is built in the lab, and gets a second submission port that does not ask the guard. Twenty
clients at a time send through both ports in turn. Each message goes over a connection of its own, with TLS and a login;
the server signs and then discards it. Prints messages a second, medians, and by how much the guard slows them.

With --filter, the server has `spam: full`, and the second port asks all but the spam filter. One client sends through
both ports in turn. Prints how long a message takes from connection to reply.

`bench/policy.py postfix` measures the same without TLS, login and signature, which no submission lacks.

    python bench/submission.py [--filter] [--rounds N] [--messages N]
"""

import argparse
import smtplib
import ssl
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import fresh
import machine

from mailkeep.lab import Server, poll
from mailkeep.lab.site import Site

MAX_COST = 5
"""The goal, in per cent."""
CLIENTS = 20
SENDER, RECIPIENT = "anna@example.test", "friend@example.net"
GUARDED_PORT, BARE_PORT = 465, 10465
UNREACHABLE = 1_000_000
"""A limit that nothing reaches."""
BARE_OPTIONS = {
    "smtpd_recipient_restrictions": "reject_non_fqdn_recipient,reject_unlisted_recipient",
    "smtpd_end_of_data_restrictions": "",
    "smtpd_milters": "$signing_milter",
}
"""Of the port that does not ask the guard (postconf(5))."""
UNFILTERED_OPTIONS = {"smtpd_milters": "$submission_milters"}
"""Of the port that does not ask the spam filter."""
MESSAGE = f"From: {SENDER}\r\nTo: {RECIPIENT}\r\nSubject: Bench\r\n\r\n" + "See you on Thursday.\r\n" * 180


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7, help="how often each is measured (default: 7)")
    arguments.add_argument("--messages", type=int, default=300, help="each time (default: 300)")
    arguments.add_argument("--filter", action="store_true", help="how long the spam filter makes a message wait")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-submission") as lab:
        site = fresh.build_server(lab, partial(change_settings, options.filter))
        if options.filter:
            add_bare_port(site.server, UNFILTERED_OPTIONS)
            measure_filter(site, options.messages)
        else:
            add_bare_port(site.server, BARE_OPTIONS)
            measure_ports(site, options.rounds, options.messages)


def change_settings(has_filter: bool, settings: dict[str, Any]) -> None:
    """In mail.yml: no limit is reached, and the second port is open."""
    settings["spam"] = "full" if has_filter else "off"
    names = [f"{column}_per_{time}" for column in ("messages", "recipients") for time in ("10_minutes", "hour", "day")]
    limits = dict.fromkeys((*names, "new_recipients_per_day", "networks_per_hour"), UNREACHABLE)
    ceiling = dict.fromkeys(("recipients_per_hour", "recipients_per_day"), UNREACHABLE)
    settings |= {"firewall": {"open": [BARE_PORT]}, "guard": {"limits": limits, "server": ceiling}}


def add_bare_port(server: Server, port_options: Mapping[str, str]) -> None:
    service = f"{BARE_PORT}/inet"
    options = " ".join(f"'{service}/{name}={value}'" for name, value in port_options.items())
    server.run(
        f"postconf -M '{service}='\"$(postconf -M submissions/inet | sed 's/^submissions/{BARE_PORT}/')\" && "
        f"postconf -P {options} && postconf -e default_transport=discard default_process_limit=100 && postfix reload"
    )


def measure_ports(site: Site, rounds: int, messages: int) -> None:
    ports = {"without the guard": BARE_PORT, "with the guard": GUARDED_PORT}
    rates: dict[str, list[float]] = {name: [] for name in ports}
    for port in ports.values():
        poll(partial(is_answering, site, port), 20, f"port {port} does not answer")
        send_messages(site, port, messages)  # processes start, caches fill
    for number in range(rounds):
        for name in sorted(ports, reverse=bool(number % 2)):
            rates[name].append(send_messages(site, ports[name], messages))
    costs = [100 * (1 - guarded / bare) for bare, guarded in zip(*rates.values(), strict=True)]
    for name, measured in rates.items():
        by_round = ", ".join(f"{rate:.0f}" for rate in measured)
        print(f"{name}: {statistics.median(measured):.1f} messages/s; by round {by_round}")
    print(f"the guard costs {statistics.median(costs):.1f} %, goal at most {MAX_COST}; ", end="")
    print(f"by round {', '.join(f'{cost:.0f}' for cost in costs)}")


def measure_filter(site: Site, messages: int) -> None:
    ports = {"without the filter": BARE_PORT, "with the filter": GUARDED_PORT}
    seconds: dict[str, list[float]] = {name: [] for name in ports}
    for port in ports.values():
        poll(partial(is_answering, site, port), 20, f"port {port} does not answer")
        send_messages(site, port, messages // 10)
    for number in range(messages):
        for name in sorted(ports, reverse=bool(number % 2)):
            start = time.monotonic()
            send_message(site, ports[name])
            seconds[name].append(time.monotonic() - start)
    for name, measured in seconds.items():
        slowest = statistics.quantiles(measured, n=20)[-1]
        print(f"{name}: median {1000 * statistics.median(measured):.0f} ms, 95 % within {1000 * slowest:.0f} ms")
    more = [with_filter - without for without, with_filter in zip(*seconds.values(), strict=True)]
    print(f"the filter adds {1000 * statistics.median(more):.0f} ms (median of {messages} pairs)")


def is_answering(site: Site, port: int) -> bool:
    try:
        send_message(site, port)
    except OSError:
        return False
    return True


def send_messages(site: Site, port: int, messages: int) -> float:
    """Messages a second, until the last one has left the queue."""
    start = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in pool.map(partial(send_message, site), [port] * messages):
            pass
    site.server.run(
        'while [ -n "$(find /var/spool/postfix/incoming /var/spool/postfix/active -type f -print -quit)" ]; '
        "do sleep 0.02; done"
    )
    return messages / (time.monotonic() - start)


def send_message(site: Site, port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP_SSL(str(site.server.ip), port, "bench.example.net", timeout=60, context=context) as connection:
        connection.login(SENDER, site.passphrases[SENDER])
        connection.sendmail(SENDER, RECIPIENT, MESSAGE)


if __name__ == "__main__":
    main()
