"""The guard as a service: sockets, one commit for all that comes in together, systemd.

Everything runs in one thread, so that decisions follow one another; only fsync(2) is left to another one.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from guard import config, control, frozen, policy
from guard.judge import GO_ON, Judge, Request
from guard.milter import Milter, ProtocolError
from guard.store import Store

MOST_CONNECTIONS = 2000
BACKLOG = 512
SLOW_SECONDS = 10.0
"""A request that has begun must have come by then."""
IDLE_SECONDS = 900.0
"""Longer than Postfix keeps an idle connection (smtpd_policy_service_max_idle, 300 s) or a session lasts."""
PRUNE_SECONDS = 600
BROKEN = "451 4.3.0 The guard cannot write down what is sent. Try again later"


def milliseconds() -> int:
    return time.time_ns() // 1_000_000


class Batch:
    """Answers that wait for one commit: of all requests that this turn of the event loop has read."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = store, loop
        self._answers: list[tuple[asyncio.WriteTransport, bytes, bytes]] = []
        self.requests = self.commits = self.failures = 0

    def add(self, to: asyncio.WriteTransport, answer: bytes, instead: bytes) -> None:
        """`instead` is what to say when the commit fails."""
        if not self._answers:
            self._loop.call_soon(self._commit)
        self._answers.append((to, answer, instead))

    def _commit(self) -> None:
        answers, self._answers = self._answers, []
        self.requests += len(answers)
        self.commits += 1
        try:
            self._store.commit()
            failed = False
        except sqlite3.Error as error:
            failed = self.failed(error)
        for to, answer, instead in answers:
            to.write(instead if failed else answer)

    def failed(self, error: sqlite3.Error) -> bool:
        """What could not be written is refused for the time being; it stays counted in memory, on the safe side."""
        print(f"cannot write down what is sent: {error}", file=sys.stderr)
        self.failures += 1
        self._store.rollback()
        return True


class Connection(asyncio.Protocol):
    """What policy and milter connections have in common: their number, their patience, and back pressure."""

    open: set["Connection"] = set()  # noqa: RUF012

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.heard = time.monotonic()
        self.begun = False
        if len(Connection.open) >= MOST_CONNECTIONS:
            transport.abort()
        else:
            Connection.open.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        Connection.open.discard(self)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def end(self, why: object) -> None:
        print(f"{type(self).__name__}: {why}; connection ended", file=sys.stderr)
        self.transport.abort()

    @classmethod
    def end_idle(cls, now: float) -> None:
        for one in [*cls.open]:
            if now - one.heard > (SLOW_SECONDS if one.begun else IDLE_SECONDS):
                one.transport.abort()


class PolicyConnection(Connection):
    def __init__(self, judge: Judge, batch: Batch) -> None:
        self._judge, self._batch = judge, batch
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        try:
            requests, rest = policy.split(self._buffer + data)
            for one in requests:
                action = self._action(*policy.parse(one))
                self._batch.add(self.transport, policy.answer(action), policy.answer(BROKEN))
        except policy.MalformedError as error:
            self.end(error)
            return
        if requests or not self.begun:
            self.heard = time.monotonic()
        self._buffer, self.begun = rest, bool(rest)

    def _action(self, state: str, request: Request) -> str:
        try:
            if state == "RCPT":
                return self._judge.recipient(milliseconds(), request)
            if state == "END-OF-MESSAGE":
                return self._judge.message(milliseconds(), request)
            return GO_ON
        except sqlite3.Error as error:
            self._batch.failed(error)
            return BROKEN


class MilterConnection(Connection):
    def __init__(self, judge: Judge, batch: Batch) -> None:
        self._milter, self._batch = Milter(judge, milliseconds), batch

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        try:
            answer = self._milter.feed(data)
        except (ProtocolError, sqlite3.Error) as error:  # Postfix takes the end for milter_default_action
            self.end(error)
            return
        self._batch.add(self.transport, answer, b"")

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        with contextlib.suppress(sqlite3.Error):  # it stays counted
            self._milter.lost()


class Places:
    """Where systemd has us keep things (systemd.exec(5), ConfigurationDirectory= and the like)."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.config = Path(environment["CONFIGURATION_DIRECTORY"]) / "guard.json"
        self.database = Path(environment["STATE_DIRECTORY"]) / "guard.db"
        self.frozen = Path(environment["STATE_DIRECTORY"]) / "frozen" / "accounts"
        self.control = Path(environment["RUNTIME_DIRECTORY"]) / "control"


def run() -> int:
    """Runs until SIGTERM; SIGHUP has it read its configuration again. Returns the exit code."""
    places = Places(os.environ)
    try:
        found = config.load(places.config)
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    os.umask(0o027)
    frozen.make(places.frozen)
    asyncio.run(_serve(found, places))
    return 0


async def _serve(found: config.Config, places: Places) -> None:
    loop = asyncio.get_running_loop()
    store = Store(places.database)
    judge, batch = Judge(found, store, places.frozen, milliseconds()), Batch(store, loop)
    policy_socket, milter_socket = _sockets()
    for listening, connection in ((policy_socket, PolicyConnection), (milter_socket, MilterConnection)):
        await loop.create_unix_server(_factory(connection, judge, batch), sock=listening, backlog=BACKLOG)
    await control.serve(places.control, judge, store, batch)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, judge, places.config)
    _notify("READY=1")
    housekeeping = asyncio.create_task(_housekeeping(judge, store, loop))
    await stop.wait()
    housekeeping.cancel()
    store.close()


def _factory(kind: type[PolicyConnection | MilterConnection], judge: Judge, batch: Batch) -> Callable[[], Connection]:
    return lambda: kind(judge, batch)


def _sockets() -> tuple[socket.socket, socket.socket]:
    """Policy and milter, opened by systemd (sd_listen_fds(3)): while the guard restarts, Postfix waits at them."""
    if os.environ.get("LISTEN_FDS") != "2":
        raise SystemExit("mailkeep-guard.socket must start this: no sockets were handed over")
    return socket.socket(fileno=3), socket.socket(fileno=4)


def _reload(judge: Judge, file: Path) -> None:
    try:
        judge.config = config.load(file)
    except config.ConfigError as error:
        print(f"{error}; the former configuration stays", file=sys.stderr)


async def _housekeeping(judge: Judge, store: Store, loop: asyncio.AbstractEventLoop) -> None:
    """Every second: to the disk, freezes made by others, idle connections, systemd's watchdog; now and then: prune."""
    pruned = milliseconds()
    while True:
        now = milliseconds()
        try:
            judge.write_freezes(now)
            if now - pruned > PRUNE_SECONDS * 1000:
                pruned = now
                judge.prune(now)
                store.prune(now)
            store.commit()
        except sqlite3.Error as error:
            print(f"cannot write: {error}", file=sys.stderr)
        await loop.run_in_executor(None, store.sync)
        Connection.end_idle(time.monotonic())
        _notify("WATCHDOG=1")
        await asyncio.sleep(1)


def _notify(state: str) -> None:
    """sd_notify(3)."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            to.send(state.encode())
