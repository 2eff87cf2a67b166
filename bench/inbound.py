#!/usr/bin/env python3
"""What comes in on port 25, with everything on: messages a second, memory on 1 GB, and a crowd at the door.

The demonstration's server is built in the lab with `spam: full`, in a container with a limit of 1 GB. It gets a port
that asks no milter, and one that asks only who a message is from. Prints:

- the memory (PSS) of all processes, idle after the first start, and of the service that judges authors;
- messages a second on each port, by twenty clients in turn, and their ratios. Each message has a connection of its own,
  a DKIM signature and a domain with SPF and DMARC. The server delivers to nobody (discard);
- large messages all at once;
- memory at so many messages a second, that are delivered;
- 1,000 connections at once: who was served, how long others waited for IMAP, and memory.

Exit 1: a message is lost or came twice, or the kernel has killed a process for its memory.

    python bench/inbound.py [--rounds N] [--messages N] [--large N] [--rate N] [--seconds N] [--connections N]
"""

import argparse
import json
import os
import re
import smtplib
import ssl
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import formatdate, make_msgid
from functools import partial
from imaplib import IMAP4_SSL
from pathlib import Path
from typing import Any

import dkim
import fresh
import machine

from mailkeep.inventory.dkim_keys import DkimKey, generate_dkim_pem
from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.site import Site

