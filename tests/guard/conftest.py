import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guard_samples import FREEZE, NO_LIMITS, Daemon, Desk, ask, request

from mailkeep_server.guard.connections import PolicyConnection


@pytest.fixture
def desk(tmp_path: Path) -> Callable[..., Desk]:
    """Makes a judge; arguments are what differs from `settings()`."""
    return lambda **changed: Desk(tmp_path, **changed)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts a guard of the test's own; arguments are what differs from `settings()`."""
    started: list[Daemon] = []

    def start(**changed: Any) -> Daemon:
        started.append(Daemon(tmp_path / f"guard{len(started)}", **changed))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A guard for tests that leave it running: accounts n0@… to n99@example.org, each for one test."""
    accounts = {f"n{number}@example.org": {"addresses": []} for number in range(100)}
    running = Daemon(tmp_path_factory.mktemp("guard") / "shared", accounts=accounts, limits=NO_LIMITS, freeze=FREEZE)
    yield running
    running.stop()


@pytest.fixture
def shared_policy(shared: Daemon) -> Iterator[Callable[..., str]]:
    """Asks the shared guard about the end of a message, over one connection."""
    with shared.connect() as client:
        yield lambda account, **changed: ask(client, request(account=account, **changed))


class _Transport(asyncio.Transport):
    aborted = False

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def desk_of_connections(desk: Callable[..., Desk]) -> Iterator[list[PolicyConnection]]:
    """Three connections to a judge, without the sockets."""
    made = desk()
    connections = [PolicyConnection(made.judge, None) for _ in range(3)]  # type: ignore[arg-type]
    for one in connections:
        one.connection_made(_Transport())
    yield connections
    for one in connections:
        one.connection_lost(None)
