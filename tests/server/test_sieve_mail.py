"""Mail of Sieve scripts reaches Postfix's socket for it as it is, or Dovecot hears that it must try again."""

import io
import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from mailkeep_server import sieve_mail

MESSAGE = b"X-Sieve: Pigeonhole\nFrom: anna@example.org\r\n\n.hidden\n" + b"x" * 100_000 + b"\nno end"


class FakePostfix(threading.Thread):
    """One SMTP session over a Unix socket; `refusal` answers the end of the data."""

    def __init__(self, path: Path, refusal: str = "") -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.refusal, self.commands, self.data = refusal, list[bytes](), b""

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rwb") as stream:

            def answer(line: str) -> None:
                stream.write(f"{line}\r\n".encode())
                stream.flush()

            answer("220 mail.example.org ESMTP")
            for line in stream:
                self.commands.append(line.strip())
                if line.startswith(b"DATA"):
                    answer("354 go on")
                    while (part := stream.readline()) != b".\r\n":
                        self.data += part
                    answer(self.refusal or "250 2.0.0 queued")
                else:
                    answer("221 bye" if line.startswith(b"QUIT") else "250 ok")


def call_program(monkeypatch: pytest.MonkeyPatch, path: Path, *arguments: str) -> int:
    monkeypatch.setattr(sieve_mail, "SOCKET", str(path))
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(MESSAGE)))
    return sieve_mail.main([*arguments])


def test_a_message_arrives_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    postfix = FakePostfix(tmp_path / "s")
    postfix.start()
    arguments = ("-i", "-f", "s@example.com", "--", "friend@example.net", "other@example.net")
    assert call_program(monkeypatch, tmp_path / "s", *arguments) == os.EX_OK
    assert postfix.commands[1:4] == [
        b"MAIL FROM:<s@example.com> BODY=8BITMIME",
        b"RCPT TO:<friend@example.net>",
        b"RCPT TO:<other@example.net>",
    ]
    expected = MESSAGE.replace(b"\r\n", b"\n").replace(b"\n.", b"\n..").replace(b"\n", b"\r\n") + b"\r\n"
    assert postfix.data == expected


@pytest.mark.parametrize("sender", ["<>", ""])
def test_an_empty_sender_stays_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sender: str) -> None:
    postfix = FakePostfix(tmp_path / "s")
    postfix.start()
    assert call_program(monkeypatch, tmp_path / "s", "-i", "-f", sender, "--", "x@example.net") == os.EX_OK
    assert postfix.commands[1] == b"MAIL FROM:<> BODY=8BITMIME"


def test_what_postfix_does_not_take_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakePostfix(tmp_path / "s", "451 4.7.1 Try again later").start()
    assert call_program(monkeypatch, tmp_path / "s", "-f", "s@example.com", "--", "x@example.net") == os.EX_TEMPFAIL
    assert call_program(monkeypatch, tmp_path / "gone", "-f", "s@example.com", "--", "x@example.net") == os.EX_TEMPFAIL
    assert call_program(monkeypatch, tmp_path / "s", "-f", "s@example.com", "x@example.net") == os.EX_TEMPFAIL
