"""Limits over all servers: a message that fits here is charged to the shared store before it is accepted."""

import asyncio
import sqlite3
from collections.abc import Coroutine

from mailkeep_server.guard import policy
from mailkeep_server.guard.batch import Answer, Batch
from mailkeep_server.guard.config import SharedStoreConfig
from mailkeep_server.guard.database import Message
from mailkeep_server.guard.judge import Judge
from mailkeep_server.guard.shared_counter import Charge, SharedCounter
from mailkeep_server.guard.sliding_window import Usage, read_clock


class SharedLimitCheck:
    def __init__(self, judge: Judge, batch: Batch, store: SharedStoreConfig) -> None:
        self._judge, self._batch = judge, batch
        self.counter = SharedCounter(store, self._note_lost, lambda: self._note_state("answers again"))
        self._tasks: set[asyncio.Task[None]] = set()
        batch.hold_back = self._hold_back
        judge.ledger.on_uncounted = self._uncount_message

    def _hold_back(self, answers: list[Answer]) -> list[Answer]:
        pending_message = self._judge.ledger.pending_message
        charges = {
            queue_id: self._charge_for(message) for _, _, queue_id in answers if (message := pending_message(queue_id))
        }
        if charges:
            self._start(self._charge_messages([answer for answer in answers if answer[2] in charges], charges))
        return [answer for answer in answers if answer[2] not in charges]

    def _uncount_message(self, message: Message) -> None:
        self._start(self.counter.uncount_message(self._charge_for(message)))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        """Keeps the task until it is done: asyncio has only weak references."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _charge_messages(self, waiting: list[Answer], charges: dict[str, Charge]) -> None:
        exceeded_limits = dict(zip(charges, await self.counter.charge_messages([*charges.values()]), strict=True))
        for respondent, answer, queue_id in waiting:
            try:
                exceeded = exceeded_limits[queue_id]
                refusal = exceeded and self._judge.refuse_over_shared_limit(read_clock(), queue_id, exceeded)
                self._batch.add_answer(respondent, policy.format_answer(refusal) if refusal else answer)
            except sqlite3.Error as error:
                self._batch.fail_all(error)
                respondent.answer_unrecorded(queue_id)

    def _charge_for(self, message: Message) -> Charge:
        limits = self._judge.config.limits_of(message.account).rate_limits
        usage = Usage(1, message.recipients, message.new_recipients)
        return Charge(message.time, message.id, message.account, usage, limits)

    def _note_lost(self, error: str) -> None:
        self._note_state(f"does not answer, and this server goes by its own count: {error}")

    def _note_state(self, state: str) -> None:
        self._judge.note_store_state(read_clock(), f"The shared store {state}")
