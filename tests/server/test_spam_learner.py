"""What people move is taught to the filter, one message after the other, and waits if it cannot be."""

import os
import time
from pathlib import Path

import pytest

from mailkeep_server import spam_learner

ACCOUNT = "anna@example.org"
MAX_BYTES = ["100"]
DAY = 24 * 60 * 60


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


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setattr(spam_learner, "find_home", lambda account: home / account)
    directory = home / ACCOUNT / "Maildir" / "cur"
    directory.mkdir(parents=True)
    return directory


def keep(inbox: Path, name: str, content: bytes, days: float) -> None:
    (inbox / name).write_bytes(content)
    os.utime(inbox / name, (0, time.time() - days * DAY))


def teach(spool: Path, *lessons: str) -> None:
    """Each lesson: `spam` or `ham`, and the subject."""
    for turn, lesson in enumerate(lessons):
        kind, _, subject = lesson.partition(" ")
        leave(spool, str(turn), f"{kind} {ACCOUNT}\nSubject: {subject}\r\n\r\n".encode(), turn + 1)
    assert spam_learner.main(MAX_BYTES) == 0


def leave(spool: Path, name: str, content: bytes, at: int) -> None:
    (spool / name).write_bytes(content)
    os.utime(spool / name, ns=(at, at))


def test_copies_are_learned_in_the_order_of_the_moves(spool: Path, words: Path) -> None:
    leave(spool, "b", b"ham anna@example.org\nSubject: b\n\ntwo\n", 2)
    leave(spool, "a", b"spam anna@example.org\nSubject: a\n\none\n", 1)
    leave(spool, "c", b"rm anna@example.org\n\n", 3)
    assert spam_learner.main(MAX_BYTES) == 0
    assert read_options(words) == ["-s", "-n"]
    assert (words.parent / "lessons").read_bytes() == b"Subject: a\n\none\nSubject: b\n\ntwo\n"
    assert [*spool.iterdir()] == []


def test_the_verdict_is_no_word_of_the_message(spool: Path, words: Path) -> None:
    body = b"\r\n\r\nX-Mailkeep-Spam: in the text\r\n"
    verdict = b"x-mailkeep-spam: probably spam, 9.9 points:\r\n its words casino\r\n"
    leave(spool, "a", b"spam anna@example.org\n" + verdict + b"Subject: a\r\n" + verdict + b"To: b" + body, 1)
    assert spam_learner.main(MAX_BYTES) == 0
    assert (words.parent / "lessons").read_bytes() == b"Subject: a\r\nTo: b" + body


def read_options(words: Path) -> list[str]:
    return [line.split()[-1] for line in (words.parent / "calls").read_text().splitlines()]


def test_who_changes_their_mind_unlearns(spool: Path, words: Path) -> None:
    for turn, kind in enumerate(("spam", "spam", "ham", "spam")):
        leave(spool, str(turn), f"{kind} {ACCOUNT}\nSubject: a\n\none\n".encode(), turn + 1)
    assert spam_learner.main(MAX_BYTES) == 0
    assert read_options(words) == ["-s", "-nS", "-sN"], "and nothing twice"


def test_a_word_list_that_cannot_be_written_is_taught_later(
    spool: Path, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spam_learner, "BOGOFILTER_DONE", (0,))
    (words.parent / "full").touch()
    leave(spool, "a", f"spam {ACCOUNT}\n\n".encode(), 1)
    assert spam_learner.main(MAX_BYTES) == 1
    assert [file.name for file in spool.iterdir()] == ["a"]


# --- what is kept


def test_for_each_spam_two_messages_are_learned_that_were_read_and_kept(spool: Path, words: Path, inbox: Path) -> None:
    for age in range(2, 9):
        keep(inbox, f"{age}:2,S", f"Subject: {age} days\n\n".encode(), age)
    keep(inbox, "unread:2,F", b"Subject: unread\n\n", 1.5)
    keep(inbox, "deleted:2,ST", b"Subject: deleted\n\n", 1.5)
    keep(inbox, "new:2,S", b"Subject: new\n\n", 0.5)
    teach(spool, "spam a")
    assert read_subjects(words) == ["a", "2 days", "3 days"], "the newest first"
    assert read_options(words) == ["-s", "-n", "-n"]
    teach(spool, "spam a")
    teach(spool, "ham b", "ham c")
    assert read_subjects(words)[3:] == ["b", "c"], "nothing more, as there is enough"
    teach(spool, "spam d", "spam e")
    assert read_subjects(words)[5:] == ["d", "e", "4 days", "5 days"]


def test_folders_in_which_people_keep_mail_count_as_the_inbox_does(spool: Path, words: Path, inbox: Path) -> None:
    """Modified UTF-7 is for `Gelöscht`. An inbox may always be empty."""
    spam = (".Junk", ".Archive.Junk", ".Old Spam", ".Roskaposti", ".Bulk 2026-11-29")
    not_kept = (*spam, ".Trash", ".Sent", ".Sent.2025", ".Gel&APY-scht")
    for age, folder in enumerate((".Lists.debian", *not_kept, ".Archive"), 2):
        directory = inbox.parent.with_name("Maildir") / folder / "cur"
        directory.mkdir(parents=True)
        keep(directory, "1:2,S", f"Subject: {folder}\n\n".encode(), age)
    teach(spool, "spam a", "spam b")
    assert read_subjects(words) == ["a", "b", ".Lists.debian", ".Archive"]


def test_what_cannot_be_read_teaches_nothing_and_stops_nothing(spool: Path, words: Path, inbox: Path) -> None:
    (inbox / "directory:2,S").mkdir()
    os.utime(inbox / "directory:2,S", (0, 0))
    (inbox / "gone:2,S").symlink_to(inbox / "nowhere")
    keep(inbox, "keyword:2,RSac", b"Subject: with a keyword\n\n", 3)
    teach(spool, "spam a")
    assert read_subjects(words) == ["a", "with a keyword"]


def read_subjects(words: Path) -> list[str]:
    lessons = (words.parent / "lessons").read_text().splitlines()
    return [line.removeprefix("Subject: ") for line in lessons if line]


def test_what_was_kept_is_unlearned_when_it_is_moved_into_junk(spool: Path, words: Path, inbox: Path) -> None:
    """Dovecot's script has CRLF, and the beginning of a long message."""
    verdict, text = b"X-Mailkeep-Spam: not spam\n and why\n", b"Subject: kept\n\n" + 99 * b"x\n"
    keep(inbox, "1:2,S", verdict + text, 2)
    teach(spool, "spam a")
    leave(spool, "b", f"spam {ACCOUNT}\n".encode() + (verdict + text).replace(b"\n", b"\r\n")[:100], 1)
    assert spam_learner.main(MAX_BYTES) == 0
    assert read_options(words) == ["-s", "-n", "-sN"]


def test_what_was_taught_as_spam_is_not_learned_from_a_copy_that_was_kept(
    spool: Path, words: Path, inbox: Path
) -> None:
    keep(inbox, "1:2,S", b"Subject: a\n\n", 2)
    teach(spool, "spam a")
    assert read_options(words) == ["-s"]


def test_of_a_large_inbox_the_newest_messages_are_looked_at(
    spool: Path, words: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spam_learner, "MAX_KEPT", 1)
    for age in (2, 3):
        keep(inbox, f"{age}:2,S", f"Subject: {age} days\n\n".encode(), age)
    teach(spool, "spam a")
    assert read_subjects(words) == ["a", "2 days"]
