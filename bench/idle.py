#!/usr/bin/env python3
"""The processor time that each service of an idle mail server takes in a minute, and the memory that it has.

Builds the demonstration's server in the lab and leaves it alone. A wake-up is a voluntary context switch of a thread.

    python bench/idle.py [--minutes N]
"""

import argparse
import json
import time

import fresh
import machine

from mailkeep.lab import Server

WATCH, MAX_WATCH_SECONDS = "mailkeep-watch.service", 0.4
UNITS = (
    WATCH,
    "mailkeep-guard.service",
    "postfix.service",
    "dovecot.service",
    "opendkim.service",
    "unbound.service",
    "fail2ban.service",
)
SETTLE_SECONDS = 60
"""The first proof of the jails, and the first look at everything, come right after the start."""
READ_UNITS = r"""
import collections, json, os, pathlib, re
tick = os.sysconf("SC_CLK_TCK")
units = collections.defaultdict(lambda: [0, 0, 0])
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        unit = re.search(r"/system\.slice/(?:.*/)?([^/\n]+\.service)", (process / "cgroup").read_text())
        statistics = (process / "stat").read_text().rpartition(")")[2].split()
        switches = [path.read_text() for path in process.glob("task/*/status")]
        memory = (process / "smaps_rollup").read_text()
    except OSError:
        continue
    if unit:
        numbers = units[unit[1]]
        numbers[0] += sum(map(int, statistics[11:15])) / tick  # its ended children's, too
        numbers[1] += sum(int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.M)[1]) for text in switches)
        numbers[2] += int(re.search(r"^Pss:\s+(\d+)", memory, re.M)[1])
print(json.dumps(units))
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=int, default=5, help="how long the server is left alone (default: 5)")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-idle") as lab:
        server = fresh.build_server(lab).server
        time.sleep(SETTLE_SECONDS)
        before = read_units(server)
        time.sleep(60 * options.minutes)
        after = read_units(server)
    print(f"{'unit':25} {'CPU a minute':>12} {'wake-ups a minute':>18} {'memory (PSS)':>13}")
    for unit in UNITS:
        seconds, wake_ups = ((after[unit][field] - before[unit][field]) / options.minutes for field in (0, 1))
        print(f"{unit:25} {seconds:>10.2f} s {wake_ups:>18.0f} {after[unit][2] / 1024:>10.1f} MB")
    print(f"(goal: at most {MAX_WATCH_SECONDS} s a minute of {WATCH})")


def read_units(server: Server) -> dict[str, list[float]]:
    """By unit: processor seconds so far, wake-ups so far, and the proportional set size in KiB."""
    units: dict[str, list[float]] = json.loads(server.run("python3 -", stdin=READ_UNITS).stdout)
    return units


if __name__ == "__main__":
    main()
