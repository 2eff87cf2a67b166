"""What several servers share: freezes hold whatever becomes of the store, and a store that hangs keeps nobody waiting.
That the count is exact, in a real one, is in tests/lab/test_shared_store.py."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from guard_samples import ANNA, BERT, NOON, Desk

from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard import policy, shared_counter, shared_freezes
from mailkeep_server.guard.batch import Batch
from mailkeep_server.guard.config import SharedStoreConfig
from mailkeep_server.guard.limits import ExceededLimit, Limit
from mailkeep_server.guard.policy import DUNNO
from mailkeep_server.guard.shared_limits import SharedLimitCheck
from mailkeep_server.guard.sliding_window import HOUR, Usage

WHEN = datetime(2025, 11, 25, 12, tzinfo=UTC)


class Store:
    """The list of frozen accounts in the store, as `Shared` gives it."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}

    async def exchange_freezes(self, changes: dict[str, str]) -> dict[str, str]:
        self.lines |= changes
        return dict(self.lines)


class Servers:
    """Two mail servers and the store."""

    def __init__(self, directory: Path) -> None:
        self.store = Store()
        self.files = [directory / name / "accounts" for name in ("one", "two")]
        for file in self.files:
            file.parent.mkdir()
        self._freezes = [shared_freezes.FreezeExchange(self.store, file) for file in self.files]  # type: ignore[arg-type]

    def step(self, *servers: int) -> None:
        for number in servers or (0, 1, 0, 1):
            asyncio.run(self._freezes[number].exchange_once())

    def freeze(self, server: int, name: str = ANNA, why: str = "sends spam") -> None:
        freeze_list.freeze_account(name, "guard", why, WHEN, self.files[server])

    def thaw(self, server: int, name: str = ANNA) -> None:
        freeze_list.thaw_account(name, self.files[server])

    def frozen(self) -> list[set[str]]:
        return [set(freeze_list.read_freezes(file)) for file in self.files]


@pytest.fixture
def servers(tmp_path: Path) -> Servers:
    return Servers(tmp_path)


# --- freezes ----------------------------------------------------------------------------------------------------------


def test_who_is_frozen_on_one_is_on_the_other_and_thawed_too_again_and_again(servers: Servers) -> None:
    for one, other in ((0, 1), (1, 0)):
        servers.freeze(one)
        servers.step()
        assert servers.frozen() == [{ANNA}, {ANNA}]
        servers.thaw(other)
        servers.step()
        assert servers.frozen() == [set(), set()]


def test_one_frozen_on_both_at_once_for_different_reasons_is_thawed_on_both(servers: Servers) -> None:
    servers.freeze(0, why="sends spam")
    servers.freeze(1, why="lost her phone")
    servers.step()
    servers.thaw(0)
    servers.step()
    assert servers.frozen() == [set(), set()]


def lose_all(lines: dict[str, str], _: dict[str, str]) -> None:
    lines.clear()


def restore(lines: dict[str, str], earlier: dict[str, str]) -> None:
    lines.clear()
    lines.update(earlier)


@pytest.mark.parametrize("loss", [lose_all, restore])
@pytest.mark.parametrize("first", [0, 1])
def test_a_store_that_comes_back_empty_or_as_it_was_thaws_nobody(
    servers: Servers, loss: Callable[[dict[str, str], dict[str, str]], None], first: int
) -> None:
    servers.freeze(0)
    servers.step()
    servers.thaw(0)
    servers.step()
    earlier = dict(servers.store.lines)
    servers.freeze(0, why="again")
    servers.freeze(1, BERT)
    servers.step()
    loss(servers.store.lines, earlier)
    for number in (first, 1 - first, first, 1 - first):
        servers.step(number)
        assert servers.frozen() == [{ANNA, BERT}] * 2
    assert {name for name, line in servers.store.lines.items() if not line.startswith(shared_freezes.THAWED)} == {
        ANNA,
        BERT,
    }
    servers.thaw(1, BERT)
    servers.step()
    assert servers.frozen() == [{ANNA}, {ANNA}]


# --- a store that hangs -----------------------------------------------------------------------------------------------


async def _hang(patience: float, again: float) -> tuple[list[float], int, list[str]]:
    """How long each of 20 messages waited that came all through twice `patience`; how often the store was asked when
    it was due, `again` after the failure; and what the operator was told."""
    loop = asyncio.get_running_loop()
    connections: list[asyncio.StreamWriter] = []
    told: list[str] = []
    server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = shared_counter.SharedCounter(
        SharedStoreConfig("127.0.0.1", port, False, "", ""), told.append, lambda: told.append("back")
    )
    charge = shared_counter.Charge(1, 1, ANNA, Usage(1, 1, 1), ())

    async def send(after: float) -> float:
        await asyncio.sleep(after)
        start = loop.time()
        assert await store.charge_messages([charge]) == [None]
        return loop.time() - start

    waited = await asyncio.gather(*(send(number * patience / 10) for number in range(20)))
    tries = len(connections)
    await asyncio.sleep(again - 0.75 * patience)
    await store.charge_messages([charge])
    for one in connections:
        one.close()
    server.close()
    return waited, len(connections) - tries, told