CLIENTS = 20
AUTHOR, RECIPIENT, SELECTOR = "a@bench.test", "anna@example.test", "b"
PORTS = {"everything on": 25, "authors alone": 10025, "no milter": 10026}
SMALL, LARGE = 4000, 24 << 20  # bytes of a text
INBOUND, FILTER = "mailkeep-inbound.service", "mailkeep-spam.service"
MAX_TRIES, RETRY_SECONDS = 10, 5
LIMIT = "1g"
SETTLE_SECONDS = 60
READ_MEMORY = r"""
import os, pathlib, re, sys
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        is_meant = sys.argv[1] in (process / "cgroup").read_text() and int(process.name) != os.getpid()
        if is_meant and (process / "comm").read_text() != "sshd-session\n":  # by which it is measured
            print(int(re.search(r"^Pss:\s+(\d+)", (process / "smaps_rollup").read_text(), re.M)[1]))
    except OSError:
        continue
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    arguments.add_argument("--messages", type=int, default=300, help="each time (default: 300)")
    arguments.add_argument("--large", type=int, default=8, help="messages of 24 MiB at once (default: 8)")
    arguments.add_argument("--rate", type=int, default=50, help="messages a second that are delivered (default: 50)")
    arguments.add_argument("--seconds", type=int, default=30, help="how long (default: 30)")
    arguments.add_argument("--connections", type=int, default=1000, help="at once (default: 1000)")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    kills_before = count_memory_kills()
    with fresh.fresh_lab("bench-inbound") as lab:
        site = fresh.build_server(lab, partial(change_settings, lab), memory=LIMIT)
        sign = publish_author(lab.boot_internet(fresh=False))
        site.server.run(f"systemctl start {INBOUND}")  # it waits for the first message, and ends when idle
        time.sleep(SETTLE_SECONDS)
        idle = read_memory(site.server)
        print(f"idle: {idle:.0f} MB; {INBOUND} {read_memory(site.server, INBOUND):.1f} MB", flush=True)
        with discard_mail(site.server):
            measure_ports(site, sign(SMALL), options.rounds, options.messages)
            measure_large(site, sign(LARGE), options.large)
        is_whole = measure_rate(site, sign(SMALL), options.rate, options.seconds)
        is_whole &= measure_crowd(site, sign(SMALL), options.connections)
        kills = count_memory_kills() - kills_before
        print(f"processes killed for their memory: {kills}; load {os.getloadavg()[0]:.1f}")
    sys.exit(0 if is_whole and not kills else 1)


def change_settings(lab: Lab, settings: dict[str, Any]) -> None:
    settings["admin"]["networks"] = [str(lab.network)]
    settings["firewall"] = {"open": [port for port in PORTS.values() if port != 25]}
    settings["guard"] = {"receiving": {"messages_per_hour": 1_000_000, "network_messages_per_hour": 1_000_000}}
    settings["spam"] = "full"


def publish_author(internet: Internet) -> Callable[[int], bytes]:
    """Publish a domain; a function that makes a signed message of so many bytes. Its subject is not signed."""
    pem = generate_dkim_pem()
    records = (
        f'bench.test. MX 10 mx.outside.test.\nbench.test. TXT "v=spf1 a:mx.outside.test -all"\n'
        f'_dmarc.bench.test. TXT "v=DMARC1; p=reject"\n'
        f'{SELECTOR}._domainkey.bench.test. TXT "v=DKIM1; k=rsa; p={DkimKey("bench.test", SELECTOR, pem).public}"\n'
    )
    internet.publish(split_strings(records), "bench")

    def compose(size: int) -> bytes:
        text = ("See you on Thursday. " * 3 + "\r\n").encode()
        date = formatdate()
        head = f"From: {AUTHOR}\r\nTo: {RECIPIENT}\r\nDate: {date}\r\nMIME-Version: 1.0\r\n\r\n".encode()
        data = head + text * (size // len(text))
        signature: bytes = dkim.sign(
            data,
            SELECTOR.encode(),
            b"bench.test",
            pem,
            canonicalize=(b"relaxed", b"relaxed"),
            include_headers=[b"from"],
        )
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


@contextmanager
def discard_mail(server: Server) -> Iterator[None]:
    """Meanwhile, the server delivers to nobody, and has the other ports."""
    for name, milters in (("authors alone", "$inbound_milter"), ("no milter", "")):
        port = PORTS[name]
        server.run(
            f"postconf -M '{port}/inet={port} inet n - n - 100 smtpd' && "
            f"postconf -P '{port}/inet/smtpd_milters={milters}'"
        )
    server.run("cp -a /etc/postfix/main.cf /root && postconf -e virtual_transport=discard && postfix reload")
    yield
    server.run("cp -a /root/main.cf /etc/postfix && postfix reload")


def measure_ports(site: Site, data: bytes, rounds: int, messages: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in PORTS}
    for port in PORTS.values():
        poll(partial(is_answering, site, port, data), 60, f"port {port} does not answer")
        send_messages(site, port, data, messages)  # processes start, caches fill
    for number in range(rounds):
        for name in sorted(PORTS, reverse=bool(number % 2)):
            rates[name].append(send_messages(site, PORTS[name], data, messages))
    for name, measured in rates.items():
        print(f"{name}: {statistics.median(measured):.1f} messages/s; by round {join_rounded(measured, 0)}")
        ratios = [rate / bare for rate, bare in zip(measured, rates["no milter"], strict=True)]
        print(f"  ratio to no milter: {statistics.median(ratios):.2f}; by round {join_rounded(ratios, 2)}")
    print(f"then {INBOUND} has {read_memory(site.server, INBOUND):.1f} MB", flush=True)


def join_rounded(numbers: list[float], digits: int) -> str:
    return ", ".join(f"{number:.{digits}f}" for number in numbers)


def measure_large(site: Site, data: bytes, count: int) -> None:
    """Who is told to wait tries again, as a server would, but sooner."""
    with ThreadPoolExecutor(count) as pool:
        start = time.monotonic()
        sending = [pool.submit(insist, site, data) for _ in range(count)]
        peaks = sample_memory(site.server, sending, "/", INBOUND, FILTER)
        tries = [future.result() for future in sending]
    print(
        f"{count} messages of {len(data) >> 20} MiB at once: {time.monotonic() - start:.1f} s, {tries} tries; at most"
    )
    print("  " + ", ".join(f"{name} {peak:.0f} MB" for name, peak in peaks.items()))
    restarts = site.server.run(f"systemctl show -P NRestarts {FILTER}").stdout.strip()
    print(f"  {FILTER} was started anew {restarts} times", flush=True)


def insist(site: Site, data: bytes) -> int:
    """How many tries it took."""
    for number in range(1, MAX_TRIES):
        try:
            send_message(site, PORTS["everything on"], data)
            return number
        except smtplib.SMTPDataError as error:
            if error.smtp_code != 451:
                raise
            time.sleep(RETRY_SECONDS)
    send_message(site, PORTS["everything on"], data)
    return MAX_TRIES


def measure_rate(site: Site, data: bytes, rate: int, seconds: int) -> bool:
    """Whether each message that was accepted is delivered once."""
    start = time.monotonic()

    def send(number: int) -> str:
        time.sleep(max(start + number / rate - time.monotonic(), 0))
        return try_message(site, data, f"Rate {number}")

    with ThreadPoolExecutor(CLIENTS) as pool:
        sending = [pool.submit(send, number) for number in range(rate * seconds)]
        peak = sample_memory(site.server, sending, "/")["/"]
        reached = sum(not future.result() for future in sending) / (time.monotonic() - start)
    waiting = len(site.server.run("postqueue -j").stdout.splitlines())
    print(f"{rate} messages a second wished, {reached:.0f} accepted: at most {peak:.0f} MB; then {waiting} wait")
    return count_delivered(site.server, "Rate", sending)


def measure_crowd(site: Site, data: bytes, connections: int) -> bool:
    """Whether each message that was accepted is delivered once."""
    start, waits = time.monotonic(), [0.0]
    with ThreadPoolExecutor(connections) as pool:
        sending = [pool.submit(try_message, site, data, f"Crowd {number}") for number in range(connections)]
        with ThreadPoolExecutor(1) as other:
            prober = other.submit(lambda: waits.extend(probe_imap(site, sending)))
            peak = sample_memory(site.server, sending, "/")["/"]
            prober.result()
        answers = Counter(future.result() for future in sending)
    seconds = time.monotonic() - start
    print(f"{connections} connections at once: {answers.pop('', 0)} messages accepted in {seconds:.0f} s, ", end="")
    print(f"at most {peak:.0f} MB; the others: {dict(answers)}")
    print(f"  IMAP was asked {len(waits) - 1} times meanwhile, and answered within {max(waits):.2f} s")
    return count_delivered(site.server, "Crowd", sending)


def probe_imap(site: Site, sending: list[Future[str]]) -> Iterator[float]:
    """The seconds until each greeting, once a second."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    while not all(future.done() for future in sending):
        began = time.monotonic()
        IMAP4_SSL(str(site.server.ip), ssl_context=context, timeout=60).logout()
        yield time.monotonic() - began
        time.sleep(1)


