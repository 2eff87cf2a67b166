"""Answers to Postfix that wait for one commit: messages must be recorded before Postfix hears of them."""

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from mailkeep_server.guard.database import Database
from mailkeep_server.guard.database_recovery import is_spoilt


class Respondent(Protocol):
    """A connection, as the batch sees it."""

    @property
    def transport(self) -> asyncio.WriteTransport: ...

    def answer_unrecorded(self, queue_id: str) -> None:
        """Answers a request about this message, of which nothing could be recorded."""


Answer = tuple[Respondent, bytes, str]
"""Connection, answer, and the queue id of the message in question (or "")."""


class Batch:
    """The answers to all requests that this turn of the event loop has read."""

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        self._database, self._loop = database, loop
        self._answers: list[Answer] = []
        self._has_failed = False
        self.hold_back: Callable[[list[Answer]], list[Answer]] = lambda answers: answers
        """Takes the answers that must wait for more than the commit, and returns the others. It adds the answers again
        later, without a queue id."""
        self.on_spoilt: Callable[[Exception], object] = lambda _: None
        """Called when the database itself is at fault."""
        self.requests = self.commits = self.failures = 0

    def add_answer(self, respondent: Respondent, answer: bytes, queue_id: str = "") -> None:
        """Sends the answer after the commit, or at once when there is nothing to commit."""
        if not (self._answers or self._database.has_uncommitted):
            self.requests += 1
            respondent.transport.write(answer)
            return
        if not self._answers:
            self._loop.call_soon(self.commit)
        self._answers.append((respondent, answer, queue_id))

    def commit(self) -> None:
        """Commits, then sends the answers."""
        try:
            if not self._has_failed:
                self._database.commit()
        except sqlite3.Error as error:
            self.fail_all(error)
        answers, self._answers = self._answers, []
        self.requests += len(answers)
        self.commits += 1
        if self._has_failed:
            for respondent, _, queue_id in answers:
                respondent.answer_unrecorded(queue_id)
            with suppress(sqlite3.Error):
                self._database.rollback()
            self._has_failed = False
        else:
            for respondent, answer, _ in self.hold_back(answers):
                respondent.transport.write(answer)

    def fail_all(self, error: sqlite3.Error) -> None:
        """Nothing of this batch can be recorded: all its requests are refused for now."""
        print(f"cannot record messages, so they are refused for now: {error}", file=sys.stderr)
        self.failures += 1
        self._has_failed = bool(self._answers)
        with suppress(sqlite3.Error):
            self._database.rollback()
        if is_spoilt(error):
            self.on_spoilt(error)