def test_when_the_store_hangs_no_message_waits_for_longer_than_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not wait one after another; and however many come meanwhile, it is asked again in time."""
    monkeypatch.setattr(shared_counter, "ANSWER_TIMEOUT", 0.2)
    monkeypatch.setattr(shared_counter, "RETRY_SECONDS", 0.6)
    waited, asked_again, told = asyncio.run(_hang(0.2, 0.6))
    assert max(waited) < 0.5
    assert max(waited[15:]) < 0.1
    assert asked_again == 1
    assert len(told) == 1


# --- a message that fits here, and not in what all have counted -------------------------------------------------------


class Sender:
    """Postfix's end of a policy connection."""

    def __init__(self) -> None:
        self.transport, self.said = self, b""

    def write(self, answer: bytes) -> None:
        self.said += answer

    def answer_unrecorded(self, queue_id: str) -> None:
        self.said += f"broken {queue_id}".encode()


class Full:
    """The store, where all are over a limit; `meanwhile` is what happens before it says so."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile
        self.taken_back: list[str] = []

    async def charge_messages(self, charges: list[shared_counter.Charge]) -> list[ExceededLimit]:
        self._meanwhile()
        return [ExceededLimit(Limit("messages_per_hour", "messages", HOUR, 7), NOON + HOUR) for _ in charges]

    async def uncount_message(self, charge: shared_counter.Charge) -> None:
        self.taken_back.append(charge.account)


async def _answers(made: Desk, store: Full, queue_ids: tuple[str, ...]) -> list[bytes]:
    """What Postfix hears of messages that are put to the store together."""
    batch = Batch(made.store, asyncio.get_running_loop())
    SharedLimitCheck(made.judge, batch, SharedStoreConfig("127.0.0.1", 1, False, "", "")).counter = store  # type: ignore[assignment]
    senders = [Sender() for _ in queue_ids]
    for sender, queue_id in zip(senders, queue_ids, strict=True):
        made.send(queue_id=queue_id)
        batch.add_answer(sender, policy.format_answer(DUNNO), queue_id)  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        while not all(sender.said for sender in senders):
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    return [sender.said for sender in senders]


def test_who_is_over_a_limit_elsewhere_is_refused_and_not_charged(desk: Callable[..., Desk]) -> None:
    made, store = desk(), Full(lambda: None)
    answers = asyncio.run(_answers(made, store, ("Q1", "Q2")))
    assert [one[:58] for one in answers] == [b"action=450 4.7.1 anna@example.org may send 7 messages in a"] * 2
    assert made.used() == (0, 0, 0)
    assert store.taken_back == [ANNA, ANNA]


def test_a_message_that_was_given_up_while_the_store_was_asked_leaves_no_other_without_answer(
    desk: Callable[..., Desk],
) -> None:
    made = desk()
    answers = asyncio.run(_answers(made, Full(lambda: made.judge.ledger.message_dropped("Q1")), ("Q1", "Q2")))
    assert answers[1].startswith(b"action=450")
    assert made.used() == (0, 0, 0)


def test_a_full_disk_while_the_store_was_asked_leaves_no_other_without_answer(
    desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = desk()
    refuse, full = made.judge._refuse_over_limit, [sqlite3.OperationalError("disk full")]

    def first_fails(*arguments: Any) -> str:
        if full:
            raise full.pop()
        return refuse(*arguments)

    monkeypatch.setattr(made.judge, "_refuse_over_limit", first_fails)
    answers = asyncio.run(_answers(made, Full(lambda: None), ("Q1", "Q2")))
    assert answers[0] == b"broken Q1"
    assert answers[1].startswith(b"action=450")


def test_in_mode_learn_what_is_over_a_limit_elsewhere_goes_and_counts(desk: Callable[..., Desk]) -> None:
    made, store = desk(mode="learn"), Full(lambda: None)
    assert asyncio.run(_answers(made, store, ("Q1",))) == [b"action=DUNNO\n\n"]
    assert made.used() == (1, 1, 1)
    assert not store.taken_back
    assert made.events("would-refuse") == [(ANNA, "may send 7 messages in an hour")]