def count_delivered(server: Server, kind: str, sending: list[Future[str]]) -> bool:
    """Prints what is lost and what came twice; whether nothing is."""
    poll(lambda: not server.run("postqueue -j").stdout, 1200, "the queue does not get empty", 2)
    rows = json.loads(server.run(f"doveadm -f json fetch -u {RECIPIENT} hdr.subject subject '{kind} '").stdout)
    delivered = Counter(row["hdr.subject"] for row in rows)
    accepted = {f"{kind} {number}" for number, future in enumerate(sending) if not future.result()}
    lost, twice = len(accepted - delivered.keys()), sum(number > 1 for number in delivered.values())
    print(f"  {len(accepted)} accepted, {len(delivered)} delivered, {lost} lost, {twice} came twice", flush=True)
    return not lost and not twice


def sample_memory(server: Server, sending: list[Future[Any]], *units: str) -> dict[str, float]:
    """The peak of each while messages are sent, in MB."""
    peaks = dict.fromkeys(units, 0.0)
    while not all(future.done() for future in sending):
        peaks = {unit: max(peak, read_memory(server, unit)) for unit, peak in peaks.items()}
    return peaks


def read_memory(server: Server, unit: str = "/") -> float:
    """MB (PSS) of a unit's processes, or of all."""
    return sum(map(int, server.run(f"python3 - {unit}", stdin=READ_MEMORY).stdout.split())) / 1024


def count_memory_kills() -> int:
    """Of this whole machine (proc(5), vmstat): a container's control groups each count their own."""
    return int(re.findall(r"^oom_kill (\d+)", Path("/proc/vmstat").read_text(), re.M)[0])


def is_answering(site: Site, port: int, data: bytes) -> bool:
    try:
        send_message(site, port, data)
    except (ConnectionError, smtplib.SMTPServerDisconnected):
        return False
    return True


def try_message(site: Site, data: bytes, subject: str) -> str:
    """Why it was not accepted, or nothing. Who is not served would try again."""
    try:
        send_message(site, PORTS["everything on"], data, subject)
    except OSError as error:
        return repr(error)[:80]
    return ""


def send_messages(site: Site, port: int, data: bytes, messages: int) -> float:
    """Messages a second."""
    start = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in pool.map(lambda _: send_message(site, port, data), range(messages)):
            pass
    return messages / (time.monotonic() - start)


def send_message(site: Site, port: int, data: bytes, subject: str = "Bench") -> None:
    head = f"Subject: {subject}\r\nMessage-ID: {make_msgid(domain='bench.test')}\r\n".encode()
    with smtplib.SMTP(str(site.server.ip), port, "mx.outside.test", timeout=120) as connection:
        connection.sendmail(AUTHOR, RECIPIENT, head + data)


if __name__ == "__main__":
    main()
