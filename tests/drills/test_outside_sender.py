"""The lab's sender from outside does as mail servers do: a refused recipient does not end its session."""

import base64
import runpy
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mailkeep.lab

DELIVER = runpy.run_path(str(Path(mailkeep.lab.__file__).parent / "outside" / "send.py"))["deliver_message"]
OK = b"250 2.0.0 Ok\r\n"
ANSWERS = {
    "nobody": b"550 5.1.1 User unknown\r\n",
    "enough": b"421 4.7.0 Error: too many errors\r\n",
    "quit": b"221 2.0.0 Bye\r\n",
}


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    """Port and commands of a mail server that refuses recipients called nobody, and hangs up at one called enough."""
    commands: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b"220 ready\r\n")
            while line := lines.readline().decode().strip():
                commands.append(line)
                if line.upper() == "DATA":
                    connection.sendall(b"354 go\r\n")
                    while lines.readline() != b".\r\n":
                        pass
                connection.sendall(next((answer for word, answer in ANSWERS.items() if word in line.lower()), OK))
                if "enough" in line or line.upper() == "QUIT":
                    return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1], commands
    thread.join(5)
    listener.close()


def deliver(port: int, *recipients: str) -> tuple[str, tuple[int, bytes], dict[str, str]]:
    job: dict[str, Any] = {"host": "127.0.0.1", "port": port, "helo": "mx.example.net", "tls": False}
    data = base64.b64encode(b"Subject: x\r\n\r\nx\r\n").decode()
    result: tuple[str, tuple[int, bytes], dict[str, str]] = DELIVER(
        job | {"sender": "a@example.net", "recipients": recipients, "data": data}
    )
    return result


def test_the_recipients_after_a_refused_one_get_the_message(server: tuple[int, list[str]]) -> None:
    stage, (code, _), refused = deliver(server[0], "nobody@example.org", "anna@example.org", "nobody2@example.org")
    assert (stage, code) == ("DATA", 250)
    assert [*refused] == ["nobody@example.org", "nobody2@example.org"]
    assert refused["nobody@example.org"] == "550 5.1.1 User unknown"
    assert sum(command.upper().startswith("RCPT") for command in server[1]) == 3


def test_without_an_accepted_recipient_no_message_is_sent(server: tuple[int, list[str]]) -> None:
    stage, (code, _), refused = deliver(server[0], *(f"nobody{number}@example.org" for number in range(5)))
    assert (stage, code, len(refused)) == ("RCPT", 550, 5)
    assert not any(command.upper() == "DATA" for command in server[1])


def test_a_server_that_closes_ends_the_session(server: tuple[int, list[str]]) -> None:
    stage, (code, _), _ = deliver(server[0], "nobody@example.org", "enough@example.org", "anna@example.org")
    assert (stage, code) == ("RCPT", 421)
