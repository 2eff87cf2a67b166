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
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from guard import config, control, frozen, milter, policy
from guard.judge import GO_ON, Judge, Request
from guard.store import Store

MOST_CONNECTIONS = 2000
BACKLOG = 512
SLOW_SECONDS = 10.0
"""A request that has begun must have come by then."""
IDLE_SECONDS = 6 * 3600.0
"""Postfix has nothing to say to a milter while a message comes in, which over a slow line takes hours."""
PRUNE_SECONDS = 600
BROKEN = "451 4.3.0 The guard cannot write down what is sent. Try again later"


def milliseconds() -> int:
    return time.time_ns() // 1_000_000


_BUFFER = memoryview(bytearray(65_536))


class Batch:
    """Answers that wait for one commit: of all requests that this turn of the event loop has read."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = store, loop
        self._answers: list[tuple[Connection, bytes, str]] = []
        self._failed = False
        self.requests = self.commits = self.failures = 0

    def add(self, to: "Connection", answer: bytes, queue_id: str = "") -> None:
        if not self._answers:
            self._loop.call_soon(self.commit)
        self._answers.append((to, answer, queue_id))

    def commit(self) -> None:
        try:
            if not self._failed:
                self._store.commit()
        except sqlite3.Error as error:
            self.fail(error)
        answers, self._answers = self._answers, []
        self.requests += len(answers)
        self.commits += 1
        if self._failed:
            for to, _, queue_id in answers:
                to.broken(queue_id)
            self._store.rollback()
            self._failed = False
        else:
            for to, answer, _ in answers:
                to.transport.write(answer)

    def fail(self, error: sqlite3.Error) -> None:
        """Nothing of this batch could be written: all of it is refused for the time being."""
        print(f"cannot write down what is sent: {error}", file=sys.stderr)
        self.failures += 1
        self._failed = bool(self._answers)
        self._store.rollback()


class Connection(asyncio.BufferedProtocol, ABC):
    """What policy and milter connections have in common: their number, their patience, and back pressure."""

    open: ClassVar[set["Connection"]] = set()

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._rest = b""
        """The beginning of a request."""

    @staticmethod
    @abstractmethod
    def split(buffer: bytes) -> tuple[list[bytes], bytes]:
        """Whole requests, and the rest. Raises MalformedError or ProtocolError."""

    @abstractmethod
    def take(self, request: bytes) -> None:
        """Has a request answered with the batch. Raises as `split` does."""

    @abstractmethod
    def broken(self, queue_id: str) -> None:
        """Says that what this message counts could not be written."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._heard = time.monotonic()
        if len(Connection.open) >= MOST_CONNECTIONS:
            transport.abort()
        else:
            Connection.open.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        Connection.open.discard(self)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """One for all, as each is read at once: a buffer made for each read costs three system calls."""
        return _BUFFER

    def buffer_updated(self, length: int) -> None:
        self.received(bytes(_BUFFER[:length]))

    def received(self, data: bytes) -> None:
        try:
            requests, rest = self.split(self._rest + data)
            for one in requests:
                self.take(one)
        except (policy.MalformedError, milter.ProtocolError) as error:
            print(f"{type(self).__name__}: {error}; connection ended", file=sys.stderr)
            self.transport.abort()  # Postfix takes that for default_action, or milter_default_action
            return
        if requests or not self._rest:
            self._heard = time.monotonic()
        self._rest = rest

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    @classmethod
    def end_idle(cls, now: float) -> None:
        for one in [*cls.open]:
            if now - one._heard > (SLOW_SECONDS if one._rest else IDLE_SECONDS):
                one.transport.abort()


class PolicyConnection(Connection):
    split = staticmethod(policy.split)

    def __init__(self, judge: Judge, batch: Batch) -> None:
        super().__init__(batch)
        self._judge = judge
        self._instance = ""

    def take(self, request: bytes) -> None:
        try:
            state, asked = policy.parse(request)
            if asked.instance != self._instance:  # one message after another comes over a connection
                self._judge.given_up(self._instance)
                self._instance = asked.instance
            self.batch.add(self, policy.answer(self._action(state, asked)), asked.queue_id)
        except sqlite3.Error as error:
            self.batch.add(self, b"", asked.queue_id)
            self.batch.fail(error)

    def broken(self, queue_id: str) -> None:
        """It counts no more: its sender will try again."""
        with contextlib.suppress(sqlite3.Error):
            self._judge.did_not_go(queue_id)
        self.transport.write(policy.answer(BROKEN))

    def _action(self, state: str, request: Request) -> str:
        if state == "END-OF-MESSAGE":
            return self._judge.message(milliseconds(), request)
        if state == "RCPT":
            return self._judge.recipient(milliseconds(), request)
        return GO_ON


class MilterConnection(Connection):
    split = staticmethod(milter.split)

    def __init__(self, judge: Judge, batch: Batch) -> None:
        super().__init__(batch)
        self._milter = milter.Milter(judge, milliseconds)

    def take(self, request: bytes) -> None:
        try:
            self.batch.add(self, self._milter.answer(request))
        except sqlite3.Error as error:
            self.batch.add(self, b"")
            self.batch.fail(error)

    def broken(self, queue_id: str) -> None:  # noqa: ARG002
        self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        try:
            self._milter.lost()
        except sqlite3.Error as failure:
            self.batch.fail(failure)


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
    housekeeping = asyncio.create_task(_housekeeping(judge, store, batch, loop))
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


async def _housekeeping(judge: Judge, store: Store, batch: Batch, loop: asyncio.AbstractEventLoop) -> None:
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
        except sqlite3.Error as error:
            batch.fail(error)
        batch.commit()
        try:
            await loop.run_in_executor(None, store.sync)
        except OSError as error:
            print(f"cannot bring to the disk what is sent: {error}", file=sys.stderr)
        Connection.end_idle(time.monotonic())
        _notify("WATCHDOG=1")
        await asyncio.sleep(1)


def _notify(state: str) -> None:
    """sd_notify(3)."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            to.send(state.encode())
