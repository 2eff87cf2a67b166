from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watch_samples import Clock

from mailkeep_server.watch.alert_queue import Desk, Letter
from mailkeep_server.watch.config import Config


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(clock: Clock) -> Desk:
    return Desk("mail.example.org", clock=clock)


@pytest.fixture
def letters(desk: Desk, clock: Clock) -> Callable[[float], list[Letter]]:
    """The letters of so many seconds, in each of which the watch looks for one twice."""

    def wait(seconds: float) -> list[Letter]:
        def each() -> Iterator[Letter | None]:
            for _ in range(int(seconds * 2) + 1):
                yield desk.letter()
                clock.now += 0.5

        return [letter for letter in each() if letter]

    return wait


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        host="mail.example.org",
        admins=["ann@example.net", "bob@example.net"],
        accounts={"anna@example.org": ["anna@example.org", "info@example.org"]},
        units=["postfix.service"],
        jails={"sshd": [22], "recidive": None},
        own=["192.0.2.1", "198.51.100.0/24"],
        certificate=str(tmp_path / "certificate.pem"),
        certificate_days=14,
        queue=10,
        disk=85,
        failures=100,
        control=str(tmp_path / "control"),
        frozen=str(tmp_path / "accounts"),
        smtp=str(tmp_path / "smtp"),
        world=str(tmp_path / "world.json"),
        renewal="",
    )
