#!/usr/bin/env python3
"""How long a fresh build takes, compared with a bare `apt-get install` of the same packages.

Takes turns, each on a freshly booted Debian 13 of the lab: `apt-get update` and `apt-get install` of all packages of
the parts, over SSH; and a whole deploy of the demonstration's server. Prints the times and the ratio of the medians.

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

MAX_RATIO = 1.3
INSTALL = "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update && apt-get -qq install -y --no-install-recommends"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    rounds = arguments.parse_args().rounds
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-build") as lab:
        compare_builds(lab, rounds)


def compare_builds(lab: Lab, rounds: int) -> None:
    install_times: list[float] = []
    deploy_times: list[float] = []
    print(f"{'round':>6} {'apt-get, s':>11} {'deploy, s':>11}", flush=True)
    for number in range(1, rounds + 1):
        for build, times in ((install_packages, install_times), (fresh.deploy, deploy_times)):
            site = fresh.create_bare_server(lab)
            start = time.monotonic()
            build(site)
            times.append(time.monotonic() - start)
        print(f"{number:>6} {install_times[-1]:>11.1f} {deploy_times[-1]:>11.1f}", flush=True)
    install_median, deploy_median = statistics.median(install_times), statistics.median(deploy_times)
    print(f"{'median':>6} {install_median:>11.1f} {deploy_median:>11.1f}")
    print(f"ratio {deploy_median / install_median:.2f}, goal at most {MAX_RATIO}")


def install_packages(site: Site) -> None:
    packages = {name for part in mail_server.build_parts(site.settings, site.secrets) for name in part.packages}
    site.server.run(f"{INSTALL} {' '.join(sorted(packages))}", timeout=900)


if __name__ == "__main__":
    main()
