"""The copy of a mailbox has each message once, whatever Dovecot does meanwhile, and says so in its manifest."""

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailkeep_server.backup import mail_snapshot

ANNA = "anna@example.org"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "vmail"


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return tmp_path / "vmail" / ".backup"


def fill_mailbox(root: Path, messages: int = 3) -> Path:
    maildir = root / "example.org" / "anna" / "Maildir"
    for folder in ("", ".Archive"):
        for name in ("cur", "new", "tmp"):
            (maildir / folder / name).mkdir(parents=True)
    for number in range(messages):
        (maildir / "cur" / f"{number}.host,S=9:2,S").write_text(f"message {number}")
    (maildir / "new" / "new.host").write_text("a new one")
    (maildir / "tmp" / "unfinished").write_text("half a mess")
    (maildir / "dovecot-uidlist").write_text("3 V1 N9 G1\n1 :0.host,S=9\n")
    (maildir / "dovecot.index.log").write_text("index")
    (maildir / "subscriptions").write_text("V\t2\n\nArchive\n")
    (maildir.parent / ".dovecot.sieve").write_text("keep;\n")
    (maildir.parent / ".dovecot.svbin").write_text("compiled")
    return maildir


def list_copy(stage: Path) -> dict[str, bytes]:
    home = stage / "mail" / "example.org" / "anna"
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_the_copy_has_messages_uids_subscriptions_and_scripts_and_nothing_that_dovecot_makes_anew(
    root: Path, stage: Path
) -> None:
    fill_mailbox(root)
    assert mail_snapshot.take_snapshot(ANNA, root, stage) == 4
    assert set(list_copy(stage)) == {
        *(f"Maildir/cur/{number}.host,S=9:2,S" for number in range(3)),
        "Maildir/new/new.host",
        "Maildir/dovecot-uidlist",
        "Maildir/subscriptions",
        ".dovecot.sieve",
    }


def test_the_manifest_has_the_digest_of_each_message_and_of_the_other_files(root: Path, stage: Path) -> None:
    fill_mailbox(root)
    mail_snapshot.take_snapshot(ANNA, root, stage)
    manifest = stage / "manifest" / f"{ANNA}.jsonl"
    messages = {message.path: message for message in mail_snapshot.read_messages(manifest)}
    message = messages["Maildir/cur/1.host,S=9:2,S"]
    assert (message.size, message.sha256) == (9, hashlib.sha256(b"message 1").hexdigest())
    assert mail_snapshot.read_others(manifest)[".dovecot.sieve"] == hashlib.sha256(b"keep;\n").hexdigest()
    assert len(messages) == 4


def test_the_copy_has_the_scripts_of_managesieve_and_which_is_active(root: Path, stage: Path) -> None:
    home = fill_mailbox(root).parent
    (home / ".dovecot.sieve").unlink()
    (home / "sieve" / "tmp").mkdir(parents=True)
    for name in ("rules.sieve", "away.sieve", "rules.svbin"):
        (home / "sieve" / name).write_text(f"# {name}")
    (home / ".dovecot.sieve").symlink_to("sieve/rules.sieve")
    mail_snapshot.take_snapshot(ANNA, root, stage)
    copy = stage / "mail" / "example.org" / "anna"
    assert str((copy / ".dovecot.sieve").readlink()) == "sieve/rules.sieve"
    assert {path.name for path in (copy / "sieve").iterdir()} == {"rules.sieve", "away.sieve"}
    others = mail_snapshot.read_others(stage / "manifest" / f"{ANNA}.jsonl")
    assert others[".dovecot.sieve"] == others["sieve/rules.sieve"] == hashlib.sha256(b"# rules.sieve").hexdigest()


@pytest.mark.parametrize("target", ["sieve/gone.sieve", "/etc/shadow", "../ben/sieve/rules.sieve", "sieve/../x.sieve"])
def test_no_link_that_leads_elsewhere_is_copied(root: Path, stage: Path, target: str) -> None:
    home = fill_mailbox(root).parent
    (home / ".dovecot.sieve").unlink()
    (home / ".dovecot.sieve").symlink_to(target)
    mail_snapshot.take_snapshot(ANNA, root, stage)
    assert not (stage / "mail" / "example.org" / "anna" / ".dovecot.sieve").is_symlink()


def test_empty_folders_are_in_the_copy(root: Path, stage: Path) -> None:
    fill_mailbox(root)
    mail_snapshot.take_snapshot(ANNA, root, stage)
    assert (stage / "mail/example.org/anna/Maildir/.Archive/cur").is_dir()


