"""The shared store: freezes hold whatever becomes of it, and if it hangs, nobody waits long.

That the count is exact, in a real store, is in tests/lab/test_shared_store.py.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from guard_samples import ANNA, BERT, NOON, JudgeSetup

from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard import policy, shared_counter
from mailkeep_server.guard.batch import Batch
from mailkeep_server.guard.config import SharedStoreConfig
from mailkeep_server.guard.limits import ExceededLimit, Limit
from mailkeep_server.guard.policy import DUNNO
from mailkeep_server.guard.shared_counter import Charge, SharedCounter
from mailkeep_server.guard.shared_freezes import THAWED, FreezeExchange
from mailkeep_server.guard.shared_limits import SharedLimitCheck
from mailkeep_server.guard.sliding_window import HOUR, Usage

NewSetup = Callable[..., JudgeSetup]
FROZEN_AT = datetime(2025, 11, 25, 12, tzinfo=UTC)


class FreezeStore:
    """The store's list of frozen accounts, in place of a SharedCounter."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    async def exchange_freezes(self, changes: dict[str, str]) -> dict[str, str]:
        self.entries |= changes
        return dict(self.entries)


class Servers:
    """Two mail servers and the store."""

    def __init__(self, directory: Path) -> None:
        self.store = FreezeStore()
        self.files = [directory / name / "accounts" for name in ("first", "second")]
        for file in self.files:
            file.parent.mkdir()
        self._exchanges = [FreezeExchange(self.store, file) for file in self.files]  # type: ignore[arg-type]

    def exchange_freezes(self, *servers: int) -> None:
        for number in servers or (0, 1, 0, 1):
            asyncio.run(self._exchanges[number].exchange_once())

    def freeze_account(self, server: int, name: str = ANNA, why: str = "sends spam") -> None:
        freeze_list.freeze_account(name, "guard", why, FROZEN_AT, self.files[server])

    def thaw_account(self, server: int, name: str = ANNA) -> None:
        freeze_list.thaw_account(name, self.files[server])

    def frozen_accounts(self) -> list[set[str]]:
        return [set(freeze_list.read_freezes(file)) for file in self.files]


@pytest.fixture
def servers(tmp_path: Path) -> Servers:
    return Servers(tmp_path)


# --- freezes ----------------------------------------------------------------------------------------------------------


def test_an_account_frozen_on_a_server_is_frozen_on_the_other_and_thawed_too_again_and_again(servers: Servers) -> None:
    for server, other in ((0, 1), (1, 0)):
        servers.freeze_account(server)
        servers.exchange_freezes()
        assert servers.frozen_accounts() == [{ANNA}, {ANNA}]
        servers.thaw_account(other)
        servers.exchange_freezes()
        assert servers.frozen_accounts() == [set(), set()]


def test_an_account_frozen_on_both_at_once_for_different_reasons_is_thawed_on_both(servers: Servers) -> None:
    servers.freeze_account(0, why="sends spam")
    servers.freeze_account(1, why="lost her phone")
    servers.exchange_freezes()
    servers.thaw_account(0)
    servers.exchange_freezes()
    assert servers.frozen_accounts() == [set(), set()]


def lose_entries(entries: dict[str, str], _: dict[str, str]) -> None:
    entries.clear()


def restore_entries(entries: dict[str, str], earlier: dict[str, str]) -> None:
    entries.clear()
    entries.update(earlier)


@pytest.mark.parametrize("lose", [lose_entries, restore_entries])
@pytest.mark.parametrize("first", [0, 1])
def test_a_store_that_comes_back_empty_or_as_it_was_thaws_nobody(
    servers: Servers, lose: Callable[[dict[str, str], dict[str, str]], None], first: int
) -> None:
    servers.freeze_account(0)
    servers.exchange_freezes()
    servers.thaw_account(0)
    servers.exchange_freezes()
    earlier = dict(servers.store.entries)
    servers.freeze_account(0, why="again")
    servers.freeze_account(1, BERT)
    servers.exchange_freezes()
    lose(servers.store.entries, earlier)
    for number in (first, 1 - first, first, 1 - first):
        servers.exchange_freezes(number)
        assert servers.frozen_accounts() == [{ANNA, BERT}] * 2
    assert {name for name, entry in servers.store.entries.items() if not entry.startswith(THAWED)} == {ANNA, BERT}
    servers.thaw_account(1, BERT)
    servers.exchange_freezes()
    assert servers.frozen_accounts() == [{ANNA}, {ANNA}]


# --- a store that hangs -----------------------------------------------------------------------------------------------


class Waits(NamedTuple):
    seconds: list[float]
    """That each of 20 messages waited, which arrived over twice the timeout."""
    attempts: int
    """To reach the store when it was due, after the failure."""
    notices: list[str]
    """To the operator."""


