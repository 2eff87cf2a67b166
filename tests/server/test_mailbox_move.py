"""A mailbox that moves to another address keeps its files, and takes what came to the new address meanwhile."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailkeep_server import mailbox_move


def add_message(home: Path, name: str, folder: str = "", state: str = "cur") -> None:
    for kind in ("cur", "new", "tmp"):
        (home / "Maildir" / folder / kind).mkdir(parents=True, exist_ok=True)
    (home / "Maildir" / folder / state / name).write_text(name)


def list_messages(home: Path) -> list[str]:
    paths = (home / "Maildir").rglob("*")
    return sorted(str(path.relative_to(home / "Maildir")) for path in paths if path.parent.name in ("cur", "new"))


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path]:
    old = mailbox_move.find_home("anna@example.org", str(tmp_path))
    add_message(old, "1:2,S")
    add_message(old, "2", ".Sent")
    (old / "Maildir" / "dovecot-uidlist").write_text("UIDs")
    return old, mailbox_move.find_home("ann@club.example.net", str(tmp_path))


def test_a_mailbox_moves_whole_with_its_uids(homes: tuple[Path, Path]) -> None:
    old, new = homes
    old.parent.chmod(0o700)
    assert mailbox_move.move_mailbox(old, new) == 0
    assert list_messages(new) == [".Sent/cur/2", "cur/1:2,S"]
    assert (new / "Maildir" / "dovecot-uidlist").read_text() == "UIDs"
    assert not old.exists()
    assert new.parent.stat().st_mode & 0o777 == 0o700
    assert mailbox_move.move_mailbox(old, new) == 0


def test_what_came_to_the_new_address_meanwhile_is_in_it(homes: tuple[Path, Path]) -> None:
    old, new = homes
    add_message(new, "3", state="new")
    add_message(new, "4", ".Sent")
    add_message(new, "5", ".Work")
    (new / "Maildir" / "dovecot-uidlist").write_text("others")
    assert mailbox_move.move_mailbox(old, new) == 3
    assert list_messages(new) == [".Sent/cur/2", ".Sent/cur/4", ".Work/cur/5", "cur/1:2,S", "new/3"]
    assert (new / "Maildir" / "dovecot-uidlist").read_text() == "UIDs"
    assert [path.name for path in new.parent.iterdir()] == [new.name]


def test_a_move_that_was_interrupted_goes_on(homes: tuple[Path, Path]) -> None:
    old, new = homes
    aside = new.with_name(f"{new.name}.before-rename1")
    add_message(aside, "3")
    add_message(new, "4")
    assert mailbox_move.move_mailbox(old, new) == 2
    assert list_messages(new) == [".Sent/cur/2", "cur/1:2,S", "cur/3", "cur/4"]


def test_scripts_of_which_none_is_active_are_not_lost(homes: tuple[Path, Path]) -> None:
    old, new = homes
    (new / "sieve").mkdir(parents=True)
    (new / "sieve" / "away.sieve").write_text("keep;")
    mailbox_move.move_mailbox(old, new)
    (aside,) = new.parent.glob("*.before-rename*")
    assert (aside / "sieve" / "away.sieve").read_text() == "keep;"


def test_nothing_is_lost_where_names_are_the_same_or_a_script_is_there(homes: tuple[Path, Path]) -> None:
    old, new = homes
    add_message(new, "1:2,S")
    (new / ".dovecot.sieve").write_text("keep;")
    with pytest.raises(FileExistsError):
        mailbox_move.move_mailbox(old, new)
    (aside,) = new.parent.glob("*.before-rename*")
    assert (aside / "Maildir" / "cur" / "1:2,S").exists()
    (aside / "Maildir" / "cur" / "1:2,S").unlink()
    assert mailbox_move.move_mailbox(old, new) == 0
    assert (aside / ".dovecot.sieve").read_text() == "keep;"


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Other users can reach it, unlike pytest's."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_planted_link_moves_nothing_that_the_user_of_mailboxes_cannot_write(open_directory: Path) -> None:
    """Whoever has become that user could else have root move a file into a directory of root's."""
    root, target = open_directory / "vmail", open_directory / "sudoers.d"
    old, new = mailbox_move.find_home("anna@example.org", str(root)), mailbox_move.find_home("b@example.org", str(root))
    add_message(old, "1")
    add_message(new.with_name("b.before-rename1"), "everybody")
    target.mkdir()
    shutil.rmtree(old / "Maildir" / "cur")
    (old / "Maildir" / "cur").symlink_to(target)
    for path in (root, *root.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    with pytest.raises(PermissionError), mailbox_move.act_as("nobody"):
        mailbox_move.move_mailbox(old, new)
    assert [*target.iterdir()] == []
    assert (os.geteuid(), os.getegid()) == (0, os.getgid())
    assert not old.exists()


def test_what_was_taught_moves_along_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    for account, words in (("old@example.org", "many"), ("new@example.org", "few")):
        (tmp_path / account).mkdir()
        (tmp_path / account / "wordlist.db").write_text(words)
    for _ in range(2):
        mailbox_move.move_words("old@example.org", "new@example.org", tmp_path)
        assert (tmp_path / "new@example.org" / "wordlist.db").read_text() == "many"
        assert not (tmp_path / "old@example.org").exists()
