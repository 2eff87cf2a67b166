#!/usr/bin/env python3
"""A million malformed requests, to the policy service and to the milter of a running guard, in each of its modes.

They are real requests and packets, broken in every way that a byte can be; the seed, which is printed first, decides
how. After each connection the guard must still answer an honest request. Its counts must be exact, its log without
a traceback, its memory small. At the first failure it prints the case, to be kept in
tests/guard/test_fuzz.py, and exits with 1.

    python bench/fuzz.py [--requests N] [--seed N]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "guard"))

from guard_fuzz import MODES, Fuzzer
from guard_samples import GuardProcess


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--requests", type=int, default=1_000_000, help="how many (default: 1,000,000)")
    arguments.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="repeat a run (default: any)")
    options = arguments.parse_args()
    print(machine.describe_machine(), f"seed: {options.seed}", sep="\n", flush=True)
    for changes in MODES:
        fuzz_guard(changes, options.requests // len(MODES), options.seed)


def fuzz_guard(changes: dict[str, Any], requests: int, seed: int) -> None:
    """`changes` of the guard's configuration."""
    with tempfile.TemporaryDirectory() as directory:
        guard = GuardProcess(Path(directory) / "guard", **changes)
        start, before = time.monotonic(), guard.read_memory() / 1e6
        try:
            Fuzzer(guard, seed).send_requests(requests, lambda number: print(f"{number:,} sent", flush=True))
            seconds, after = time.monotonic() - start, guard.read_memory() / 1e6
            print(f"mode {changes['mode']}: {requests:,} requests in {seconds:.0f} s, ", end="")
            print(f"all counts right, no error; {before:.0f} MB before, {after:.0f} MB after", flush=True)
        finally:
            guard.stop()


if __name__ == "__main__":
    main()
