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
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import ClassVar

from mailkeep_server.common.systemd import notify
from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard import config, control_socket, milter, policy, shared_counter
from mailkeep_server.guard.database import Message, Store
from mailkeep_server.guard.judge import GO_ON, Judge, Request
from mailkeep_server.guard.sliding_window import Used

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


Answer = tuple["Connection", bytes, str]
"""To whom, what, and the queue id of the message that it is about."""


class Batch:
    """Answers that wait for one commit: of all requests that this turn of the event loop has read."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = store, loop
        self._answers: list[Answer] = []
        self._failed = False
        self.confirm: Callable[[list[Answer]], list[Answer]] = lambda answers: answers
        """Takes out those that must wait for more than the commit; they are added again later, without a queue id."""
        self.requests = self.commits = self.failures = 0

    def add(self, to: "Connection", answer: bytes, queue_id: str = "") -> None:
        """Says the answer after the commit, or at once when there is nothing to commit."""
        if not (self._answers or self._store.pending):
            self.requests += 1
            to.transport.write(answer)
            return
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
            for to, answer, _ in self.confirm(answers):
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
            self.batch.fail(error)
            self.broken(asked.queue_id)

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
            self.batch.fail(error)
            self.broken("")

    def broken(self, queue_id: str) -> None:  # noqa: ARG002
        self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        try:
            self._milter.lost()
        except sqlite3.Error as failure:
            self.batch.fail(failure)


class Elsewhere:
    """What other servers have counted: a message that fits here is put to the shared store before it is accepted."""

    def __init__(self, judge: Judge, batch: Batch, place: config.Place) -> None:
        self._judge, self._batch = judge, batch
        self.shared = shared_counter.Shared(place, self._lost, lambda: self._tell("answers again"))
        self._tasks: set[asyncio.Task[None]] = set()
        batch.confirm = self._confirm
        judge.taken_back = lambda message: self._later(self.shared.take_back(self._charge(message)))

    def _confirm(self, answers: list[Answer]) -> list[Answer]:
        charges = {
            queue_id: self._charge(message) for _, _, queue_id in answers if (message := self._judge.counted(queue_id))
        }
        if charges:
            self._later(self._ask([one for one in answers if one[2] in charges], charges))
        return [one for one in answers if one[2] not in charges]

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """asyncio keeps only weak references to tasks."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, waiting: list[Answer], charges: dict[str, shared_counter.Charge]) -> None:
        found = dict(zip(charges, await self.shared.charge([*charges.values()]), strict=True))
        for to, answer, queue_id in waiting:
            try:
                over = found[queue_id]
                refusal = over and self._judge.over_elsewhere(milliseconds(), queue_id, over)
                self._batch.add(to, policy.answer(refusal) if refusal else answer)
            except sqlite3.Error as error:
                self._batch.fail(error)
                to.broken(queue_id)

    def _charge(self, message: Message) -> shared_counter.Charge:
        limits = self._judge.config.limits_of(message.account).counted
        more = Used(1, message.recipients, message.new)
        return shared_counter.Charge(message.time, message.id, message.account, more, limits)

    def _lost(self, why: str) -> None:
        self._tell(f"does not answer, and this server goes by its own count: {why}")

    def _tell(self, state: str) -> None:
        self._judge.store_is(milliseconds(), f"The shared store {state}")


class Places:
    """Where systemd has us keep things (systemd.exec(5), ConfigurationDirectory= and the like)."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.config = Path(environment["CONFIGURATION_DIRECTORY"]) / "guard.json"
        self.store = Path(environment["CONFIGURATION_DIRECTORY"]) / "guard-store.json"
        self.database = Path(environment["STATE_DIRECTORY"]) / "guard.db"
        self.frozen = Path(environment["STATE_DIRECTORY"]) / "frozen" / "accounts"
        self.control = Path(environment["RUNTIME_DIRECTORY"]) / "control"


def main(arguments: list[str]) -> int:
    """Runs until SIGTERM; SIGHUP has it read its configuration again. `--check CONFIG` only reads the configuration."""
    try:
        if arguments:
            config.load(Path(arguments[-1]))
            return 0
        places = Places(os.environ)
        found, place = config.load(places.config), config.load_place(places.store)
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    os.umask(0o027)
    freeze_list.create_if_missing(places.frozen)
    asyncio.run(_serve(found, place, places))
    return 0


async def _serve(found: config.Config, place: config.Place | None, places: Places) -> None:
    loop = asyncio.get_running_loop()
    store = Store(places.database)
    judge, batch = Judge(found, store, places.frozen, milliseconds()), Batch(store, loop)
    tasks = [asyncio.create_task(_housekeeping(judge, store, batch))]
    if place:
        freezes = shared_counter.Freezes(Elsewhere(judge, batch, place).shared, places.frozen)
        tasks.append(asyncio.create_task(_share_freezes(freezes)))
    policy_socket, milter_socket = _sockets()
    for listening, connection in ((policy_socket, PolicyConnection), (milter_socket, MilterConnection)):
        await loop.create_unix_server(_factory(connection, judge, batch), sock=listening, backlog=BACKLOG)
    await control_socket.serve(places.control, judge, store, batch)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, judge, places.config)
    notify("READY=1")
    await stop.wait()
    for task in tasks:
        task.cancel()
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


async def _housekeeping(judge: Judge, store: Store, batch: Batch) -> None:
    """Every second: the clock, freezes made by others, to the disk, idle connections, systemd's watchdog; now and then:
    prune."""
    pruned = milliseconds()
    while True:
        now = milliseconds()
        try:
            judge.mind_the_clock(now)
            judge.write_freezes(now)
            if abs(now - pruned) > PRUNE_SECONDS * 1000:
                pruned = now
                judge.prune(now)
                store.prune(now)
        except sqlite3.Error as error:
            batch.fail(error)
        batch.commit()
        try:
            await asyncio.get_running_loop().run_in_executor(None, store.sync)
        except OSError as error:
            print(f"cannot bring to the disk what is sent: {error}", file=sys.stderr)
        Connection.end_idle(time.monotonic())
        notify("WATCHDOG=1")
        await asyncio.sleep(1)


async def _share_freezes(freezes: shared_counter.Freezes) -> None:
    """Every second, and not in the housekeeping: a store that hangs must not look like a guard that does."""
    while True:
        try:
            await freezes.step()
        except Exception as error:  # whatever it is, the next step is due
            print(f"cannot share who is frozen: {type(error).__name__}: {error}", file=sys.stderr)
        await asyncio.sleep(1)
