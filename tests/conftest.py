"""Fixtures of the lab. A test that uses one needs containers and gets the mark `lab`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle

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
    parts = (os.environ.get("MAILKEEP_LAB", "mailkeep"), "test", os.environ.get("PYTEST_XDIST_WORKER"))
    lab = Lab("-".join(part for part in parts if part))
    try:
        lab.destroy()  # what a killed run left
    except LabError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    yield lab
    lab.destroy()


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
