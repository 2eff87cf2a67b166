"""Whether each fail2ban jail sees a guess, and whether its ban reaches the firewall.

A jail can look healthy, list who it has banned, and have no firewall rule: so a canary is banned and looked for in
nft. Canaries are addresses of the documentation networks (RFC 5737, RFC 3849), which nobody has, and none of the last
day's: the recidive jail counts the bans of all others, and three of an address would do.
"""

import fcntl
import ipaddress
import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

from .config import ProbeConfig, unused_client_address
from .linux_account import lock_file, run
from .unprivileged import NAME

NETWORKS = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
NETWORK6 = ipaddress.IPv6Network("2001:db8:fa11::/64")
LOCK = Path("/run/mailkeep-jails.lock")  # that of guard.watch.jails
STOPPED = ({"ActiveState=inactive", "Job="}, {"ActiveState=failed", "Job="})  # and no job is to start it
WAIT = 10.0  # seconds until what is in the journal must have reached fail2ban, or a ban the firewall


def canaries(here: list[str], lately: set[str], number: int) -> list[list[str]]:
    """So many times an IPv4 and an IPv6 address outside the networks of `here`, none twice: whose ban it is, is told by
    the address. None that was banned `lately`, as long as there are others."""
    near = [ipaddress.ip_network(f"{address}/24", strict=False) for address in here if ":" not in address]
    networks = [network for network in map(ipaddress.IPv4Network, NETWORKS) if network not in near]
    hosts = [str(address) for network in networks for address in network.hosts()]
    fresh = [address for address in hosts if address not in lately]
    v4 = random.sample(fresh if len(fresh) >= number else hosts, number)
    return [[one, str(NETWORK6[random.getrandbits(64)])] for one in v4]


def _lately_banned() -> set[str]:
    """The canaries of a day, as far back as the recidive jail counts."""
    any_of_them = "|".join(network.rpartition(".")[0].replace(".", r"\.") for network in NETWORKS)
    log = ["journalctl", "--unit=fail2ban.service", "--output=cat", "--since=-1d", f"--grep= Ban ({any_of_them})\\."]
    said = subprocess.run(log, capture_output=True, text=True, check=False, timeout=60).stdout  # 1: there is none
    return {line.rpartition(" Ban ")[2].strip() for line in said.splitlines()}


def jails(given: ProbeConfig) -> dict[str, Any]:
    """Per jail, how its ban of two canaries went; and all rules that look at a set. Not while the server proves its
    jails by itself (mailkeep-jails.service), with canaries of its own."""
    with lock_file(LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _jails(given)


def _jails(given: ProbeConfig) -> dict[str, Any]:
    listed = sorted(_running(given.jails))
    banned = dict(zip(listed, canaries([given.address], _lately_banned(), len(listed)), strict=True))
    try:
        seen = {jail: _ban(jail, addresses) for jail, addresses in banned.items()}
        rules = [item["rule"] for item in _nft("-t", "list", "ruleset") if "rule" in item]
    finally:
        for jail, addresses in banned.items():
            run("fail2ban-client", "set", jail, "unbanip", *addresses)
    left = {jail: _sets_with(addresses) for jail, addresses in banned.items()}
    return {"listed": listed, "canaries": banned, "sets": seen, "rules": rules, "left": left}


def _running(wanted: list[str]) -> list[str]:
    """The jails that run. systemd calls fail2ban started before they do, and before it can be asked."""
    deadline = time.monotonic() + WAIT
    while True:
        try:
            listed = run("fail2ban-client", "status").partition("Jail list:")[2].replace(",", " ").split()
        except RuntimeError:
            if set(run("systemctl", "show", "--property=ActiveState,Job", "fail2ban").split()) in STOPPED:
                raise
            listed = []
        if set(wanted) <= set(listed) or time.monotonic() > deadline:
            return listed
        time.sleep(0.2)


def _ban(jail: str, addresses: list[str]) -> list[str]:
    """The sets that hold the canaries, as soon as there is one for each."""
    run("fail2ban-client", "set", jail, "banip", *addresses)
    deadline = time.monotonic() + WAIT
    while len(found := _sets_with(addresses)) < len(addresses) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _sets_with(addresses: list[str]) -> list[str]:
    """The names of nft's sets that one of these addresses is in."""
    sets = [item["set"] for item in _nft("list", "sets") if "set" in item]
    return [one["name"] for one in sets if any(address in one.get("elem", ()) for address in addresses)]


def _nft(*command: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(run("nft", "-j", *command))["nftables"]
    return listed


def guess_at_ssh(given: ProbeConfig) -> str:
    """One attempt to log in with nothing. Returns what sshd says, which names the ways that it offers. When many are at
    its door, it hangs up on some before it has said anything (MaxStartups): then another attempt."""
    for _ in range(10):
        if "kex_exchange_identification" not in (said := _guess_at_ssh(given)):
            break
    return said


def _guess_at_ssh(given: ProbeConfig) -> str:
    options = {
        "BatchMode": "yes",
        "BindAddress": unused_client_address(),
        "ConnectTimeout": "10",
        "LogLevel": "ERROR",
        "PreferredAuthentications": "none",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
    }
    flags = [f"-o{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        ["ssh", "-F", "none", *flags, "-p", str(given.ssh_port), f"{NAME}@{given.address}", "true"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=20,
    )
    return done.stderr.strip() or f"exit {done.returncode}"


def noticed(given: ProbeConfig, since: float) -> dict[str, list[str]]:
    """Per jail, what fail2ban's own log says of failures since then (seconds since the epoch)."""
    deadline = time.monotonic() + WAIT
    while True:
        log = run("journalctl", "--unit=fail2ban.service", "--output=cat", f"--since=@{int(since)}").splitlines()
        lines = {
            jail: [line for line in log if f"[{jail}] Ignore " in line or f"[{jail}] Found " in line]
            for jail in given.jails
        }
        if all(lines.values()) or time.monotonic() > deadline:
            return {jail: said[:50] for jail, said in lines.items()}
        time.sleep(0.5)
        if not lines["sshd"]:
            # Each guess is a process of sshd's. One that ends before journald has looked who it is leaves a line
            # without a unit, which the jail does not read.
            guess_at_ssh(given)
