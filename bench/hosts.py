#!/usr/bin/env python3
"""How long many hosts of one inventory take, compared with one, and how many lines are printed.

Boots N copies of a built server in the lab. Then `mailkeep plan`, `verify` and `deploy` run there, and change nothing:
with one host, with N, and with N beside three that are not reached. One of these is down. One is deaf: it accepts TCP
and never answers. One refuses. With --fresh, N bare machines are built, too.

All servers share this machine's processors with the command. Where these are few, many servers take longer because of
themselves. So the command's own processor time is printed. `ready` is when the line of the last host came that can be
reached, `ended` when the command ended.

    python bench/hosts.py [N] [--rounds R] [--fresh]
"""

import argparse
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import fresh
import machine

from mailkeep.inventory.hosts import HOSTS_FILE
from mailkeep.lab import Lab, Server
from mailkeep.lab.addresses import FIRST_SERVER_HOST, NOBODY_HOST
from mailkeep.lab.site import Site, create_site, join_sites

MAX_RATIO = 2.0
COMMANDS = {
    "plan": ("plan",),
    "verify": ("verify",),
    "deploy": ("deploy", "--no-verify"),
    "deploy, verify": ("deploy",),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "servers", metavar="N", nargs="?", type=int, default=8, help="how many: 20 at most (default: 8)"
    )
    arguments.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    arguments.add_argument("--only", choices=COMMANDS, action="append", help="measure only this; may be repeated")
    arguments.add_argument("--fresh", action="store_true", help="also build so many bare machines")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    with (
        fresh.fresh_lab(f"{os.environ.get('MAILKEEP_LAB', 'bench')}-hosts") as lab,
        socket.create_server(("127.0.0.1", 0)) as deaf,
    ):
        if options.fresh:
            measure_fresh(lab, options.servers)
        built = fresh.build_server(lab)
        sites = boot_copies(lab, built, options.servers)
        others = {
            "down": {"ssh_hostname": str(lab.ipv4_address(NOBODY_HOST))},
            "deaf": {"ssh_hostname": "127.0.0.1", "ssh_port": deaf.getsockname()[1]},
            "refusing": {"ssh_hostname": "127.0.0.1", "ssh_port": 1},
        }
        inventories = {
            "1": join_sites(lab.state / "one", sites[:1]),
            str(options.servers): join_sites(lab.state / "all", sites),
            f"{options.servers} + 3": join_sites(lab.state / "troubled", sites, others),
        }
        print(f"{'command':15} {'hosts':>8} {'ready':>8} {'ratio':>6} {'ended':>8} {'lines':>6} {'CPU':>7}", flush=True)
        for name in options.only or COMMANDS:
            compare(name, COMMANDS[name], inventories, options.rounds)


def boot_copies(lab: Lab, built: Site, number: int) -> list[Site]:
    """Copies of the built server, with inventories that name their own addresses, deployed."""
    image = built.bake("built")
    built.server.remove()
    sites = []
    for index in range(1, number + 1):
        server = boot_server(lab, f"mail{index}", index, image)
        sites.append(built.copy_for(server))
        sites[-1].declare_addresses()
    run_mailkeep(("deploy", "--no-verify"), join_sites(lab.state / "first", sites))
    return sites


def boot_server(lab: Lab, name: str, index: int, image: str | None = None) -> Server:
    """At an address of its own: those of the attacker, who is not there, serve as well."""
    address = lab.ipv4_address(FIRST_SERVER_HOST - 1 + index)
    return lab.boot_server(name, hostname="mail.example.test", ip=address, image=image)


@dataclass(frozen=True)
class Run:
    """`seconds` until the command ended; `ready` until the line of the last host that can be reached; `cpu`: those of
    processor time that the command and its children took."""

    seconds: float
    ready: float
    lines: int
    cpu: float


def compare(name: str, command: tuple[str, ...], inventories: dict[str, Path], rounds: int) -> None:
    one = 0.0
    for label, inventory in inventories.items():
        runs = [run_mailkeep(command, inventory) for _ in range(rounds)]
        ready, seconds, cpu = (
            statistics.median(getattr(run, field) for run in runs) for field in ("ready", "seconds", "cpu")
        )
        one = one or ready
        print(
            f"{name:15} {label:>8} {ready:>8.1f} {ready / one:>6.2f} {seconds:>8.1f} {runs[-1].lines:>6} {cpu:>5.1f} s",
            flush=True,
        )
    print(f"(goal: a ratio of at most {MAX_RATIO})")


def measure_fresh(lab: Lab, number: int) -> None:
    """One bare machine, then N at once."""
    for count in (1, number):
        sites = []
        internet = lab.boot_internet(fresh=False)
        for index in range(1, count + 1):
            server = boot_server(lab, f"bare{index}", index)
            internet.resolve_for(server)
            sites.append(create_site(lab, server))
        run = run_mailkeep(("deploy", "--no-verify"), join_sites(lab.state / "bare", sites))
        print(f"fresh: {count} at once: {run.seconds:.1f} s, {run.lines} lines, {run.cpu:.1f} s of CPU", flush=True)
        for site in sites:
            site.server.remove()


def run_mailkeep(command: tuple[str, ...], inventory: Path) -> Run:
    before, start, ready, lines = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0.0, []
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "mailkeep", *command, str(inventory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            if re.match(r"(. )?(mail|bare)\d+: ", line):
                ready = time.monotonic() - start
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    output = "".join(lines)
    if process.returncode == 1 and "not reached" not in output and "--no-verify" in command:
        raise SystemExit(f"{' '.join(command)} failed on {(inventory / HOSTS_FILE).read_text()}\n{output}")
    if os.environ.get("BENCH_OUTPUT"):
        print(output)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds, ready or seconds, len(lines), cpu)


if __name__ == "__main__":
    main()
