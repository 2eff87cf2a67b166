#!/usr/bin/env python3
"""Figures of a freshly built server while incident A is replayed, and the picture of the dashboard that shows them.

Grafana is not asked: the picture is drawn from docs/grafana-dashboard.json and from what `mailkeepctl metrics` prints.

    python bench/dashboard.py [--to FILE]
"""

import argparse
import threading
import time
from pathlib import Path

import fresh
import machine
from dashboard_picture import Scrape, draw_dashboard

from mailkeep.drills import in_lab
from mailkeep.drills.attacks import ATTACKS
from mailkeep.drills.replay import replay_attack
from mailkeep.lab import Server

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "grafana-dashboard.png"
INTERVAL = 2.0  # seconds between two looks
QUIET = 40.0  # seconds before the attack and after it


class Scraper:
    """Asks a server for its figures until it is stopped."""

    def __init__(self, server: Server) -> None:
        self.server, self.over, self.scrapes = server, threading.Event(), list[Scrape]()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.over.wait(INTERVAL):
            self.scrapes.append(Scrape(time.time(), self.server.run("mailkeepctl metrics").stdout))

    def __enter__(self) -> "Scraper":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--to", type=Path, default=PICTURE, help="where to draw it")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-dashboard") as lab:
        setup = in_lab.create_setup(lab, fresh.build_server(lab), lab.boot_internet(fresh=False))
        with Scraper(setup.server) as scraper:
            scraper.over.wait(QUIET)
            result = replay_attack(setup, ATTACKS["A"])
            scraper.over.wait(QUIET)
    print(f"{result.tries} tries, {result.messages} messages out; the figures were read {len(scraper.scrapes)} times")
    draw_dashboard(scraper.scrapes, options.to)


if __name__ == "__main__":
    main()