def test_a_second_copy_follows_flags_moves_and_deletions_and_reads_no_message_again(
    root: Path, stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maildir = fill_mailbox(root)
    mail_snapshot.take_snapshot(ANNA, root, stage)
    (maildir / "cur/0.host,S=9:2,S").rename(maildir / "cur/0.host,S=9:2,FS")
    (maildir / "cur/1.host,S=9:2,S").rename(maildir / ".Archive/cur/1.host,S=9:2,S")
    (maildir / "cur/2.host,S=9:2,S").unlink()
    hashed: list[str] = []
    hash_file = mail_snapshot.hash_file
    monkeypatch.setattr(mail_snapshot, "hash_file", lambda path: hashed.append(path.name) or hash_file(path))
    assert mail_snapshot.take_snapshot(ANNA, root, stage) == 3
    messages = {path for path in list_copy(stage) if "/cur/" in path or "/new/" in path}
    assert messages == {
        "Maildir/cur/0.host,S=9:2,FS",
        "Maildir/.Archive/cur/1.host,S=9:2,S",
        "Maildir/new/new.host",
    }
    # A message in another folder is another one. Of the rest, the manifest knows the digests.
    assert sorted(name for name in hashed if ".host" in name) == ["1.host,S=9:2,S"]


class BusyClient(threading.Thread):
    """Flags and moves messages until `stop`. It takes none away."""

    def __init__(self, maildir: Path) -> None:
        super().__init__()
        self.maildir, self.stop, self.rounds = maildir, threading.Event(), 0

    def run(self) -> None:
        folders = [self.maildir / "cur", self.maildir / ".Archive" / "cur"]
        while not self.stop.is_set():
            for source, target in (folders, reversed(folders)):
                for path in sorted(source.iterdir())[:20]:
                    base, _, flags = path.name.partition(":2,")
                    path.rename(target / f"{base}:2,{'' if flags else 'S'}")
            self.rounds += 1


@pytest.fixture
def busy_client(root: Path) -> Iterator[BusyClient]:
    client = BusyClient(fill_mailbox(root, messages=300))
    client.start()
    yield client
    client.stop.set()
    client.join()


@pytest.mark.slow
def test_no_message_is_missing_or_twice_while_a_client_moves_and_flags_them(
    root: Path, stage: Path, busy_client: BusyClient
) -> None:
    mail_snapshot.take_snapshot(ANNA, root, stage)
    assert busy_client.rounds
    contents = sorted(content for path, content in list_copy(stage).items() if "/cur/" in path)
    assert len(set(contents)) == 300, "a message is missing"
    manifest = [*mail_snapshot.read_messages(stage / "manifest" / f"{ANNA}.jsonl")]
    assert {message.path for message in manifest} == {p for p in list_copy(stage) if "/cur/" in p or "/new/" in p}


@pytest.mark.parametrize(("is_deleted", "expected"), [(False, 4), (True, 3)])
def test_a_message_that_is_seen_once_is_in_the_copy_unless_it_was_deleted(
    root: Path, stage: Path, monkeypatch: pytest.MonkeyPatch, is_deleted: bool, expected: int
) -> None:
    """It moves between folders so that each later pass reads them at the wrong moment."""
    maildir, passes, list_messages = fill_mailbox(root), [0], mail_snapshot.list_messages

    def miss_message(home: Path) -> dict[str, str]:
        messages = list_messages(home)
        passes[0] += 1
        if passes[0] > 1:
            messages.pop("Maildir/0.host,S=9", None)
        elif is_deleted:
            (maildir / "cur/0.host,S=9:2,S").unlink()
            return messages | {"Maildir/0.host,S=9": "Maildir/cur/0.host,S=9:2,S"}
        return messages

    monkeypatch.setattr(mail_snapshot, "list_messages", miss_message)
    assert mail_snapshot.take_snapshot(ANNA, root, stage) == expected


def test_an_account_without_a_mailbox_has_no_messages_and_no_manifest(root: Path, stage: Path) -> None:
    root.mkdir()
    assert mail_snapshot.take_snapshot(ANNA, root, stage) == 0
    assert not (stage / "manifest" / f"{ANNA}.jsonl").exists()


def test_links_are_not_followed(root: Path, stage: Path, tmp_path: Path) -> None:
    maildir = fill_mailbox(root)
    (tmp_path / "secret").write_text("secret")
    (maildir / "cur" / "planted:2,S").symlink_to(tmp_path / "secret")
    (maildir / ".Planted").symlink_to(tmp_path)
    mail_snapshot.take_snapshot(ANNA, root, stage)
    assert b"secret" not in list_copy(stage).values()


def test_copies_of_accounts_that_are_gone_are_removed(root: Path, stage: Path) -> None:
    fill_mailbox(root)
    mail_snapshot.take_snapshot(ANNA, root, stage)
    mail_snapshot.remove_others([], stage)
    assert list_copy(stage) == {}
    assert os.listdir(stage / "manifest") == []  # noqa: PTH208
