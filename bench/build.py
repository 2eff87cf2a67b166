#!/usr/bin/env python3
"""How long a fresh build takes against a bare `apt-get install` of the same packages.

In turn, each on a freshly booted Debian 13 of the lab: `apt-get update` and `apt-get install` of all packages that the
parts name, over SSH; and a whole deploy of the demonstration's server. Prints the times and the ratio of the medians.

    python bench/build.py [--rounds N]
"""

import argparse
import statistics
import time

import fresh
import machine

from mailkeep.lab import Lab
from mailkeep.lab.site import Site
from mailkeep.parts import mail_server

GOAL = 1.3
INSTALL = "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update && apt-get -qq install -y --no-install-recommends"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    rounds = arguments.parse_args().rounds
    print(machine.line(), flush=True)
    with fresh.lab("bench-build") as lab:
        measure(lab, rounds)


def measure(lab: Lab, rounds: int) -> None:
    bare: list[float] = []
    ours: list[float] = []
    print(f"{'round':>6} {'apt-get, s':>11} {'deploy, s':>11}", flush=True)
    for number in range(1, rounds + 1):
        for run, times in ((install, bare), (fresh.deploy, ours)):
            declared = fresh.declared(lab)
            start = time.monotonic()
            run(declared)
            times.append(time.monotonic() - start)
        print(f"{number:>6} {bare[-1]:>11.1f} {ours[-1]:>11.1f}", flush=True)
    ratio = statistics.median(ours) / statistics.median(bare)
    print(f"{'median':>6} {statistics.median(bare):>11.1f} {statistics.median(ours):>11.1f}")
    print(f"ratio {ratio:.2f}, goal at most {GOAL}")


def install(site: Site) -> None:
    wanted = {name for part in mail_server.build_parts(site.settings, site.secrets) for name in part.packages}
    site.server.run(f"{INSTALL} {' '.join(sorted(wanted))}", timeout=900)


if __name__ == "__main__":
    main()
