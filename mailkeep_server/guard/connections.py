"""Postfix's connections to the guard: to the policy service, and to the milter."""

import asyncio
import contextlib
import sqlite3
import sys
import time
from abc import ABC, abstractmethod
from typing import ClassVar

from mailkeep_server.common.milter_server import ProtocolError, split_packets
from mailkeep_server.guard import milter, policy
from mailkeep_server.guard.batch import Batch
from mailkeep_server.guard.incoming import IncomingSession
from mailkeep_server.guard.judge import Judge
from mailkeep_server.guard.sliding_window import read_clock

MAX_CONNECTIONS = 2000
REQUEST_TIMEOUT = 10.0
"""Seconds in which a request that has begun must be complete."""
IDLE_TIMEOUT = 6 * 3600.0
"""Seconds. Postfix says nothing to a milter while a message arrives, which takes hours over a slow line."""
UNRECORDED = "451 4.3.0 The guard cannot record messages now. Try again later"

_BUFFER = memoryview(bytearray(65_536))


class Connection(asyncio.BufferedProtocol, ABC):
    """Base of both kinds: a maximum number, timeouts, back pressure."""

    open: ClassVar[set["Connection"]] = set()

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._rest = b""
        """The beginning of a request."""

    @staticmethod
    @abstractmethod
    def split_buffer(buffer: bytes) -> tuple[list[bytes], bytes]:
        """Complete requests, and the rest. Raises MalformedError or ProtocolError."""

    @abstractmethod
    def handle_request(self, request: bytes) -> None:
        """Adds the answer to the batch. Raises as `split_buffer` does."""

    @abstractmethod
    def answer_unrecorded(self, queue_id: str) -> None:
        """Answers a request about this message, of which nothing could be recorded."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._last_heard = time.monotonic()
        if len(Connection.open) >= MAX_CONNECTIONS:
            transport.abort()
        else:
            Connection.open.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        Connection.open.discard(self)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """One buffer for all, as each read is handled at once. A new one for each read costs three system calls."""
        return _BUFFER

    def buffer_updated(self, length: int) -> None:
        self.handle_data(bytes(_BUFFER[:length]))

    def handle_data(self, data: bytes) -> None:
        try:
            requests, rest = self.split_buffer(self._rest + data)
            for request in requests:
                self.handle_request(request)
        except (policy.MalformedError, ProtocolError) as error:
            print(f"{type(self).__name__}: {error}; connection ended", file=sys.stderr)
            self.transport.abort()  # Postfix then takes default_action, or milter_default_action
            return
        if requests or not self._rest:
            self._last_heard = time.monotonic()
        self._rest = rest

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    @classmethod
    def abort_idle(cls, now: float) -> None:
        """`now` is monotonic time in seconds."""
        for connection in [*cls.open]:
            if now - connection._last_heard > (REQUEST_TIMEOUT if connection._rest else IDLE_TIMEOUT):
                connection.transport.abort()


class PolicyConnection(Connection):
    split_buffer = staticmethod(policy.split_requests)

    def __init__(self, judge: Judge, batch: Batch) -> None:
        super().__init__(batch)
        self._judge = judge
        self._instance = ""

    def handle_request(self, request: bytes) -> None:
        state, parsed = policy.parse_request(request)
        try:
            if parsed.instance != self._instance:  # a connection carries one message after another
                self._judge.transaction_aborted(self._instance)
                self._instance = parsed.instance
            self.batch.add_answer(self, policy.format_answer(self._choose_action(state, parsed)), parsed.queue_id)
        except sqlite3.Error as error:
            self.batch.fail_all(error)
            self.answer_unrecorded(parsed.queue_id)

    def answer_unrecorded(self, queue_id: str) -> None:
        """The message counts no more: its sender will try again."""
        with contextlib.suppress(sqlite3.Error):
            self._judge.ledger.message_dropped(queue_id)
        self.transport.write(policy.format_answer(UNRECORDED))

    def _choose_action(self, state: str, request: policy.PolicyRequest) -> str:
        judge = self._judge.forwards if request.is_strangers else self._judge
        confirmations, now = self._judge.confirmations, read_clock()
        if state == "END-OF-MESSAGE":
            answer = judge.judge_message(now, request)
            if answer == policy.DUNNO:
                confirmations.take_message(now, request)
            return answer
        if state == "RCPT":
            return confirmations.refuse_recipient(now, request) or judge.judge_recipient(now, request)
        return policy.DUNNO


class PacketConnection(Connection):
    """Of a milter. When it ends without an answer, Postfix takes that milter's default_action."""

    split_buffer = staticmethod(split_packets)

    def __init__(self, session: milter.MilterSession | IncomingSession, batch: Batch) -> None:
        super().__init__(batch)
        self._session = session

    def handle_request(self, request: bytes) -> None:
        try:
            self.batch.add_answer(self, self._session.answer_packet(request))
        except sqlite3.Error as error:
            self.batch.fail_all(error)
            self.answer_unrecorded("")

    def answer_unrecorded(self, queue_id: str) -> None:  # noqa: ARG002
        self.transport.abort()


class MilterConnection(PacketConnection):
    def __init__(self, judge: Judge, batch: Batch) -> None:
        self._sending = milter.MilterSession(judge, read_clock)
        super().__init__(self._sending, batch)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        try:
            self._sending.end_session()
        except sqlite3.Error as failure:
            self.batch.fail_all(failure)


class IncomingConnection(PacketConnection):
    """Of port 25."""

    def __init__(self, judge: Judge, batch: Batch) -> None:
        super().__init__(IncomingSession(judge.receiving, read_clock), batch)
