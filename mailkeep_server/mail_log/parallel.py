"""Counting by several processes: each reads a part of the log, and what lies across their borders is put together."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mailkeep_server.mail_log.counting import LogCounter
from mailkeep_server.mail_log.line_words import Needs
from mailkeep_server.mail_log.queue_state import PartialQueue
from mailkeep_server.mail_log.sources import Chunk, is_plain, order_files, read_files, read_part
from mailkeep_server.mail_log.tally import Tally

MIN_PART = 16 << 20  # bytes; a process for less would cost more than it saves
MAX_PART = 1 << 30
"""A process remembers the messages of its part that began earlier: some hundred bytes each."""
MAX_WEIGHT = 250_000_000
"""Bytes of what each of several processes follows at once. They are for an operator's machine, which has more memory
than a small server."""


@dataclass(frozen=True)
class Part:
    """A whole compressed file, or the bytes of a plain one whose lines begin from `begin` on and before `end`."""

    path: Path
    begin: int = 0
    end: int | None = None


def count_files(paths: Sequence[Path], needs: Needs, processes: int = 0) -> Tally:
    """By as many processes as there are processors, or as are asked for. With one, memory stays below 64 MB. Raises
    LogError."""
    processes = processes or count_processors()
    parts = list(split_files(order_files(paths), processes)) if processes > 1 else []
    if len(parts) < 2 or "fork" not in multiprocessing.get_all_start_methods():
        return LogCounter(needs).read(read_files(paths)).finish()
    # This process takes the first part. A forked one has the same hashes of bytes.
    workers = processes - 1 if len(parts) <= processes else processes
    with multiprocessing.get_context("fork").Pool(min(workers, len(parts) - 1)) as pool:
        others = pool.imap(partial(count_part, needs), parts[1:])
        queue = LogCounter(needs, max_weight=MAX_WEIGHT).read(_read(parts[0]))
        for partial_queue in others:
            queue.merge(partial_queue)
    return queue.finish()


def count_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def split_files(paths: Sequence[Path], processes: int) -> Iterator[Part]:
    total = sum(path.stat().st_size for path in paths)
    size = max(MIN_PART, min(MAX_PART, -(-total // processes)))
    for path in paths:
        length = path.stat().st_size
        if length <= size or not is_plain(path):
            yield Part(path)
            continue
        number = -(-length // size)
        for place in range(number):
            yield Part(path, length * place // number, length * (place + 1) // number)


def count_part(needs: Needs, part: Part) -> PartialQueue:
    return LogCounter(needs, is_later=True, max_weight=MAX_WEIGHT).read(_read(part)).export()


def _read(part: Part) -> Iterator[Chunk]:
    return read_files([part.path]) if part.end is None else read_part(part.path, part.begin, part.end)
