import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guard_samples import FREEZE, NO_LIMITS, GuardProcess, JudgeSetup, ask_guard, build_request

from mailkeep_server.guard.connections import PolicyConnection


@pytest.fixture
def new_setup(tmp_path: Path) -> Callable[..., JudgeSetup]:
    """Creates a judge; arguments are changes of `build_config()`."""
    return lambda **changes: JudgeSetup(tmp_path, **changes)


@pytest.fixture
def start_guard(tmp_path: Path) -> Iterator[Callable[..., GuardProcess]]:
    """Starts a guard of the test's own; arguments are changes of `build_config()`."""
    started: list[GuardProcess] = []

    def start(**changes: Any) -> GuardProcess:
        started.append(GuardProcess(tmp_path / f"guard{len(started)}", **changes))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def shared_guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardProcess]:
    """A guard for tests that leave it running: accounts n0@… to n99@example.org, each for one test."""
    accounts = {f"n{number}@example.org": {"addresses": []} for number in range(100)}
    directory = tmp_path_factory.mktemp("guard") / "shared"
    process = GuardProcess(directory, accounts=accounts, limits=NO_LIMITS, freeze=FREEZE)
    yield process
    process.stop()


@pytest.fixture
def ask_shared_guard(shared_guard: GuardProcess) -> Iterator[Callable[..., str]]:
    """Asks the shared guard about the end of a message, over one connection."""
    with shared_guard.open_connection() as client:
        yield lambda account, **changes: ask_guard(client, build_request(account=account, **changes))


class _Transport(asyncio.Transport):
    aborted = False

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def three_connections(new_setup: Callable[..., JudgeSetup]) -> Iterator[list[PolicyConnection]]:
    """Connections to a judge, without sockets."""
    setup = new_setup()
    connections = [PolicyConnection(setup.judge, None) for _ in range(3)]  # type: ignore[arg-type]
    for connection in connections:
        connection.connection_made(_Transport())
    yield connections
    for connection in connections:
        connection.connection_lost(None)
