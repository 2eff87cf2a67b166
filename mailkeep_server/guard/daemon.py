"""The guard as a service: its sockets, its housekeeping, systemd.

Everything runs in one thread, so that decisions follow one another. Only fsync(2) runs in another.
"""

import asyncio
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from mailkeep_server.common.systemd import notify
from mailkeep_server.common.wording import describe_error
from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard import config, database_recovery, state_repair
from mailkeep_server.guard.batch import Batch
from mailkeep_server.guard.connections import (
    Connection,
    IncomingConnection,
    MilterConnection,
    PolicyConnection,
)
from mailkeep_server.guard.control_socket import serve_control_socket
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.judge import Judge
from mailkeep_server.guard.shared_freezes import FreezeExchange
from mailkeep_server.guard.shared_limits import SharedLimitCheck
from mailkeep_server.guard.sliding_window import read_clock

SOCKET_BACKLOG = 512
_Kind = type[PolicyConnection] | type[MilterConnection] | type[IncomingConnection]
PRUNE_SECONDS = 600
"""Between two sweeps for expired entries."""


class ServicePaths:
    """From the directories that systemd gives a service (systemd.exec(5), ConfigurationDirectory= and its kind)."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.config = Path(environment["CONFIGURATION_DIRECTORY"]) / "guard.json"
        self.shared_store = Path(environment["CONFIGURATION_DIRECTORY"]) / "guard-store.json"
        self.database = Path(environment["STATE_DIRECTORY"]) / "guard.db"
        self.freeze_list = Path(environment["STATE_DIRECTORY"]) / "frozen" / "accounts"
        self.repair_report = Path(environment["RUNTIME_DIRECTORY"]) / "repairs"
        self.control_socket = Path(environment["RUNTIME_DIRECTORY"]) / "control"


def main(arguments: list[str]) -> int:
    """Runs until SIGTERM; SIGHUP makes it read its configuration again. `--check CONFIG` only reads that file."""
    try:
        if arguments:
            config.load_config(Path(arguments[-1]))
            return 0
        paths = ServicePaths(os.environ)
        guard_config = config.load_config(paths.config)
        shared_store = config.load_shared_store(paths.shared_store)
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    os.umask(0o027)
    return asyncio.run(_serve_postfix(guard_config, shared_store, paths))


def _open_state(guard_config: config.GuardConfig, paths: ServicePaths) -> tuple[Database, Judge]:
    """The database and a judge that knows what is in it. What is spoilt is set aside, and told as an event."""
    now = read_clock()
    sentences = [*state_repair.take_report(paths.repair_report), *database_recovery.clear_way(paths.database)]
    database, judge = _open_database(guard_config, paths, now)
    for sentence in sentences:
        database.add_event(now, "state", "", sentence)
    try:
        database.commit()
        freeze_list.create_if_missing(paths.freeze_list)
    except (OSError, sqlite3.Error) as error:  # as on a full disk: the housekeeping tries again
        print(f"cannot write its state, tries again: {error}", file=sys.stderr)
    return database, judge


def _open_database(guard_config: config.GuardConfig, paths: ServicePaths, now: int) -> tuple[Database, Judge]:
    make_database: Callable[[], Database] = partial(Database, paths.database)
    if loss := database_recovery.describe_loss(paths.database):
        make_database = partial(database_recovery.begin_anew, paths.database, now, ValueError(loss))
    for salvage in (True, False):
        database = None
        try:
            database = make_database()
            return database, Judge(guard_config, database, paths.freeze_list, now)
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            if database:
                database.abandon()
            if not database_recovery.is_spoilt(error):
                raise
            print(f"{paths.database}: {error}; it is set aside", file=sys.stderr)
            make_database = partial(database_recovery.begin_anew, paths.database, now, error, salvage=salvage)
    database = make_database()
    return database, Judge(guard_config, database, paths.freeze_list, now)


class _End:
    """The end of the service: by SIGTERM, or by a failure after which systemd starts it again, to mend its state."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.failure: Exception | None = None

    def restart_for(self, error: Exception) -> bool:
        self.failure = self.failure or error
        self.event.set()
        return True

    def close_state(self, database: Database, path: Path) -> int:
        """The exit code."""
        if self.failure is None:
            database.close()
            return 0
        print(f"spoilt state: {self.failure}; the guard starts again to have it mended", file=sys.stderr)
        if isinstance(self.failure, sqlite3.Error):
            database.abandon()
            if not database_recovery.can_pass(self.failure):  # else the next start opens it, and decides
                database_recovery.begin_anew(path, read_clock(), self.failure).close()
        else:
            database.close()
        return 1


