"""Mail of Sieve scripts reaches Postfix's socket for it as it is, or Dovecot hears that it must try again."""

import io
import os
import socket
import sys
import threading
from email import message_from_bytes
from pathlib import Path

import pytest

from mailkeep_server import sieve_mail

ANNA = "anna@example.org"
MESSAGE = (
    b"X-Sieve: Pigeonhole\nX-Sieve-Redirected-From: anna@example.org\nFrom: anna@example.org\r\n\n.hidden\n"
    + b"x" * 100_000
    + b"\nno end"
)


class FakePostfix(threading.Thread):
    """SMTP sessions over a Unix socket. `refusals` answer RCPT (`at_rcpt`) or the end of the data."""

    def __init__(self, path: Path, *refusals: str, at_rcpt: bool = False) -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.refusals, self.at_rcpt = [*refusals], at_rcpt
        self.commands, self.data = list[bytes](), b""
        self.xclient_answer = "220 mail.example.org ESMTP"

    def run(self) -> None:
        for _ in range(max(1, len(self.refusals))):
            self.serve(self.refusals.pop(0) if self.refusals else "")

    def serve(self, refusal: str) -> None:
        connection, _ = self.listener.accept()
        self.commands, self.data = [], b""
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
                    answer(refusal or "250 2.0.0 queued")
                elif line.startswith(b"RCPT") and self.at_rcpt and refusal:
                    answer(refusal)
                elif line.startswith(b"XCLIENT"):
                    answer(self.xclient_answer)
                else:
                    answer("221 bye" if line.startswith(b"QUIT") else "250 ok")


def call_program(
    monkeypatch: pytest.MonkeyPatch, path: Path, *arguments: str, message: bytes = MESSAGE, account: str = ANNA
) -> int:
    """As for a script of anna's. `path` is the socket for redirected mail; that for answers is `answers` beside it."""
    monkeypatch.setattr(sieve_mail, "FORWARDS", str(path))
    monkeypatch.setattr(sieve_mail, "ANSWERS", str(path.with_name("answers")))
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(message)))
    return sieve_mail.main([account, *arguments])


def test_a_message_arrives_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    postfix = FakePostfix(tmp_path / "s")
    postfix.start()
    arguments = ("-i", "-f", "s@example.com", "--", "friend@example.net", "other@example.net")
    assert call_program(monkeypatch, tmp_path / "s", *arguments) == os.EX_OK
    assert postfix.commands[1:3] == [b"XCLIENT LOGIN=anna@example.org", b"ehlo localhost"]
    assert postfix.commands[3:6] == [
        b"MAIL FROM:<s@example.com> BODY=8BITMIME",
        b"RCPT TO:<friend@example.net>",
        b"RCPT TO:<other@example.net>",
    ]
    expected = MESSAGE.replace(b"\r\n", b"\n").replace(b"\n.", b"\n..").replace(b"\n", b"\r\n") + b"\r\n"
    assert postfix.data == expected


def test_an_automatic_answer_goes_where_it_is_signed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stranger's message cannot pass for one: Dovecot marks what it redirects."""
    postfix = FakePostfix(tmp_path / "answers")
    postfix.start()
    answer = b"X-Sieve: Pigeonhole\nFrom: anna@example.org\nAuto-Submitted: auto-replied (vacation)\n\naway\n"
    arguments = ("-f", "<>", "--", "s@example.com")
    assert call_program(monkeypatch, tmp_path / "s", *arguments, message=answer) == os.EX_OK
    assert postfix.data.startswith(b"X-Sieve")
    marked = MESSAGE.replace(b"\n\n", b"\nAuto-Submitted: auto-replied\n\n", 1)
    assert call_program(monkeypatch, tmp_path / "s", *arguments, message=marked) == os.EX_TEMPFAIL, "not to answers"


