"""Prints what to run again after a run with failures, one argument of pytest a line.

The tests of a file may need those before them, so the whole file is run again; of a file in `ALONE`, the test alone.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from lab_schedule import ALONE  # noqa: E402 - it lies with the tests

CACHE = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"


def list_failed_tests(cache: Path) -> list[str]:
    """Raises OSError if the last run has left nothing."""
    tests = [(test.partition("::")[0], test) for test in json.loads(cache.read_text())]
    return sorted({test if file.endswith(ALONE) else file for file, test in tests})


if __name__ == "__main__":
    print(*list_failed_tests(CACHE), sep="\n")
