#!/usr/bin/env python3
"""All drills against a freshly built server: the four incidents, two more, and the honest week.

Prints what came of each, draws the attacks, and shows that incident A goes on when Postfix does not ask the guard.
Exit 1: a bar was missed.

    python bench/drills.py [--picture FILE] [NAME …]
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import fresh
import machine
from rich.console import Console

from mailkeep.drills import in_lab as drills
from mailkeep.drills import picture, report
from mailkeep.drills.attacks import ATTACKS
from mailkeep.drills.replay import Range, replay
from mailkeep.drills.result import MOST_OUT, Result
from mailkeep.lab import Lab


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--picture", type=Path, default=report.PICTURES / "bench", help="where to draw it")
    arguments.add_argument("names", nargs="*", default=["all"], help="A to F, week (default: all)")
    options = arguments.parse_args()
    names = drills.chosen(options.names)
    print(machine.line(), flush=True)
    with fresh.lab("bench-drills") as lab:
        sys.exit(0 if good(lab, names, options.picture) else 1)


def good(lab: Lab, names: list[str], picture_file: Path) -> bool:
    internet = lab.boot_internet()
    where = drills.around(lab, fresh.built(lab), internet)
    done = report.results(where, names, picture_file, Console(width=120, highlight=False))
    unguarded = without_guard(where)
    attacks = [one for one in done if isinstance(one, Result)]
    picture.draw([*attacks, unguarded], picture_file)
    print(f"{unguarded.title}: {unguarded.messages} messages of {unguarded.tries} out")
    return unguarded.messages > MOST_OUT and not any(one.misses for one in done)


def without_guard(where: Range) -> Result:
    """What the guard is for; stopped after two hundred messages."""
    attack = replace(ATTACKS["A"], title="the same, when Postfix does not ask the guard", tries=200, seconds=60.0)
    with drills.without_guard(where.server):
        return replay(where, attack)


if __name__ == "__main__":
    main()
