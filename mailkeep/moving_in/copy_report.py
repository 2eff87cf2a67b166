"""What an import has done, for people and as JSON; and its progress."""

import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from mailkeep.moving_in.compare_folders import Difference

MAX_LISTED = 30  # differences on the screen
TERMINAL_SECONDS, LOG_SECONDS = 0.2, 15.0


@dataclass(frozen=True)
class FolderReport:
    """A folder of the source. `uids` is kept, partly, new or none; `others` counts messages here that are not the
    source's."""

    folder: str
    target: str
    messages: int
    added: int
    known: int
    duplicates: int
    bytes: int
    uids: str
    others: int
    differences: int


@dataclass
class ImportReport:
    """`planned` is for a dry run: folders with their messages (-1: not known before they are read) and sizes."""

    address: str
    source: str
    folders: list[FolderReport] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    planned: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        values["differences"] = [difference._asdict() for difference in self.differences]
        values["seconds"] = round(self.seconds, 1)
        return values

    def describe(self) -> str:
        """The report as text, at most a screen long but for folders."""
        lines = _align(
            [
                ("FOLDER THERE", "HERE", "MESSAGES", "COPIED", "WERE HERE", "UIDS", "DIFFERENCES"),
                *(
                    (
                        row.folder,
                        row.target,
                        f"{row.messages:,}",
                        f"{row.added:,}",
                        f"{row.known + row.duplicates:,}",
                        row.uids,
                        f"{row.differences:,}" if row.differences else "-",
                    )
                    for row in self.folders
                ),
            ]
        )
        lines += [f"Note: {note}" for note in self.notes]
        lines += [f"{item.folder}: {item.message}: {item.kind}: {item.text}" for item in self.differences[:MAX_LISTED]]
        if len(self.differences) > MAX_LISTED:
            lines.append(f"… and {len(self.differences) - MAX_LISTED:,} more differences; --json lists all.")
        messages, added = sum(row.messages for row in self.folders), sum(row.added for row in self.folders)
        outcome = (
            f"{len(self.differences):,} differences are left, listed above." if self.differences else "All is equal."
        )
        lines.append(f"{messages:,} messages there, {added:,} copied now, in {self.seconds:.0f} s. {outcome}")
        return "\n".join(lines)

    def describe_plan(self) -> str:
        lines = _align(
            [
                ("FOLDER THERE", "HERE", "MESSAGES", "SIZE"),
                *(
                    (
                        row["folder"],
                        row["target"],
                        f"{row['messages']:,}" if row["messages"] >= 0 else "?",
                        describe_size(row["size"]),
                    )
                    for row in self.planned
                ),
            ]
        )
        lines += [f"Note: {note}" for note in self.notes]
        lines.append("A dry run: nothing was copied.")
        return "\n".join(lines)


class ProgressLine:
    """A line on standard error that changes at a terminal, and a new line now and then elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._shown = time.monotonic()
        self._width = 0

    def __call__(self, folder: str, messages: int, total: int, size: int) -> None:
        now = time.monotonic()
        if now - self._shown < (TERMINAL_SECONDS if self._is_terminal else LOG_SECONDS):
            return
        self._shown = now
        of = f" of {total:,}" if total >= 0 else ""
        text = f"{folder}: {messages:,}{of} messages, {describe_size(size)}"
        if self._is_terminal:
            self._stream.write(f"\r{text:<{self._width}}")
            self._width = len(text)
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def clear(self) -> None:
        if self._width:
            self._stream.write(f"\r{'':<{self._width}}\r")
            self._width = 0


def _align(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def describe_size(size: int) -> str:
    """Bytes for people."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
