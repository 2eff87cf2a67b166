#!/usr/bin/env python3
"""The processor time that each service of an idle mail server takes in a minute, and the memory that it has.

Builds the demonstration's server in the lab and leaves it alone. A wake-up is a voluntary context switch of a thread.

    python bench/idle.py [--minutes N]
"""

import argparse
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
READ_UNIT = r"""
group=/sys/fs/cgroup$(systemctl show -p ControlGroup --value "$1")
awk '$1 == "usage_usec" { print $2 }' "$group/cpu.stat"
find "$group" -name cgroup.threads -exec cat {} + | while read -r thread; do
    awk '/^voluntary_ctxt/ { print $2 }' "/proc/$thread/status" 2>/dev/null
done | awk '{ sum += $1 } END { print sum + 0 }'
find "$group" -name cgroup.procs -exec cat {} + | while read -r process; do
    awk '/^Pss:/ { print $2 }' "/proc/$process/smaps_rollup" 2>/dev/null
done | awk '{ sum += $1 } END { print sum + 0 }'
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=int, default=5, help="how long the server is left alone (default: 5)")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-idle") as lab:
        server = fresh.build_server(lab).server
        time.sleep(SETTLE_SECONDS)
        before = {unit: read_unit(server, unit) for unit in UNITS}
        time.sleep(60 * options.minutes)
        after = {unit: read_unit(server, unit) for unit in UNITS}
    print(f"{'unit':25} {'CPU a minute':>12} {'wake-ups a minute':>18} {'memory (PSS)':>13}")
    for unit in UNITS:
        processor_time, wake_ups = ((after[unit][field] - before[unit][field]) / options.minutes for field in (0, 1))
        print(f"{unit:25} {processor_time / 1e6:>10.2f} s {wake_ups:>18.0f} {after[unit][2] / 1024:>10.1f} MB")
    print(f"(goal: at most {MAX_WATCH_SECONDS} s a minute of {WATCH})")


def read_unit(server: Server, unit: str) -> list[int]:
    """Processor time so far in microseconds, wake-ups so far, and the proportional set size in KiB."""
    return [int(line) for line in server.run(f"set -- {unit}\n{READ_UNIT}").stdout.split()]


if __name__ == "__main__":
    main()