async def _serve_postfix(
    guard_config: config.GuardConfig, shared_store: config.SharedStoreConfig | None, paths: ServicePaths
) -> int:
    """The exit code."""
    loop, end = asyncio.get_running_loop(), _End()
    database, judge = _open_state(guard_config, paths)
    batch = Batch(database, loop)
    batch.on_spoilt = end.restart_for
    if os.environ.get("NOTIFY_SOCKET"):  # systemd has root mend it, and starts the guard again
        judge.freezer.on_unreadable = end.restart_for
    tasks = [asyncio.create_task(keep_house(judge, database, batch))]
    if shared_store:
        exchange = FreezeExchange(SharedLimitCheck(judge, batch, shared_store).counter, paths.freeze_list)
        tasks.append(asyncio.create_task(_share_freezes(exchange)))
    connections: tuple[_Kind, ...] = (PolicyConnection, MilterConnection, IncomingConnection)
    for listener, connection in zip(_take_sockets(len(connections)), connections, strict=True):
        await loop.create_unix_server(_factory_of(connection, judge, batch), sock=listener, backlog=SOCKET_BACKLOG)
    await serve_control_socket(paths.control_socket, judge, database, batch)
    loop.add_signal_handler(signal.SIGTERM, end.event.set)
    loop.add_signal_handler(signal.SIGHUP, _reload_config, judge, paths.config)
    notify("READY=1")
    await end.event.wait()
    for task in tasks:
        task.cancel()
    return end.close_state(database, paths.database)


def _factory_of(kind: _Kind, judge: Judge, batch: Batch) -> Callable[[], Connection]:
    return lambda: kind(judge, batch)


def _take_sockets(number: int) -> list[socket.socket]:
    """Opened by systemd, in their order in the unit (sd_listen_fds(3)): Postfix waits at them while the guard
    restarts."""
    if os.environ.get("LISTEN_FDS") != str(number):
        raise SystemExit("No sockets were handed over: start mailkeep-guard.socket, which starts the guard")
    return [socket.socket(fileno=3 + position) for position in range(number)]


def _reload_config(judge: Judge, file: Path) -> None:
    try:
        judge.set_config(config.load_config(file), read_clock())
    except config.ConfigError as error:
        print(f"{error}; the former configuration stays", file=sys.stderr)


async def keep_house(judge: Judge, database: Database, batch: Batch) -> None:
    """Every second: clock, unwritten freezes, a step of the last sweep, fsync, idle connections, systemd's watchdog.
    Sometimes it begins a sweep."""
    pruned_at = read_clock()
    sweep: Iterator[None] | None = None
    while True:
        now = read_clock()
        try:
            judge.ledger.correct_clock_step(now)
            judge.receiving.correct_clock_step(now)
            judge.receiving.end_what_is_over(now)
            judge.end_care(now)
            judge.freezer.write_freezes(now)
            if sweep is None and abs(now - pruned_at) > PRUNE_SECONDS * 1000:
                pruned_at = now
                judge.ledger.forget_expired(now)
                judge.receiving.forget_expired(now)
                sweep = database.forget_expired(now)
            if sweep and next(sweep, "ended"):
                sweep = None
        except sqlite3.Error as error:
            batch.fail_all(error)
        batch.commit()
        try:
            await asyncio.get_running_loop().run_in_executor(None, database.sync_to_disk)
        except OSError as error:
            print(f"cannot flush the database to the disk, tries again: {error}", file=sys.stderr)
        Connection.abort_idle(time.monotonic())
        notify("WATCHDOG=1")
        await asyncio.sleep(1)


async def _share_freezes(exchange: FreezeExchange) -> None:
    """Every second. Apart from the housekeeping: a store that hangs must not look like a guard that does."""
    while True:
        try:
            await exchange.exchange_once()
        except Exception as error:  # whatever it is, the next exchange is due
            print(f"cannot share freezes, tries again: {describe_error(error)}", file=sys.stderr)
        await asyncio.sleep(1)
