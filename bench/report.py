#!/usr/bin/env python3
"""`mailkeep report` beside Debian's pflogsumm, on one log of the shape of incidents A and B.

The log is made first, the same bytes each time, and its totals are known. Both programs read it; their numbers must be
right, and the same where both count the same thing. The bars: 10 times pflogsumm's speed on all processors, 4 times on
one, and at most 64 MB of memory there. Exit code 1: a number is wrong, or a bar is missed.

    python bench/report.py [--size MB] [--keep FILE]      (apt install pflogsumm)
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "mail_log"))

from incident_log import INCIDENT_A, TRIES_A, Totals, write_incident_log

BAR_ALL, BAR_ONE = 10.0, 4.0  # times pflogsumm's speed
MAX_MEMORY = 64  # MB
NOT_RECEIVED = "pflogsumm counts lines of smtpd, so notices that this server makes are not in it"
UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


@dataclass
class Run:
    seconds: float
    processor_seconds: float
    """Of all processes together: what it takes on a busy machine, too."""
    memory: float
    """Megabytes of the largest process."""
    output: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2000, metavar="MB", help="of the log (default: 2000)")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="make the log there, and leave it")
    options = parser.parse_args()
    if not shutil.which("pflogsumm"):
        print("pflogsumm is not installed: apt install pflogsumm", file=sys.stderr)
        return 1
    print(machine.describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        log = options.keep or Path(directory) / "mail.log"
        # In a process of its own: a child's peak of memory begins with its parent's size.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            totals = pool.apply(make_log, (log, options.size * 1_000_000))
        print(f"a log of {log.stat().st_size / 1e6:,.0f} MB", flush=True)
        return compare(log, totals)


def make_log(log: Path, size: int) -> Totals:
    with log.open("wb") as file:
        return write_incident_log(file, size)


def compare(log: Path, totals: Totals) -> int:
    size = log.stat().st_size / 1e6
    subprocess.run(["cat", str(log)], stdout=subprocess.DEVNULL, check=True)  # into the page cache
    ours_alone = run_report(log, 1)
    ours = run_report(log, 0)
    theirs = run_command(["pflogsumm", str(log)])
    processors = len(os.sched_getaffinity(0))
    for name, run in (("pflogsumm", theirs), ("one process", ours_alone), (f"{processors} processes", ours)):
        speed = theirs.seconds / run.seconds
        print(
            f"{name:14} {run.seconds:7.1f} s  {size / run.seconds:6.0f} MB/s  {speed:5.1f} x  {run.memory:4.0f} MB",
            end="",
        )
        print(f"  {run.processor_seconds:6.1f} s of a processor")
    faults = [
        *check_totals(json.loads(ours_alone.output), totals),
        *check_totals(json.loads(ours.output), totals),
        *check_incident_a(log),
        *check_beside(json.loads(ours.output)["totals"], read_grand_totals(theirs.output), totals),
        *check_bars(ours_alone, ours, theirs),
    ]
    print("\n".join(faults) if faults else "all numbers are right, and all bars are met")
    return bool(faults)


def run_report(log: Path, processes: int, *arguments: str) -> Run:
    options = [f"--file={log}", "--json", f"--processes={processes}", *arguments]
    return run_command([sys.executable, "-Im", "mailkeep_server", "mail-report", *options])


def run_command(command: list[str]) -> Run:
    begin = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        output = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with exit code {process.returncode}")
    return Run(time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3, output)


def check_totals(report: dict[str, Any], totals: Totals) -> list[str]:
    names = {"sent": "delivered", "waiting": "deferred"}
    return [
        f"{name}: the log has {number:,}, the report {report['totals'][names.get(name, name)]:,}"
        for name, number in totals.numbers.items()
        if report["totals"][names.get(name, name)] != number
    ]


def check_incident_a(log: Path) -> list[str]:
    """The six lines of incident A, by the network of its client."""
    report = json.loads(run_report(log, 0, "--by=network", "--until=2026-05-13").output)
    row = next(row for row in report["rows"] if row["key"] == "198.51.100.0/24")
    numbers = {"sent": row["delivered"], "bounced": row["bounced"], "rejected": row["rejected"]}
    numbers |= {"waiting": row["deferred"], "unknown": row["unknown"]}
    print(
        "incident A:",
        f"{row['attempted']:,} tries:",
        ", ".join(f"{number:,} {name}" for name, number in numbers.items()),
    )
    return [] if numbers == INCIDENT_A and row["attempted"] == TRIES_A else [f"incident A: {row}"]


def read_grand_totals(output: str) -> dict[str, tuple[int, int]]:
    """By its name, each number and the unit in which it is rounded down."""
    numbers = {}
    for line in output.partition("Per-Day")[0].splitlines():
        if match := re.match(r"\s+(\d+)([kmg]?)\s+([a-z][a-z ]*[a-z])(?:\s+\((\d+)([kmg]?)\s+deferrals\))?", line):
            numbers[match[3]] = int(match[1]) * UNITS[match[2]], UNITS[match[2]]
            if match[4]:
                numbers["deferrals"] = int(match[4]) * UNITS[match[5]], UNITS[match[5]]
    return numbers


def check_beside(ours: dict[str, int], theirs: dict[str, tuple[int, int]], totals: Totals) -> list[str]:
    faults = []
    notices = totals.by_account["(notices)", "messages"]
    names = {"received": "messages", "delivered": "delivered", "bounced": "bounced", "rejected": "rejected"}
    for name, our_name in (names | {"deferrals": "deferrals"}).items():
        (number, unit), our_number = theirs[name], ours[our_name]
        print(f"{name}: pflogsumm {number:,}{f' (in {unit:,})' if unit > 1 else ''}, report {our_number:,}", end="")
        print(f": {NOT_RECEIVED}" if name == "received" else "")
        if abs(our_number - (notices if name == "received" else 0) - number) > unit // 2 * 2:
            faults.append(f"{name} differs from pflogsumm's")
    number, _ = theirs["deferred"]
    print(f"deferred: pflogsumm {number:,} messages ever put off; report {ours['deferred']:,} people who wait")
    return faults


def check_bars(single: Run, parallel: Run, theirs: Run) -> list[str]:
    faults = []
    if theirs.seconds / single.seconds < BAR_ONE:
        faults.append(f"one process is {theirs.seconds / single.seconds:.1f} times as fast, and should be {BAR_ONE}")
    if theirs.seconds / parallel.seconds < BAR_ALL:
        faults.append(
            f"all processors are {theirs.seconds / parallel.seconds:.1f} times as fast, and should be {BAR_ALL}"
        )
    if single.memory > MAX_MEMORY:
        faults.append(f"one process takes {single.memory:.0f} MB, and should take {MAX_MEMORY}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
