"""Which messages of a source have arrived, so that a rerun need not read them again.

A message that its owner has deleted or moved meanwhile is not copied a second time. The journal is written after the
messages: if it lacks some after a kill, their hashes tell. It holds no text of a message but its Message-ID.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from mailkeep_server.common.mail_frames import Arrival, hash_text

DIRECTORY = "/var/lib/mailkeep/imports"


def measure_arrivals(address: str, source: str, directory: str = DIRECTORY) -> tuple[int, int]:
    """How many messages of a source have arrived in all folders of the account, and their bytes."""
    count = size = 0
    for path in Path(directory, address, hash_text(source)).glob("*.jsonl"):
        arrivals = read_arrivals(path)
        count += len(arrivals)
        size += sum(arrival.size for arrival in arrivals.values())
    return count, size


def read_arrivals(path: Path) -> dict[str, Arrival]:
    """By their keys. A line that a kill has cut is left out."""
    arrivals: dict[str, Arrival] = {}
    try:
        with path.open("rb") as file:
            for line in file:
                with suppress(ValueError, TypeError):
                    arrival = Arrival(*json.loads(line))
                    arrivals[arrival.key] = arrival
    except FileNotFoundError:
        pass
    return arrivals


class Journal:
    """The arrivals in one folder of an account, of one source."""

    def __init__(self, address: str, source: str, folder: str, directory: str = DIRECTORY) -> None:
        self._path = Path(directory, address, hash_text(source), f"{hash_text(folder)}.jsonl")
        self.arrivals = read_arrivals(self._path)
        self._file: IO[bytes] | None = None

    def list_uids(self, uid_validity: int) -> set[int]:
        """The UIDs that arrivals have in the folder."""
        return {
            arrival.uid for arrival in self.arrivals.values() if arrival.uid and arrival.uid_validity == uid_validity
        }

    def note(self, arrivals: Iterable[Arrival]) -> None:
        """Raises OSError."""
        if not self._file:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = open(self._path, "ab", opener=lambda path, flags: os.open(path, flags, 0o600))  # noqa: SIM115
            if self._file.tell():
                self._file.write(b"\n")  # a killed run may have left half a line
        for arrival in arrivals:
            self.arrivals[arrival.key] = arrival
            self._file.write(json.dumps(arrival).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
