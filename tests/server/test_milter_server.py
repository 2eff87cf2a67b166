"""A milter ends when nobody has used it for some time, and loses no connection by that."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailkeep_server.common import milter_server
from mailkeep_server.common.milter_server import CONTINUE, NEGOTIATION, OFFER, MilterServer
from mailkeep_server.lines.milter import LineSession

pytestmark = pytest.mark.slow
END_OF_MESSAGE = struct.pack("!I", 1) + b"E"
END_SECONDS = 10.0
STARTS = 50


@pytest.fixture(autouse=True)
def short_idle_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milter_server, "MAX_IDLE", 0.2)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """As systemd opens it: it stays open when the milter ends."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "milter"))
        listener.listen(512)
        yield listener


def serve_until_idle(listener: socket.socket, max_connections: int = 9) -> None:
    MilterServer(lambda: LineSession().answer_packet, "lines", max_connections).serve(listener)


@contextmanager
def run_milter(listener: socket.socket, max_connections: int = 9) -> Iterator[threading.Thread]:
    """A context that its end by itself closes."""
    thread = threading.Thread(target=serve_until_idle, args=(listener, max_connections), daemon=True)
    thread.start()
    yield thread
    thread.join(END_SECONDS)
    assert not thread.is_alive()


@contextmanager
def connect(listener: socket.socket) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(END_SECONDS)
        client.connect(listener.getsockname())
        client.sendall(OFFER)
        yield client


def reads_answer(client: socket.socket) -> bool:
    return client.recv(len(OFFER), socket.MSG_WAITALL)[4:5] == NEGOTIATION


def use_session(client: socket.socket) -> None:
    client.sendall(END_OF_MESSAGE)
    assert client.recv(5, socket.MSG_WAITALL)[4:] == CONTINUE


def test_an_open_session_keeps_it_running_however_silent(listener: socket.socket) -> None:
    with run_milter(listener) as thread:
        with connect(listener) as client:
            assert reads_answer(client)
            thread.join(5 * milter_server.MAX_IDLE)
            assert thread.is_alive()
            use_session(client)
        closed = time.monotonic()
    assert time.monotonic() - closed < END_SECONDS


def test_it_runs_on_from_its_last_use(listener: socket.socket) -> None:
    with run_milter(listener) as thread, connect(listener) as client:
        assert reads_answer(client)
        thread.join(2 * milter_server.MAX_IDLE)
        used = time.monotonic()
        use_session(client)
    assert time.monotonic() - used >= milter_server.MAX_IDLE


def test_who_only_asks_whether_it_answers_does_not_keep_it_running(listener: socket.socket) -> None:
    """As the watch does, in shorter intervals than it may be idle."""
    with run_milter(listener) as thread:
        started = time.monotonic()
        while thread.is_alive() and time.monotonic() - started < END_SECONDS:
            with connect(listener) as client:
                client.settimeout(1)
                try:
                    assert reads_answer(client)
                except TimeoutError:  # it has ended: the question waits
                    break
            thread.join(milter_server.MAX_IDLE / 4)
        assert time.monotonic() - started < END_SECONDS


def test_what_comes_after_its_end_is_served_by_its_next_start(listener: socket.socket) -> None:
    with run_milter(listener):
        pass
    with connect(listener) as client, run_milter(listener):
        assert reads_answer(client)
        client.close()


def test_no_connection_is_lost_while_it_ends_and_starts(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milter_server, "MAX_IDLE", 0.001)
    starts, is_over = 0, threading.Event()

    def start_again_and_again() -> None:
        nonlocal starts
        while not is_over.is_set():
            starts += 1
            serve_until_idle(listener)

    def ask(_: int) -> bool:
        with connect(listener) as client:
            return reads_answer(client)

    systemd = threading.Thread(target=start_again_and_again, daemon=True)
    systemd.start()
    end = time.monotonic() + STARTS
    with ThreadPoolExecutor(2) as pool:
        while starts < STARTS:
            assert time.monotonic() < end, "it does not end"
            assert all(pool.map(ask, range(5)))
    is_over.set()
    systemd.join(END_SECONDS)
    assert not systemd.is_alive()


def test_a_connection_that_fails_ends_and_frees_its_place(
    listener: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    with run_milter(listener, max_connections=1):
        with connect(listener) as client:
            assert reads_answer(client)
            client.sendall(b"\xff" * 8)
            assert client.recv(1) == b""
        with connect(listener) as client:
            assert reads_answer(client)
    assert "ProtocolError" in capsys.readouterr().err
