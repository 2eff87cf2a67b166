# ruff: noqa: S311 - random rows, not secrets
"""The guard with millions of messages and recipients.

It prints the seconds until the guard answers, its memory, the time of its answers, and the longest pause while it
forgets what has expired.

Usage: .venv/bin/python bench/large_database.py [--messages N] [--recipients N] [--expired PER_CENT]
"""

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from mailkeep_server.guard.database import RECIPIENTS_KEPT, Database
from mailkeep_server.guard.sliding_window import DAY

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "guard"))
from guard_samples import (
    NO_LIMITS,
    GuardProcess,
    ask_guard,
    build_request,
)

ACCOUNTS = [f"user{number}@example.org" for number in range(1000)]
ROWS_AT_ONCE = 100_000
REQUESTS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--recipients", type=int, default=9_000_000)
    parser.add_argument("--expired", type=float, default=4, help="per cent of the rows, which the guard forgets")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "guard"
        guard = GuardProcess(directory, accounts={account: {"addresses": []} for account in ACCOUNTS}, limits=NO_LIMITS)
        guard.kill()
        path = directory / "state" / "guard.db"
        write_rows(path, options)
        print(f"database: {path.stat().st_size / 1e6:.0f} MB", flush=True)
        measure_start(guard)
        measure_answers(guard)
        guard.stop()
        measure_sweep(path)


def measure_start(guard: GuardProcess) -> None:
    start = time.monotonic()
    try:
        guard.start()
    except AssertionError:  # it waits ten seconds
        while not guard._is_answering():
            time.sleep(0.1)
    seconds = time.monotonic() - start
    print(f"start: {seconds:.1f} s, then {guard.read_memory() / 1e6:.0f} MB of memory", flush=True)


def measure_answers(guard: GuardProcess) -> None:
    seconds = []
    with guard.open_connection() as client:
        for _ in range(REQUESTS):
            request = build_request(account=random.choice(ACCOUNTS))
            start = time.perf_counter()
            assert ask_guard(client, request) == "DUNNO"
            seconds.append(time.perf_counter() - start)
    seconds.sort()
    shares = {"median": 0.5, "p99": 0.99, "p99.9": 0.999, "longest": 1.0}
    values = ", ".join(
        f"{name} {seconds[min(int(len(seconds) * share), len(seconds) - 1)] * 1000:.2f} ms"
        for name, share in shares.items()
    )
    print(f"answers, one after the other: {values}", flush=True)


def measure_sweep(path: Path) -> None:
    database, now = Database(path), round(time.time() * 1000)
    steps, start = [], time.perf_counter()
    for _ in database.forget_expired(now):
        steps.append(time.perf_counter() - start)
        start = time.perf_counter()
    database.close()
    print(
        f"forgetting: {len(steps)} steps, {sum(steps):.1f} s in all, the longest {max(steps) * 1000:.0f} ms", flush=True
    )


def write_rows(path: Path, options: argparse.Namespace) -> None:
    Database(path).close()
    now = round(time.time() * 1000)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        messages = (
            (now - age, random.choice(ACCOUNTS), 1, 0, "192.0.2.0/24", f"4dGk{number:09d}")
            for number, age in enumerate(sorted(make_ages(options.messages, DAY, options.expired), reverse=True))
        )
        insert_rows(database, "sent (time, account, recipients, new, network, queue_id) VALUES (?,?,?,?,?,?)", messages)
        recipients = (
            (random.choice(ACCOUNTS), random.getrandbits(62), now - age)
            for age in make_ages(options.recipients, RECIPIENTS_KEPT, options.expired)
        )
        insert_rows(database, "recipients VALUES (?,?,?)", recipients)


def make_ages(number: int, kept: int, expired: float) -> Iterator[int]:
    return (random.randrange(round(kept * (1 + expired / 100))) for _ in range(number))


def insert_rows(database: sqlite3.Connection, where: str, rows: Iterator[tuple[object, ...]]) -> None:
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        database.execute("BEGIN")
        database.executemany(f"INSERT OR IGNORE INTO {where}", batch)
        database.execute("COMMIT")


if __name__ == "__main__":
    main()
