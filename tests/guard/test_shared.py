"""What several servers share: freezes hold whatever becomes of the store, and a store that hangs keeps nobody waiting.
That the count is exact, in a real one, is in tests/lab/test_shared_store.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from guard_samples import ANNA, BERT

from guard import frozen, shared
from guard.config import Place
from guard.windows import Used

WHEN = datetime(2025, 11, 25, 12, tzinfo=UTC)


class Store:
    """The list of frozen accounts in the store, as `Shared` gives it."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}

    async def frozen(self, changes: dict[str, str]) -> dict[str, str]:
        self.lines |= changes
        return dict(self.lines)


class Servers:
    """Two mail servers and the store."""

    def __init__(self, directory: Path) -> None:
        self.store = Store()
        self.files = [directory / name / "accounts" for name in ("one", "two")]
        for file in self.files:
            file.parent.mkdir()
        self._freezes = [shared.Freezes(self.store, file) for file in self.files]  # type: ignore[arg-type]

    def step(self, *servers: int) -> None:
        for number in servers or (0, 1, 0, 1):
            asyncio.run(self._freezes[number].step())

    def freeze(self, server: int, name: str = ANNA, why: str = "sends spam") -> None:
        frozen.freeze(name, "guard", why, WHEN, self.files[server])

    def thaw(self, server: int, name: str = ANNA) -> None:
        frozen.thaw(name, self.files[server])

    def frozen(self) -> list[set[str]]:
        return [set(frozen.read(file)) for file in self.files]


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
    assert {name for name, line in servers.store.lines.items() if not line.startswith(shared.THAWED)} == {ANNA, BERT}
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
    store = shared.Shared(Place("127.0.0.1", port, False, "", ""), told.append, lambda: told.append("back"))
    charge = shared.Charge(1, 1, ANNA, Used(1, 1, 1), ())

    async def send(after: float) -> float:
        await asyncio.sleep(after)
        start = loop.time()
        assert await store.charge([charge]) == [None]
        return loop.time() - start

    waited = await asyncio.gather(*(send(number * patience / 10) for number in range(20)))
    tries = len(connections)
    await asyncio.sleep(again - 0.75 * patience)
    await store.charge([charge])
    for one in connections:
        one.close()
    server.close()
    return waited, len(connections) - tries, told


def test_when_the_store_hangs_no_message_waits_for_longer_than_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not wait one after another; and however many come meanwhile, it is asked again in time."""
    monkeypatch.setattr(shared, "PATIENCE", 0.2)
    monkeypatch.setattr(shared, "AGAIN", 0.6)
    waited, asked_again, told = asyncio.run(_hang(0.2, 0.6))
    assert max(waited) < 0.5
    assert max(waited[15:]) < 0.1
    assert asked_again == 1
    assert len(told) == 1
