"""The control socket's answer is taken as it is; anything else is an error, and is not waited for."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailkeep_server.common import unix_http
from mailkeep_server.common.unix_http import get_body

Serve = Callable[[bytes], str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Answers one connection with these bytes; gives the path of the socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "control"))
    listener.listen()
    threads: list[threading.Thread] = []

    def start(answer: bytes) -> str:
        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(4096) == b"GET /status HTTP/1.0\r\n\r\n"
                connection.sendall(answer)

        threads.append(threading.Thread(target=reply))
        threads[-1].start()
        return str(tmp_path / "control")

    yield start
    for thread in threads:
        thread.join()
    listener.close()


def test_the_body_is_returned_whole(serve: Serve) -> None:
    body = b'{"accounts": []}\r\n\r\n' + b"x" * 200_000
    assert get_body(serve(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body), "/status", 5) == body


@pytest.mark.parametrize(
    ("answer", "error"),
    [(b"", "closed without an answer"), (b"HTTP/1.0 500 Oops\r\n\r\n", "HTTP/1.0 500 Oops"), (b"\0\xff", "\0\ufffd")],
)
def test_another_status_or_no_http_at_all_is_an_error(serve: Serve, answer: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        get_body(serve(answer), "/status", 5)


def test_an_answer_without_end_is_an_error(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_http, "MAX_ANSWER_BYTES", 100)
    with pytest.raises(ValueError, match="longer than 100 bytes"):
        get_body(serve(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100), "/status", 5)


@pytest.mark.slow
def test_who_is_not_there_or_hangs_is_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "control")
    with pytest.raises(FileNotFoundError):
        get_body(path, "/status", 5)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(TimeoutError):
            get_body(path, "/status", 0.1)
