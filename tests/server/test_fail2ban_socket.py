"""fail2ban is asked over its socket by its own protocol, and nothing in its answers can run code."""

import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailkeep_server.common.fail2ban_socket import END, ask_fail2ban, list_jails

Answer = Callable[[object], None]


class Boom:
    def __reduce__(self) -> object:
        return (eval, ("1/0",))


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[list[object]]:
    """The answers of a fail2ban at tmp_path/socket, one for each connection."""
    queue: list[object] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                data = b""
                while not data.endswith(END):
                    data += client.recv(100)
                answer = queue.pop(0)
                if callable(answer):
                    answer = answer(pickle.loads(data.removesuffix(END)))  # noqa: S301 - our own words
                client.sendall(pickle.dumps(answer)[:7] if answer == "cut" else pickle.dumps(answer) + END)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield queue
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def ask(tmp_path: Path, *command: str) -> object:
    return ask_fail2ban(*command, timeout=5, path=str(tmp_path / "socket"))


def test_a_command_is_a_pickled_list_and_so_is_its_answer(tmp_path: Path, answers: list[object]) -> None:
    answers.append(lambda command: (0, command))
    assert ask(tmp_path, "get", "sshd", "maxretry") == ["get", "sshd", "maxretry"]
    answers.append((0, [("Number of jail", 2), ("Jail list", "dovecot, sshd")]))
    assert list_jails(timeout=5, path=str(tmp_path / "socket")) == ["dovecot", "sshd"]


def test_a_refusal_and_a_broken_answer_are_errors(tmp_path: Path, answers: list[object]) -> None:
    answers.append((1, KeyError("nojail")))
    with pytest.raises(RuntimeError, match="fail2ban: get nojail maxretry: nojail"):
        ask(tmp_path, "get", "nojail", "maxretry")
    answers.append("cut")
    with pytest.raises(OSError, match="broke off"):
        ask(tmp_path, "status")
    with pytest.raises(OSError, match="No such file"):
        ask_fail2ban("status", path=str(tmp_path / "none"))


def test_no_object_of_an_answer_is_made(tmp_path: Path, answers: list[object]) -> None:
    answers.append((1, Boom()))
    with pytest.raises(RuntimeError, match="1/0"):
        ask(tmp_path, "status")
