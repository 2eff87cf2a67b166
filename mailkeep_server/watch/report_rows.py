"""Rows that the reader of reports writes for the watch. Each has a number, and the watch remembers the last it took."""

import json
from pathlib import Path
from typing import Any


def read_new_rows(file: Path, name: str, last_id: int) -> tuple[list[dict[str, Any]], int]:
    """The rows under `name` after number `last_id`, and the number of the last row. A file whose numbers end before
    `last_id` is of a new database, which counts anew: all its rows are new.

    Raises ValueError or LookupError for a file that the reader did not write.
    """
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return [], last_id
    last = int(content["last"])
    taken = last_id if last_id <= last else 0
    return [row for row in content[name] if row["id"] > taken], last
