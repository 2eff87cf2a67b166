"""Fixtures of the lab. A test that uses one needs containers and gets the mark `lab`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import lab_schedule
import pytest

from mailkeep.inventory.dkim_keys import generate_dkim_pem
from mailkeep.inventory.vault import Vault
from mailkeep.lab import Attacker, Internet, Lab, LabError, Server

KEYS = 12  # more than any test needs, so that no test gets a key twice
MEMORY_DISK, MIN_FREE = Path("/dev/shm"), 2 << 30  # noqa: S108 - pytest makes a directory for this user alone


def pytest_configure() -> None:
    """Tests keep their files in memory where there is room: waiting for a disk took a third of their time."""
    if not os.access(MEMORY_DISK, os.W_OK):
        return
    runs_programs = not os.statvfs(MEMORY_DISK).f_flag & os.ST_NOEXEC
    if runs_programs and shutil.disk_usage(MEMORY_DISK).free >= MIN_FREE:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY_DISK))


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
    """Real keys, handed out in turn: creating one for each test would take longer than the tests."""
    keys = cycle(generate_dkim_pem() for _ in range(KEYS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mailkeep.inventory.dkim_keys.generate_dkim_pem", lambda: next(keys))
        yield


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """A service's `main` sets the umask of its process, which here runs other tests, too."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture
def killed_after() -> Callable[[int], AbstractContextManager[None]]:
    """A context in which so many changes of a vault succeed; the next raises KeyboardInterrupt and changes nothing."""
    return interrupt_after


@contextmanager
def interrupt_after(changes: int) -> Iterator[None]:
    remaining = [changes]

    def interrupt_change(change: Callable[..., None]) -> Callable[..., None]:
        def change_or_interrupt(self: Vault, *arguments: object) -> None:
            remaining[0] -= 1
            if remaining[0] < 0:
                raise KeyboardInterrupt
            change(self, *arguments)

        return change_or_interrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Vault, "write", interrupt_change(Vault.write))
        patch.setattr(Vault, "delete", interrupt_change(Vault.delete))
        yield


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """An empty lab for this test run alone; with pytest-xdist, for this worker alone."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    lab = Lab(f"{_run_prefix()}-{worker}" if worker else _run_prefix())
    try:
        lab.destroy()  # a killed run may have left machines
    except LabError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    yield lab
    lab.destroy()


@pytest.fixture(scope="session")
def run_lab() -> Lab:
    """The lab of the whole run, which owns the images that its workers share."""
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
    """Boots fresh servers, with the arguments of `Lab.boot_server`; they are removed after the test."""
    servers: list[Server] = []

    def boot_server(name: str = "mail", **options: str) -> Server:
        servers.append(lab.boot_server(name, **options))
        return servers[-1]

    yield boot_server
    for server in servers:
        server.remove()
