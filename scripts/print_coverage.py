"""Prints the coverage that slipcover measured: of all lines, and room by room. `print_coverage.py FILE.json`"""

import json
import sys
from collections import Counter
from pathlib import Path, PurePath


def main(report: Path) -> None:
    covered: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for file, content in json.loads(report.read_text())["files"].items():
        room = "/".join(PurePath(file).parts[:2]) if file.count("/") > 1 else PurePath(file).parts[0]
        summary = content["summary"]
        covered[room] += summary["covered_lines"]
        lines[room] += summary["covered_lines"] + summary["missing_lines"]
    rooms = sorted((100 * covered[room] / lines[room], room) for room in lines if lines[room])
    print(f"coverage of the fast tests: {100 * covered.total() / lines.total():.0f} % of {lines.total():,} lines")
    print("  " + ", ".join(f"{room} {percent:.0f} %" for percent, room in rooms))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
