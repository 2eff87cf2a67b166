"""What a proof notices: each kind of damage to a restored mailbox, and mail that an archive lacks."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailkeep_server.backup import mail_snapshot, proof
from mailkeep_server.common.backup_archives import Archive

ANNA = "anna@example.org"
STORED = int(datetime(2026, 11, 22, tzinfo=UTC).timestamp())


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "vmail" / "example.org" / "anna"
    for name in ("cur", "new"):
        (home / "Maildir" / name).mkdir(parents=True)
    for number in range(3):
        (home / "Maildir" / "cur" / f"{STORED + number}.host:2,S").write_text(f"message {number}")
    (home / "Maildir" / "dovecot-uidlist").write_text("3 V1 N4 G1\n")
    find_home = mail_snapshot.find_home
    monkeypatch.setattr(mail_snapshot, "find_home", lambda account, root=tmp_path / "vmail": find_home(account, root))
    return home


@pytest.fixture
def restored(live: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "restored"
    shutil.copytree(live, copy)
    return copy


def compare(restored: Path, tmp_path: Path) -> list[str]:
    mail_snapshot.take_snapshot(ANNA, tmp_path / "vmail", tmp_path / "stage")
    manifest = tmp_path / "stage" / "manifest" / f"{ANNA}.jsonl"
    messages, others = [*mail_snapshot.read_messages(manifest)], mail_snapshot.read_others(manifest)
    assert len(messages) == 3
    return [*proof._compare_mailbox(ANNA, restored, messages, others)]


def test_what_comes_back_as_it_was_is_no_fault(restored: Path, tmp_path: Path) -> None:
    assert compare(restored, tmp_path) == []


def test_other_bytes_are_a_fault(restored: Path, tmp_path: Path) -> None:
    (restored / "Maildir" / "cur" / f"{STORED}.host:2,S").write_text("message X")
    assert "other bytes" in compare(restored, tmp_path)[0]


def test_other_flags_are_a_fault(restored: Path, tmp_path: Path) -> None:
    path = restored / "Maildir" / "cur" / f"{STORED}.host:2,S"
    path.rename(path.with_name(f"{STORED}.host:2,"))
    assert "is missing" in compare(restored, tmp_path)[0]


def test_another_list_of_uids_is_a_fault(restored: Path, tmp_path: Path) -> None:
    (restored / "Maildir" / "dovecot-uidlist").write_text("3 V2 N4 G1\n")
    assert "dovecot-uidlist" in compare(restored, tmp_path)[0]


def test_mail_that_came_or_was_deleted_since_is_no_fault(live: Path, restored: Path, tmp_path: Path) -> None:
    mail_snapshot.take_snapshot(ANNA, tmp_path / "vmail", tmp_path / "stage")
    manifest = tmp_path / "stage" / "manifest" / f"{ANNA}.jsonl"
    messages, others = [*mail_snapshot.read_messages(manifest)], mail_snapshot.read_others(manifest)
    (live / "Maildir" / "cur" / f"{STORED}.host:2,S").unlink()
    (live / "Maildir" / "new" / f"{STORED + 9}.host").write_text("later")
    assert [*proof._compare_mailbox(ANNA, restored, messages, others)] == []


def test_a_live_message_with_other_bytes_is_a_fault(live: Path, restored: Path, tmp_path: Path) -> None:
    mail_snapshot.take_snapshot(ANNA, tmp_path / "vmail", tmp_path / "stage")
    manifest = tmp_path / "stage" / "manifest" / f"{ANNA}.jsonl"
    messages = [*mail_snapshot.read_messages(manifest)]
    live_file = live / "Maildir" / "cur" / f"{STORED}.host:2,S"
    live_file.unlink()
    live_file.write_text("message Y")
    assert "differs from the live one" in next(proof._compare_mailbox(ANNA, restored, messages, {}))


@pytest.mark.parametrize(("hours", "count"), [(1, 3), (-1, 0)])
def test_mail_counts_as_lacking_only_if_it_was_there_at_the_archives_time(live: Path, hours: int, count: int) -> None:
    assert live.exists()
    time = datetime.fromtimestamp(STORED, UTC) + timedelta(hours=hours)
    assert proof._count_older(ANNA, Archive("a", time)) == count
