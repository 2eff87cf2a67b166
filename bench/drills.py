#!/usr/bin/env python3
"""All drills against a freshly built server: the four incidents, a botnet, a patient spammer, and an honest week.

Prints the results, draws the attacks, and shows that incident A goes on when Postfix does not ask the guard.
Exit 1: a result exceeds its bound.

    python bench/drills.py [--picture FILE] [NAME …]
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import fresh
import machine
from rich.console import Console

from mailkeep.drills import in_lab, picture, report
from mailkeep.drills.attacks import ATTACKS
from mailkeep.drills.replay import DrillSetup, replay_attack
from mailkeep.drills.result import MAX_MESSAGES_OUT, DrillResult
from mailkeep.lab import Lab


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--picture", type=Path, default=report.PICTURES / "bench", help="where to draw it")
    arguments.add_argument("names", nargs="*", default=["all"], help="A to F, week (default: all)")
    options = arguments.parse_args()
    names = in_lab.select_drills(options.names)
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-drills") as lab:
        sys.exit(0 if run_drills(lab, names, options.picture) else 1)


def run_drills(lab: Lab, names: list[str], picture_file: Path) -> bool:
    """Returns whether all results keep their bounds, and the attack without the guard exceeds its own."""
    internet = lab.boot_internet()
    setup = in_lab.create_setup(lab, fresh.build_server(lab), internet)
    results = report.run_drills(setup, names, picture_file, Console(width=120, highlight=False))
    unguarded = replay_without_guard(setup)
    attacks = [result for result in results if isinstance(result, DrillResult)]
    picture.draw_results([*attacks, unguarded], picture_file)
    print(f"{unguarded.title}: {unguarded.messages} messages of {unguarded.tries} out")
    return unguarded.messages > MAX_MESSAGES_OUT and not any(result.misses for result in results)


def replay_without_guard(setup: DrillSetup) -> DrillResult:
    """Incident A as it was before the guard; it stops after two hundred messages."""
    attack = replace(ATTACKS["A"], title="the same, when Postfix does not ask the guard", tries=200, seconds=60.0)
    with in_lab.bypass_guard(setup.server):
        return replay_attack(setup, attack)


if __name__ == "__main__":
    main()
