"""Fixtures of the lab. A test that uses one needs containers and gets the mark `lab`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from typing import Any

import lab_schedule
import pytest

from mailkeep.inventory.dkim_keys import generate_dkim_pem
from mailkeep.inventory.vault import Vault
from mailkeep.lab import Attacker, Internet, Lab, LabError, Server

KEYS = 12  # more than any test needs, so that none meets one twice


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker("lab")
    lab_schedule.sort_items(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> lab_schedule.LabSchedule | None:
    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # else the file with the most tests comes first
    return lab_schedule.LabSchedule(config, log)


@pytest.fixture(scope="session", autouse=True)
def dkim_keys() -> Iterator[None]:
    """Real keys of the tests' own, handed out in turn: to make one anew for each test takes longer than the tests."""
    keys = cycle([generate_dkim_pem() for _ in range(KEYS)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mailkeep.inventory.dkim_keys.generate_dkim_pem", lambda: next(keys))
        yield


@pytest.fixture
def killed_after() -> Callable[[int], AbstractContextManager[None]]:
    """Within it so many changes of a vault go well; the next one is a KeyboardInterrupt, before it is made."""
    return _killed_after


@contextmanager
def _killed_after(changes: int) -> Iterator[None]:
    left = [changes]

    def dying(change: Callable[..., None]) -> Callable[..., None]:
        def until_then(self: Vault, *arguments: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            change(self, *arguments)

        return until_then

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Vault, "write", dying(Vault.write))
        patch.setattr(Vault, "delete", dying(Vault.delete))
        yield


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """An empty lab of this test run's own; with pytest-xdist, of this worker's own."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    lab = Lab(f"{_run_prefix()}-{worker}" if worker else _run_prefix())
    try:
        lab.destroy()  # what a killed run left
    except LabError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    yield lab
    lab.destroy()


@pytest.fixture(scope="session")
def run_lab() -> Lab:
    """The lab of the whole run, which owns what its workers share."""
    return Lab(_run_prefix())


def pytest_sessionfinish(session: pytest.Session) -> None:
    lab = Lab(_run_prefix())
    if not hasattr(session.config, "workerinput") and lab.state.exists():
        lab.destroy()


def _run_prefix() -> str:
    return f"{os.environ.get('MAILKEEP_LAB', 'mailkeep')}-test"


@pytest.fixture(scope="session")
def internet(lab: Lab) -> Internet:
    return lab.boot_internet()


@pytest.fixture(scope="session")
def attacker(lab: Lab) -> Attacker:
    return lab.boot_attacker()


@pytest.fixture
def base_server(lab: Lab) -> Iterator[Callable[..., Server]]:
    """Boots fresh servers, with the arguments of `Lab.server`; they are gone after the test."""
    booted: list[Server] = []

    def boot(name: str = "mail", **options: str) -> Server:
        booted.append(lab.boot_server(name, **options))
        return booted[-1]

    yield boot
    for server in booted:
        server.remove()
