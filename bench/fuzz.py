#!/usr/bin/env python3
"""A million malformed requests, to the policy service and to the milter of a running guard, in each of its modes.

What is sent is made from real requests and packets, broken in every way that a byte can be; which, follows from the
seed that is printed first. After each connection the guard must still answer an honest request, count exactly what it
accepted, have no error of its own in its log, and have stayed small. Ends with 1 at the first that is not so; the case
is printed, to be kept in tests/guard/test_fuzz.py.

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

from guard_fuzz import MODES, Fuzz
from guard_samples import Daemon


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--requests", type=int, default=1_000_000, help="how many (default: 1,000,000)")
    arguments.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="what is sent (default: any)")
    options = arguments.parse_args()
    print(machine.describe_machine(), f"seed: {options.seed}", sep="\n", flush=True)
    for settings in MODES:
        fuzz(settings, options.requests // len(MODES), options.seed)


def fuzz(settings: dict[str, Any], requests: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        guard = Daemon(Path(directory) / "guard", **settings)
        began, idle = time.monotonic(), guard.memory() / 1e6
        try:
            Fuzz(guard, seed).send(requests, progress=lambda done: print(f"{done:,} sent", flush=True))
            print(f"mode {settings['mode']}: {requests:,} requests in {time.monotonic() - began:.0f} s, ", end="")
            print(f"all counts right, no error; {idle:.0f} MB before, {guard.memory() / 1e6:.0f} MB after", flush=True)
        finally:
            guard.stop()


if __name__ == "__main__":
    main()
