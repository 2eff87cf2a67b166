"""The owner of an account hears of a new redirect in the inbox, or the operator hears that this failed."""

import socket
import threading
from pathlib import Path

import pytest

from mailkeep_server.watch.owner_notice import OwnerNotices


class FakeDovecot(threading.Thread):
    """One LMTP session over a Unix socket (RFC 2033)."""

    def __init__(self, path: Path, answer: str = "250 2.0.0 saved") -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.answer, self.commands, self.data = answer, list[str](), ""

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rw", newline="\r\n") as stream:

            def reply(line: str) -> None:
                stream.write(f"{line}\r\n")
                stream.flush()

            reply("220 mail.example.org")
            for line in stream:
                self.commands.append(line.strip())
                if line.upper().startswith("DATA"):
                    reply("354 go on")
                    while (part := stream.readline()) != ".\r\n":
                        self.data += part
                    reply(self.answer)
                else:
                    reply("221 bye" if line.upper().startswith("QUIT") else "250 ok")


def send_notice(path: Path) -> list[str]:
    """The failures that were reported."""
    failures: list[str] = []
    before = set(threading.enumerate())
    OwnerNotices("mail.example.org", failures.append, str(path)).send_redirect_notice(
        "anna@example.org", "x@example.net"
    )
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    return failures


def test_the_owner_gets_a_message_from_a_sender_that_no_stranger_has(tmp_path: Path) -> None:
    dovecot = FakeDovecot(tmp_path / "s")
    dovecot.start()
    assert send_notice(tmp_path / "s") == []
    assert dovecot.commands[0].lower() == "lhlo mail.example.org"
    assert dovecot.commands[1].startswith("mail FROM:<mailkeep-notice@mail.example.org>")
    assert dovecot.commands[2] == "rcpt TO:<anna@example.org>"
    assert "Subject: Your mail is now sent on to x@example.net\r\n" in dovecot.data
    assert "Auto-Submitted: auto-generated\r\n" in dovecot.data
    assert "\r\n    x@example.net\r\n" in dovecot.data


@pytest.mark.parametrize("answer", ["452 4.2.2 Mailbox is full", None])
def test_the_operator_hears_that_the_owner_does_not_know(tmp_path: Path, answer: str | None) -> None:
    if answer:
        FakeDovecot(tmp_path / "s", answer).start()
    [failure] = send_notice(tmp_path / "s")
    assert failure.startswith(
        "anna@example.org does not know of the redirect to x@example.net: its inbox took no notice: "
    )
