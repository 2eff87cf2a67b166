"""The states of units come from systemd itself, or an error does."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailkeep_server.common import unit_states
from mailkeep_server.common.unit_states import read_active_states

UNITS = ["logrotate.timer", "systemd-timesyncd.service"]
GREETING = b"OK 2e9e4d6cb7d844649312e7482a7d82bb\r\n"
# As systemd 257 of Debian 13 answers to these two.
HEADER = (
    b"l\2\1\1\x82\1\0\0\1\0\0\0C\0\0\0\5\1u\0\1\0\0\0\7\1s\0\x18\0\0\0org.freedesktop.systemd1\0\0\0\0\0\0\0\0"
    b"\x08\1g\0\ra(ssssssouso)\0\0\0\0\0\0"
)
BODY = (
    b"z\1\0\0\0\0\0\0\x0f\0\0\0logrotate.timer\0\x1b\0\0\0Daily rotation of log files\0\6\0\0\0loaded\0\0"
    b"\6\0\0\0active\0\0\7\0\0\0waiting\0\0\0\0\0\0\0\0\x000\0\0\0/org/freedesktop/systemd1/unit/logrotate_2etimer\0"
    b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0/\0\0\0\0\0\0\0\x19\0\0\0systemd-timesyncd.service\0\0\0"
    b"\x1c\0\0\0Network Time Synchronization\0\0\0\0\6\0\0\0loaded\0\0\x08\0\0\0inactive\0\0\0\0\4\0\0\0dead\0\0\0\0"
    b"\0\0\0\0\0\0\0\0<\0\0\0/org/freedesktop/systemd1/unit/systemd_2dtimesyncd_2eservice\0\0\0\0\0\0\0\0\0\0\0\0"
    b"\0\0\0\0\1\0\0\0/\0"
)
SIGNAL = b"l\4\1\1\4\0\0\0\7\0\0\0\x08\0\0\0" + b"\1\1o\0\0\0\0\0" + b"x\0\0\0"
ERROR = b"l\3\1\1\0\0\0\0\1\0\0\0\x08\0\0\0\5\1u\0\1\0\0\0"

Answer = Callable[[bytes], Path]


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Answer]:
    """Starts a manager that answers one question with these bytes."""
    servers: list[socket.socket] = []

    def serve(answer: bytes) -> Path:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(tmp_path / "systemd"))
        server.listen()
        servers.append(server)
        threading.Thread(target=_answer_once, args=(server, answer), daemon=True).start()
        return tmp_path / "systemd"

    yield serve
    for server in servers:
        server.close()


def _answer_once(server: socket.socket, answer: bytes) -> None:
    with server.accept()[0] as connection:
        question = b""
        while not question.endswith(b"systemd-timesyncd.service\0"):
            question += connection.recv(65536)
        assert re.match(rb"\0AUTH EXTERNAL (?:3\d)+\r\nBEGIN\r\nl\x01", question)
        connection.sendall(answer)


def test_each_unit_has_its_state(systemd: Answer) -> None:
    path = systemd(GREETING + HEADER + BODY)
    assert read_active_states(UNITS, str(path)) == {UNITS[0]: "active", UNITS[1]: "inactive"}


@pytest.mark.parametrize("units", [["a.service"], ["mailkeep-watch.service"], UNITS * 50])
def test_a_call_is_longer_than_what_systemd_reads_with_the_login(units: list[str]) -> None:
    """It would wait for more, and not answer a short one."""
    assert len(unit_states._build_call(units)) > 512


def test_signals_that_come_between_are_no_answer(systemd: Answer) -> None:
    path = systemd(GREETING + SIGNAL + HEADER + BODY)
    assert read_active_states(UNITS, str(path)) == {UNITS[0]: "active", UNITS[1]: "inactive"}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"REJECTED EXTERNAL\r\n", id="another user"),
        pytest.param(GREETING, id="closed"),
        pytest.param(GREETING + ERROR, id="an error"),
        pytest.param(GREETING + HEADER + BODY[:300], id="cut off"),
        pytest.param(GREETING + HEADER + b"\xff" * len(BODY), id="no list"),
    ],
)
def test_what_is_no_answer_is_an_error(systemd: Answer, answer: bytes) -> None:
    path = systemd(answer)
    with pytest.raises(OSError, match="systemd"):
        read_active_states(UNITS, str(path))


def test_without_systemd_there_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_active_states(UNITS, str(tmp_path / "systemd"))
