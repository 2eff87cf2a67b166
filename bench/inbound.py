#!/usr/bin/env python3
"""What it costs to judge who an incoming message is from: messages a second on port 25, and memory.

The demonstration's server is built in the lab, and gets a second port that asks no milter. Twenty clients at a time
send through both in turn. Each message has a connection of its own, a DKIM signature and a domain with SPF and DMARC;
the server delivers to nobody (discard). Then large messages come all at once. Prints messages a second, ratios, and the
memory (PSS) of the service.

    python bench/inbound.py [--rounds N] [--messages N] [--large N]
"""

import argparse
import smtplib
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import dkim
import fresh
import machine

from mailkeep.inventory.dkim_keys import DkimKey, generate_dkim_pem
from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.site import Site

CLIENTS = 20
AUTHOR, RECIPIENT, SELECTOR = "a@bench.test", "anna@example.test", "b"
JUDGED_PORT, BARE_PORT = 25, 10025
SMALL, LARGE = 4000, 24 << 20  # bytes of a text
MAX_LARGE_MEMORY = 64  # MiB, with all large messages at once
READ_MEMORY = r"""
import pathlib, re
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if "mailkeep-inbound.service" in (process / "cgroup").read_text():
            memory = (process / "smaps_rollup").read_text()
            print(int(re.search(r"^Pss:\s+(\d+)", memory, re.M)[1]))
    except OSError:
        continue
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    arguments.add_argument("--messages", type=int, default=300, help="each time (default: 300)")
    arguments.add_argument("--large", type=int, default=8, help="messages of 24 MiB at once (default: 8)")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-inbound") as lab:
        site = fresh.build_server(lab, partial(lift_limits, lab))
        add_bare_port(site.server)
        sign = publish_author(lab.boot_internet(fresh=False))
        print(f"idle: {read_memory(site.server):.1f} MB")
        measure_ports(site, sign(SMALL), options.rounds, options.messages)
        measure_large(site, sign(LARGE), options.large)


def lift_limits(lab: Lab, settings: dict[str, Any]) -> None:
    settings["admin"]["networks"] = [str(lab.network)]
    settings["firewall"] = {"open": [BARE_PORT]}
    settings["guard"] = {"receiving": {"messages_per_hour": 1_000_000, "network_messages_per_hour": 1_000_000}}


def add_bare_port(server: Server) -> None:
    server.run(
        f"postconf -M '{BARE_PORT}/inet={BARE_PORT} inet n - n - 100 smtpd' && "
        f"postconf -P '{BARE_PORT}/inet/smtpd_milters=' && postconf -e virtual_transport=discard && postfix reload"
    )


def publish_author(internet: Internet) -> Any:
    """Publish a domain; a function that makes a signed message of so many bytes."""
    pem = generate_dkim_pem()
    records = (
        f'bench.test. MX 10 mx.outside.test.\nbench.test. TXT "v=spf1 a:mx.outside.test -all"\n'
        f'_dmarc.bench.test. TXT "v=DMARC1; p=reject"\n'
        f'{SELECTOR}._domainkey.bench.test. TXT "v=DKIM1; k=rsa; p={DkimKey("bench.test", SELECTOR, pem).public}"\n'
    )
    internet.publish(split_strings(records), "bench")

    def compose(size: int) -> bytes:
        text = ("See you on Thursday. " * 3 + "\r\n").encode()
        head = f"From: {AUTHOR}\r\nTo: {RECIPIENT}\r\nSubject: Bench\r\n\r\n".encode()
        data = head + text * (size // len(text))
        signature: bytes = dkim.sign(data, SELECTOR.encode(), b"bench.test", pem, canonicalize=(b"relaxed", b"relaxed"))
        return signature + data

    return compose


def split_strings(records: str) -> str:
    """A string of a TXT record has at most 255 bytes."""
    lines = []
    for line in records.splitlines():
        head, quote, rest = line.partition('"')
        value = rest.rstrip('"')
        strings = " ".join(f'"{value[at : at + 250]}"' for at in range(0, len(value), 250))
        lines.append(f"{head}{strings}" if quote else line)
    return "\n".join(lines) + "\n"


def measure_ports(site: Site, data: bytes, rounds: int, messages: int) -> None:
    ports = {"without the milter": BARE_PORT, "with the milter": JUDGED_PORT}
    rates: dict[str, list[float]] = {name: [] for name in ports}
    for port in ports.values():
        poll(partial(is_answering, site, port, data), 20, f"port {port} does not answer")
        send_messages(site, port, data, messages)  # processes start, caches fill
    for number in range(rounds):
        for name in sorted(ports, reverse=bool(number % 2)):
            rates[name].append(send_messages(site, ports[name], data, messages))
    for name, measured in rates.items():
        by_round = ", ".join(f"{rate:.0f}" for rate in measured)
        print(f"{name}: {statistics.median(measured):.1f} messages/s; by round {by_round}")
    ratios = [judged / bare for bare, judged in zip(*rates.values(), strict=True)]
    print(f"ratio: {statistics.median(ratios):.2f}; by round {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"after {messages * (rounds + 1)} messages: {read_memory(site.server):.1f} MB", flush=True)


def measure_large(site: Site, data: bytes, count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        start = time.monotonic()
        sending = [pool.submit(send_message, site, JUDGED_PORT, data) for _ in range(count)]
        peak = 0.0
        while not all(future.done() for future in sending):
            peak = max(peak, read_memory(site.server))
        for future in sending:
            future.result()
    seconds = time.monotonic() - start
    print(f"{count} messages of {len(data) >> 20} MiB at once: {seconds:.1f} s, ", end="")
    print(f"at most {peak:.1f} MB (goal: at most {MAX_LARGE_MEMORY})")


def read_memory(server: Server) -> float:
    """MB of the service's process."""
    return sum(map(int, server.run("python3 -", stdin=READ_MEMORY).stdout.split())) / 1024


def is_answering(site: Site, port: int, data: bytes) -> bool:
    try:
        send_message(site, port, data)
    except OSError:
        return False
    return True


def send_messages(site: Site, port: int, data: bytes, messages: int) -> float:
    """Messages a second."""
    start = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in pool.map(lambda _: send_message(site, port, data), range(messages)):
            pass
    return messages / (time.monotonic() - start)


def send_message(site: Site, port: int, data: bytes) -> None:
    with smtplib.SMTP(str(site.server.ip), port, "bench.example.net", timeout=120) as connection:
        connection.sendmail(AUTHOR, RECIPIENT, data)


if __name__ == "__main__":
    main()
