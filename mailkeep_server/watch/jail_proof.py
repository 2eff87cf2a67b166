"""mailkeep-jails.service: proves every fail2ban jail, by a ban that reaches the firewall and goes again.

A jail can look healthy, list who it has banned, and have no rule: in one of the incidents it had been so for a year.
The canaries are addresses of the documentation networks (RFC 5737, RFC 3849), which nobody has. No IPv4 one comes
again within a day, lest the recidive jail takes them for old offenders.
"""

import fcntl
import ipaddress
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mailkeep_server.common import nft_ruleset
from mailkeep_server.common.commands import run
from mailkeep_server.watch import config

PROOF = config.STATE / "jails.json"
LOCK = Path("/run/mailkeep-jails.lock")
"""Of who has canaries banned: `mailkeep verify` does so too."""
NETWORKS = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
BUSY = 30.0  # seconds until fail2ban answers, which reads a flood of lines meanwhile
START = 60.0  # seconds that fail2ban may take to start
WAIT = 10.0  # seconds until a ban must have reached the firewall


def main(_: list[str]) -> int:
    """Writes what it found to PROOF, where the watch sees it within seconds. A dead jail is no failure of ours."""
    os.umask(0o077)
    settings = config.load()
    jails = settings.jails
    with LOCK.open("w") as lock:
        os.fchmod(lock.fileno(), 0o600)  # made by whom it may be: who can open it can hold it
        fcntl.flock(lock, fcntl.LOCK_EX)
        turn = _turn()
        found = _prove(jails, turn, settings.own)
        if faulty := {jail: ports for jail, ports in jails.items() if found[jail]}:
            # Once more: fail2ban may have restarted meanwhile, as it does in a deploy that changes a jail.
            found |= _prove(faulty, turn + len(jails), settings.own)
        turn += len(jails) + len(faulty)
        proof = {"turn": turn, "faults": {jail: said for jail, said in found.items() if said}}
        new = PROOF.with_name(f"{PROOF.name}.new")
        new.write_text(json.dumps(proof))
        new.replace(PROOF)
    for jail, said in found.items():
        print("; ".join(said) or f"jail {jail}: bans, over IPv4 and IPv6")
    return 0


def _prove(jails: Mapping[str, list[int] | None], turn: int, own: list[str]) -> dict[str, list[str]]:
    """What is wrong with each, once fail2ban has them."""
    _running(set(jails))
    return {jail: list(faults(jail, ports, canaries(turn + n, own))) for n, (jail, ports) in enumerate(jails.items())}


def _running(jails: set[str]) -> None:
    """Waits for fail2ban to have its jails, unless it is stopped. systemd calls it started before it has them."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        try:
            listed = run("fail2ban-client", "status", timeout=BUSY).partition("Jail list:")[2].replace(",", " ").split()
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            if _stopped():
                return
            listed = []
        if jails <= set(listed):
            return
        time.sleep(0.5)


def _stopped() -> bool:
    """Whether fail2ban does not run, and systemd has no job to start it: a restart stops it first."""
    shown = set(run("systemctl", "show", "--property=ActiveState,Job", "fail2ban").split())
    return shown in ({"ActiveState=inactive", "Job="}, {"ActiveState=failed", "Job="})


def _turn() -> int:
    """How many canaries there have been."""
    try:
        return int(json.loads(PROOF.read_text())["turn"])
    except (OSError, ValueError, KeyError, TypeError):
        return int(time.time())  # anywhere will do


def canaries(turn: int, own: list[str]) -> tuple[str, str]:
    """An IPv4 and an IPv6 address; none near our own, which in a lab are of those networks too: fail2ban bans by hand
    whomever it is told to. Raises ValueError when none is left."""
    ours = [ipaddress.ip_network(one) for one in own]
    networks = [ipaddress.IPv4Network(one) for one in NETWORKS]
    v4 = [
        address for network in networks if not any(network.overlaps(one) for one in ours) for address in network.hosts()
    ]
    if not v4:
        raise ValueError("no address is left for a canary")
    v6 = ipaddress.IPv6Address("2001:db8:fa11::") + int.from_bytes(os.urandom(8))
    return str(v4[turn % len(v4)]), str(v6)


def faults(jail: str, ports: list[int] | None, addresses: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with a jail, found by banning these addresses in it."""
    try:
        run("fail2ban-client", "set", jail, "banip", *addresses, timeout=BUSY)
        try:
            sets = _wait(addresses, present=True)
            if len(sets) < len(addresses):
                yield f"jail {jail}: it bans {' and '.join(addresses)}, nft has {' and '.join(sets) or 'no set'}"
            listed = nft_ruleset.parse_ruleset(run("nft", "-j", "-t", "list", "ruleset"))
            yield from nft_ruleset.find_rule_faults(
                jail, sets, None if ports is None else set(ports), listed.rules, listed.chains
            )
        finally:
            run("fail2ban-client", "set", jail, "unbanip", *addresses, timeout=BUSY)
        if left := _wait(addresses, present=False):
            yield f"jail {jail}: unbanned, and still in {' and '.join(left)}"
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        yield f"jail {jail}: {error}"


def _wait(addresses: tuple[str, ...], *, present: bool) -> list[str]:
    """The sets that hold the addresses, once all do, or none."""
    deadline = time.monotonic() + WAIT
    while True:
        found = nft_ruleset.parse_ruleset(run("nft", "-j", "list", "sets")).sets
        sets = [one["name"] for one in found if any(address in one.get("elem", ()) for address in addresses)]
        if len(sets) >= len(addresses) if present else not sets:
            return sets
        if time.monotonic() > deadline:
            return sets
        time.sleep(0.1)
