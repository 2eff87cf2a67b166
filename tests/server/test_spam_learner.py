"""What people move is taught to the filter, one message after the other, and waits if it cannot be."""

import os
from pathlib import Path

import pytest

from mailkeep_server import spam_learner

ACCOUNT = "anna@example.org"


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "new").mkdir()
    monkeypatch.setattr(spam_learner, "SPOOL", tmp_path)
    return tmp_path / "new"


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Word lists, and a bogofilter that writes down how it is called."""
    directory = tmp_path / "words"
    directory.mkdir()
    program = tmp_path / "bin" / "bogofilter"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ntee -a {tmp_path}/lessons >/dev/null\necho "$@" >>{tmp_path}/calls\n[ ! -e {tmp_path}/full ]\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(spam_learner, "WORDS", directory)
    return directory


def leave(spool: Path, name: str, content: bytes, at: int) -> None:
    (spool / name).write_bytes(content)
    os.utime(spool / name, ns=(at, at))


def test_copies_are_learned_in_the_order_of_the_moves(spool: Path, words: Path) -> None:
    leave(spool, "b", b"ham anna@example.org\nSubject: b\n\ntwo\n", 2)
    leave(spool, "a", b"spam anna@example.org\nSubject: a\n\none\n", 1)
    leave(spool, "c", b"rm anna@example.org\n\n", 3)
    assert spam_learner.main([]) == 0
    assert read_options(words) == ["-s", "-n"]
    assert (words.parent / "lessons").read_bytes() == b"Subject: a\n\none\nSubject: b\n\ntwo\n"
    assert [*spool.iterdir()] == []


def test_the_verdict_is_no_word_of_the_message(spool: Path, words: Path) -> None:
    body = b"\r\n\r\nX-Mailkeep-Spam: in the text\r\n"
    verdict = b"x-mailkeep-spam: probably spam, 9.9 points:\r\n its words casino\r\n"
    leave(spool, "a", b"spam anna@example.org\n" + verdict + b"Subject: a\r\n" + verdict + b"To: b" + body, 1)
    assert spam_learner.main([]) == 0
    assert (words.parent / "lessons").read_bytes() == b"Subject: a\r\nTo: b" + body


def read_options(words: Path) -> list[str]:
    return [line.split()[-1] for line in (words.parent / "calls").read_text().splitlines()]


def test_who_changes_their_mind_unlearns(spool: Path, words: Path) -> None:
    for turn, kind in enumerate(("spam", "spam", "ham", "spam")):
        leave(spool, str(turn), f"{kind} {ACCOUNT}\nSubject: a\n\none\n".encode(), turn + 1)
    assert spam_learner.main([]) == 0
    assert read_options(words) == ["-s", "-nS", "-sN"], "and nothing twice"


def test_a_word_list_that_cannot_be_written_is_taught_later(
    spool: Path, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spam_learner, "BOGOFILTER_DONE", (0,))
    (words.parent / "full").touch()
    leave(spool, "a", f"spam {ACCOUNT}\n\n".encode(), 1)
    assert spam_learner.main([]) == 1
    assert [file.name for file in spool.iterdir()] == ["a"]
