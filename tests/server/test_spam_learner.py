"""What people move is taught to the filter, one message after the other, and waits while the filter is down."""

import http.server
import os
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailkeep_server import spam_learner

ACCOUNT = "anna@example.org"
Lesson = tuple[str, str, bytes]


class Filter(socketserver.UnixStreamServer):
    """rspamd's controller as far as the learner asks it."""

    def __init__(self, path: str) -> None:
        super().__init__(path, Handler)
        self.lessons: list[Lesson] = []
        self.status = 200


class Handler(http.server.BaseHTTPRequestHandler):
    server: Filter

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Learn-Type"] == "bulk"
        self.server.lessons.append((self.path, self.headers["Rcpt"], body))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(b'{"error": "because"}')

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return ""


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "new").mkdir()
    monkeypatch.setattr(spam_learner, "SPOOL", tmp_path)
    return tmp_path / "new"


@pytest.fixture
def rspamd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Filter]:
    path = str(tmp_path / "learn.sock")
    monkeypatch.setattr(spam_learner, "FILTER", path)
    with Filter(path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def leave(spool: Path, name: str, content: bytes, at: int) -> None:
    (spool / name).write_bytes(content)
    os.utime(spool / name, ns=(at, at))


def test_copies_are_learned_in_the_order_of_the_moves(spool: Path, rspamd: Filter) -> None:
    leave(spool, "b", b"ham anna@example.org\nSubject: b\n\ntwo\n", 2)
    leave(spool, "a", b"spam anna@example.org\nSubject: a\n\none\n", 1)
    leave(spool, "c", b"rm anna@example.org\n\n", 3)
    assert spam_learner.main(["full"]) == 0
    assert rspamd.lessons == [
        ("/learnspam", ACCOUNT, b"Subject: a\n\none\n"),
        ("/learnham", ACCOUNT, b"Subject: b\n\ntwo\n"),
    ]
    assert [*spool.iterdir()] == []


def test_a_filter_that_is_down_learns_later(spool: Path, rspamd: Filter, capsys: pytest.CaptureFixture[str]) -> None:
    leave(spool, "a", b"spam anna@example.org\nSubject: a\n\none\n", 1)
    rspamd.status = 500
    assert spam_learner.main(["full"]) == 1
    assert "learns later: rspamd answers with 500: because" in capsys.readouterr().err
    assert [file.name for file in spool.iterdir()] == ["a"]


def test_without_a_filter_the_copies_stay(spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spam_learner, "FILTER", str(tmp_path / "none"))
    leave(spool, "a", b"spam anna@example.org\n\n", 1)
    assert spam_learner.main(["full"]) == 1
    assert [file.name for file in spool.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("status", "output"), [(208, ""), (404, f"a message of {ACCOUNT} was not learned: 404 because")]
)
def test_what_cannot_be_learned_does_not_stop_the_rest(
    spool: Path, rspamd: Filter, capsys: pytest.CaptureFixture[str], status: int, output: str
) -> None:
    leave(spool, "a", b"spam anna@example.org\n\n", 1)
    leave(spool, "b", b"spam anna@example.org\n\n", 2)
    rspamd.status = status
    assert spam_learner.main(["full"]) == 0
    assert len(rspamd.lessons) == 2
    assert [*spool.iterdir()] == []
    assert capsys.readouterr().err.split("\n")[0] == output


# --- word lists


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Word lists, and a bogofilter that writes down how it is called."""
    directory = tmp_path / "words"
    directory.mkdir()
    program = tmp_path / "bin" / "bogofilter"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncat >/dev/null\necho "$@" >>{tmp_path}/calls\n[ ! -e {tmp_path}/full ]\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(spam_learner, "WORDS", directory)
    return directory


def read_options(words: Path) -> list[str]:
    return [line.split()[-1] for line in (words.parent / "calls").read_text().splitlines()]


def test_who_changes_their_mind_unlearns(spool: Path, words: Path) -> None:
    for turn, kind in enumerate(("spam", "spam", "ham", "spam")):
        leave(spool, str(turn), f"{kind} {ACCOUNT}\nSubject: a\n\none\n".encode(), turn + 1)
    assert spam_learner.main(["light"]) == 0
    assert read_options(words) == ["-s", "-nS", "-sN"], "and nothing twice"


def test_a_word_list_that_cannot_be_written_is_taught_later(
    spool: Path, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spam_learner, "BOGOFILTER_DONE", (0,))
    (words.parent / "full").touch()
    leave(spool, "a", f"spam {ACCOUNT}\n\n".encode(), 1)
    assert spam_learner.main(["light"]) == 1
    assert [file.name for file in spool.iterdir()] == ["a"]
