"""All areas at once; each says what it saw or why it could not look."""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import bans, dns_client, guard, login, machine, mail, milter, tls, watch, web
from .config import ProbeConfig
from .linux_account import alone, linux_account, rights

AREAS: dict[str, Callable[[ProbeConfig], Any]] = {
    "relay": mail.relay,
    "spoofed senders": mail.senders,
    "unknown recipients": mail.unknown,
    "postmaster": mail.postmaster,
    "manners": mail.manners,
    "smuggling": mail.smuggling,
    "pipelining": mail.pipelining,
    "login offers": login.offers,
    "tls": tls.spoken,
    "jails": bans.find_jail_faults,
    "ssh": bans.guess_at_ssh,
    "stranger": rights,
    "resolver": dns_client.resolver,
    "dkim records": dns_client.keys,
    "signatures": milter.signatures,
    "units": machine.units,
    "replaced": lambda _: machine.replaced(),
    "listeners": lambda _: machine.listeners(),
    "firewall": lambda _: machine.firewall(),
    "disks": lambda _: machine.disks(),
    "journal": lambda _: machine.journal(),
    "queue": lambda _: machine.queue(),
    "clock": lambda _: machine.clock(),
    "upgrades": lambda _: machine.upgrades(),
    "outbound": machine.outbound,
    "senders": machine.senders,
    "guard": guard.guard,
    "watch": lambda _: watch.watched(),
    "alert path": watch.path,
    "web": web.web,
    "passdbs": lambda _: machine.passdbs(),
}
AT_ONCE = 10  # a server of one CPU serves others meanwhile


def probe(given: ProbeConfig) -> dict[str, Any]:
    """Per area `{"result": …}` or `{"error": …}`."""
    start = time.time()
    with alone(), linux_account() as password, ThreadPoolExecutor(AT_ONCE) as pool:
        areas = {**AREAS, "linux account": lambda given: login.linux_account(given, password)}
        futures = {name: pool.submit(_look, area, given) for name, area in areas.items()}
        seen = {name: future.result() for name, future in futures.items()}
        # Last: it is about the failures that the others made.
        seen["noticed"] = _look(lambda given: bans.noticed(given, start), given)
    return seen | {"time": {"result": start}, "address": {"result": given.address}}


def _look(area: Callable[[ProbeConfig], Any], given: ProbeConfig) -> dict[str, Any]:
    try:
        return {"result": area(given)}
    except Exception as error:  # whatever it is, it is reported, and the other areas go on
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    print(json.dumps(probe(ProbeConfig.parse(sys.stdin.read()))))