@pytest.mark.parametrize(
    "answer", ["503 5.5.1 Error: XCLIENT not allowed", "550 5.7.0 Error: insufficient authorization"]
)
def test_nothing_is_sent_as_nobodys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str) -> None:
    """It would count in no account's limits. No refusal of the message either: nobody gets a notice."""
    postfix = FakePostfix(tmp_path / "s")
    postfix.xclient_answer = answer
    postfix.start()
    assert call_program(monkeypatch, tmp_path / "s", "-f", ANNA, "--", "x@example.net") == os.EX_TEMPFAIL
    assert not [command for command in postfix.commands if command.startswith(b"MAIL")]
    wrong = "anna@example.org ADDR=192.0.2.1"
    assert call_program(monkeypatch, tmp_path / "s", "-f", ANNA, "--", "x@example.net", account=wrong) == os.EX_TEMPFAIL


@pytest.mark.parametrize("sender", ["<>", ""])
def test_an_empty_sender_stays_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sender: str) -> None:
    postfix = FakePostfix(tmp_path / "s")
    postfix.start()
    assert call_program(monkeypatch, tmp_path / "s", "-i", "-f", sender, "--", "x@example.net") == os.EX_OK
    assert postfix.commands[3] == b"MAIL FROM:<> BODY=8BITMIME"


def test_what_postfix_does_not_take_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakePostfix(tmp_path / "s", "451 4.7.1 Try again later").start()
    assert call_program(monkeypatch, tmp_path / "s", "-f", "s@example.com", "--", "x@example.net") == os.EX_TEMPFAIL
    assert call_program(monkeypatch, tmp_path / "gone", "-f", "s@example.com", "--", "x@example.net") == os.EX_TEMPFAIL
    assert call_program(monkeypatch, tmp_path / "s", "-f", "s@example.com", "x@example.net") == os.EX_TEMPFAIL


@pytest.mark.parametrize("at_rcpt", [True, False])
def test_what_postfix_refuses_for_good_goes_back_to_its_sender(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], at_rcpt: bool
) -> None:
    """Dovecot would defer the message for as long as Postfix keeps mail."""
    postfix = FakePostfix(tmp_path / "s", "552 5.3.4 Message size exceeds fixed limit", "", at_rcpt=at_rcpt)
    postfix.start()
    assert call_program(monkeypatch, tmp_path / "s", "-f", "s@example.com", "--", "gone@example.net") == os.EX_OK
    assert postfix.commands[3:5] == [b"MAIL FROM:<> BODY=8BITMIME", b"RCPT TO:<s@example.com>"]
    notice = message_from_bytes(postfix.data)
    assert notice.get_content_type() == "multipart/report"
    assert (notice["To"], notice["Auto-Submitted"]) == ("s@example.com", "auto-replied")
    text, status, headers = notice.get_payload()  # type: ignore[misc]
    assert "gone@example.net" in str(text)
    assert "Diagnostic-Code: smtp; 552 5.3.4 Message size exceeds fixed limit" in str(status)
    assert "X-Sieve: Pigeonhole" in str(headers)
    assert b"hidden" not in postfix.data
    assert "refused for good, from <s@example.com> to gone@example.net" in capsys.readouterr().err


def test_a_notice_that_is_not_taken_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number, answer in enumerate(("451 4.7.1 Try again later", "550 5.1.1 no such user")):
        FakePostfix(tmp_path / str(number), "550 5.1.1 no such user", answer).start()
        arguments = ("-f", "s@example.com", "--", "gone@example.net")
        assert call_program(monkeypatch, tmp_path / str(number), *arguments) == os.EX_TEMPFAIL


def test_no_notice_is_written_about_a_message_without_a_sender(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Such as a notice of another server, or an automatic answer of the script's."""
    postfix = FakePostfix(tmp_path / "s", "550 5.1.1 no such user")
    postfix.start()
    assert call_program(monkeypatch, tmp_path / "s", "-f", "<>", "--", "gone@example.net") == os.EX_OK
    postfix.join(5)
    assert postfix.commands[3] == b"MAIL FROM:<> BODY=8BITMIME"
    assert not postfix.is_alive()