async def hang_store(timeout: float, retry: float) -> Waits:
    loop = asyncio.get_running_loop()
    connections: list[asyncio.StreamWriter] = []
    notices: list[str] = []
    server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    store = SharedStoreConfig("127.0.0.1", server.sockets[0].getsockname()[1], False, "", "")
    counter = SharedCounter(store, notices.append, lambda: notices.append("back"))
    charge = Charge(1, 1, ANNA, Usage(1, 1, 1), ())

    async def send_message(after: float) -> float:
        await asyncio.sleep(after)
        start = loop.time()
        assert await counter.charge_messages([charge]) == [None]
        return loop.time() - start

    seconds = await asyncio.gather(*(send_message(number * timeout / 10) for number in range(20)))
    earlier_attempts = len(connections)
    await asyncio.sleep(retry - 0.75 * timeout)
    await counter.charge_messages([charge])
    for connection in connections:
        connection.close()
    server.close()
    return Waits(seconds, len(connections) - earlier_attempts, notices)


@pytest.mark.slow
def test_when_the_store_hangs_no_message_waits_longer_than_a_single_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not wait one after another; and however many come meanwhile, the store is asked again in time."""
    monkeypatch.setattr(shared_counter, "ANSWER_TIMEOUT", 0.2)
    monkeypatch.setattr(shared_counter, "RETRY_SECONDS", 0.6)
    waits = asyncio.run(hang_store(0.2, 0.6))
    assert max(waits.seconds) < 0.5
    assert max(waits.seconds[15:]) < 0.1
    assert waits.attempts == 1
    assert len(waits.notices) == 1


# --- a message that fits here, and not into what all servers have counted ---------------------------------------------


class Respondent:
    """Postfix's end of a policy connection."""

    def __init__(self) -> None:
        self.transport, self.received = self, b""

    def write(self, answer: bytes) -> None:
        self.received += answer

    def answer_unrecorded(self, queue_id: str) -> None:
        self.received += f"unrecorded {queue_id}".encode()


class FullCounter:
    """A store in which every account is over a limit; `meanwhile` is called before it answers."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile
        self.uncounted: list[str] = []

    async def charge_messages(self, charges: list[Charge]) -> list[ExceededLimit]:
        self._meanwhile()
        return [ExceededLimit(Limit("messages_per_hour", "messages", HOUR, 7), NOON + HOUR) for _ in charges]

    async def uncount_message(self, charge: Charge) -> None:
        self.uncounted.append(charge.account)


async def charge_together(setup: JudgeSetup, counter: FullCounter, queue_ids: tuple[str, ...]) -> list[bytes]:
    """The answers to messages that are charged to the store together."""
    batch = Batch(setup.database, asyncio.get_running_loop())
    check = SharedLimitCheck(setup.judge, batch, SharedStoreConfig("127.0.0.1", 1, False, "", ""))
    check.counter = counter  # type: ignore[assignment]
    respondents = [Respondent() for _ in queue_ids]
    for respondent, queue_id in zip(respondents, queue_ids, strict=True):
        setup.send_message(queue_id=queue_id)
        batch.add_answer(respondent, policy.format_answer(DUNNO), queue_id)  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        while not all(respondent.received for respondent in respondents):
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    return [respondent.received for respondent in respondents]


def test_a_message_over_a_shared_limit_is_refused_and_not_charged(new_setup: NewSetup) -> None:
    setup, counter = new_setup(), FullCounter(lambda: None)
    answers = asyncio.run(charge_together(setup, counter, ("Q1", "Q2")))
    refusal = b"action=450 4.7.1 anna@example.org may send 7 messages in a"
    assert [answer[: len(refusal)] for answer in answers] == [refusal] * 2
    assert setup.usage_of() == (0, 0, 0)
    assert counter.uncounted == [ANNA, ANNA]


def test_a_message_that_was_dropped_while_the_store_was_asked_leaves_no_other_without_answer(
    new_setup: NewSetup,
) -> None:
    setup = new_setup()
    counter = FullCounter(lambda: setup.judge.ledger.message_dropped("Q1"))
    answers = asyncio.run(charge_together(setup, counter, ("Q1", "Q2")))
    assert answers[1].startswith(b"action=450")
    assert setup.usage_of() == (0, 0, 0)


def test_a_full_disk_while_the_store_was_asked_leaves_no_other_without_answer(
    new_setup: NewSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = new_setup()
    refuse, errors = setup.judge._refuse_over_limit, [sqlite3.OperationalError("disk full")]

    def fail_first(*arguments: Any) -> str:
        if errors:
            raise errors.pop()
        return refuse(*arguments)

    monkeypatch.setattr(setup.judge, "_refuse_over_limit", fail_first)
    answers = asyncio.run(charge_together(setup, FullCounter(lambda: None), ("Q1", "Q2")))
    assert answers[0] == b"unrecorded Q1"
    assert answers[1].startswith(b"action=450")


def test_in_mode_learn_a_message_over_a_shared_limit_is_accepted_and_counts(new_setup: NewSetup) -> None:
    setup, counter = new_setup(mode="learn"), FullCounter(lambda: None)
    assert asyncio.run(charge_together(setup, counter, ("Q1",))) == [b"action=DUNNO\n\n"]
    assert setup.usage_of() == (1, 1, 1)
    assert not counter.uncounted
    assert setup.list_events("would-refuse") == [
        (ANNA, "may send 7 messages in an hour; 1 refused in 10 minutes, 1000000000 freeze it, last from 192.0.2.0/24")
    ]
