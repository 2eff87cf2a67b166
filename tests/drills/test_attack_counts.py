"""A drill counts the messages that the server took, whatever its answers before the end of the message."""

import smtplib
import socket
import threading

import pytest

from mailkeep.drills.remote.attack import AttackRun

JOB = {
    "login": ["anna@example.test", "a secret"],
    "sources": [""],
    "envelope": "",
    "author": "",
    "to": "",
    "recipients": 1,
}


def answer_session(server: socket.socket, data_answer: str) -> None:
    """A server that accepts every recipient, and answers DATA with `data_answer`."""
    connection, _ = server.accept()
    with connection, connection.makefile("rb") as lines:
        connection.sendall(b"220 mail.example.test\r\n")
        for line in lines:
            command = line[:4].upper()
            if command == b"DATA":
                connection.sendall(data_answer.encode() + b"\r\n")
                if data_answer.startswith("354"):
                    for text in lines:
                        if text == b".\r\n":
                            break
                    connection.sendall(b"250 2.0.0 Ok\r\n")
            else:
                connection.sendall(b"221 2.0.0 Bye\r\n" if command == b"QUIT" else b"250 2.1.5 Ok\r\n")


@pytest.mark.parametrize(
    ("data_answer", "answer", "taken"),
    [
        pytest.param("354 Go ahead", "250", 1, id="accepted"),
        pytest.param(
            "450 4.7.1 20 messages in 10 minutes", "450 4.7.1 20 messages in 10 minutes", 0, id="over a limit"
        ),
        pytest.param("521 5.7.0 frozen", "521 5.7.0 frozen", 0, id="frozen"),
    ],
)
def test_a_message_counts_as_taken_only_when_its_end_is_accepted(data_answer: str, answer: str, taken: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer_session, args=(server, data_answer), daemon=True)
        thread.start()
        with smtplib.SMTP(*server.getsockname()[:2], timeout=10) as smtp:
            assert AttackRun(JOB).send_message(smtp, 0) == (answer, taken)
        thread.join(10)
