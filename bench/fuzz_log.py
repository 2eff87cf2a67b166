#!/usr/bin/env python3
"""A million log lines with attackers' text: no wrong attribution, no error, no order to a terminal.

Half of them are whole lines, as services write them. The other half is broken by bytes that are changed, cut, doubled
or inserted. At the first failure the program prints the seed of the log, and exits with 1.

    python bench/fuzz_log.py [--lines N] [--seed N]
"""

import argparse
import sys
import time
from pathlib import Path

import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "mail_log"))

from log_fuzz import LogFuzzer, check_attribution, check_no_crash

MESSAGES = 8  # of a log
SHOWN_EVERY = 100_000  # lines


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--lines", type=int, default=1_000_000, help="how many (default: 1,000,000)")
    arguments.add_argument("--seed", type=int, default=1, help="of the first log (default: 1)")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    lines, seed, begin = 0, options.seed, time.monotonic()
    while lines < options.lines:
        before = lines
        lines += check_log(seed)
        seed += 1
        if lines // SHOWN_EVERY != before // SHOWN_EVERY:
            print(f"{lines:,} lines", flush=True)
    print(f"{lines:,} lines in {seed - options.seed:,} logs, {time.monotonic() - begin:.0f} s: nothing wrong")


def check_log(seed: int) -> int:
    """The number of lines."""
    fuzzer = LogFuzzer(seed)
    try:
        log = fuzzer.make_log(MESSAGES)
        check_attribution(log)
        broken = fuzzer.mutate(log.text)
        check_no_crash(broken)
    except Exception:
        print(f"seed {seed}:", file=sys.stderr)
        raise
    lines: int = log.text.count(b"\n") + broken.count(b"\n")
    return lines


if __name__ == "__main__":
    main()
