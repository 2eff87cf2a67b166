"""A backup that lacks mail is a failure, and no success with fewer files."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mailkeep_server.backup import mail_snapshot, run
from mailkeep_server.backup.borg import BackupError
from mailkeep_server.backup.config import BackupConfig

ANNA, BEN = "anna@example.org", "ben@example.org"
CONFIG = BackupConfig("mail.example.org", (), 24, (ANNA, BEN), ())


@pytest.fixture
def vmail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Anna has mail, Ben has none."""
    (tmp_path / "example.org/anna/Maildir/cur").mkdir(parents=True)
    (tmp_path / "example.org/anna/Maildir/cur/1.host:2,S").write_text("message")
    find_home = mail_snapshot.find_home
    monkeypatch.setattr(mail_snapshot, "find_home", lambda account: find_home(account, tmp_path))
    monkeypatch.setattr(run, "list_mailboxes", lambda config: [*config.accounts])
    return tmp_path


@pytest.mark.parametrize(("counts", "fault"), [({ANNA: 1}, ""), ({}, f"the copy has no mail of {ANNA}")])
def test_a_copy_without_the_mail_of_an_account_that_has_mail_is_a_failure(
    vmail: Path, monkeypatch: pytest.MonkeyPatch, counts: dict[str, int], fault: str
) -> None:
    assert vmail
    done = subprocess.CompletedProcess((), 0, json.dumps(counts), "")
    monkeypatch.setattr(run.subprocess, "run", lambda *_, **__: done)
    if fault:
        with pytest.raises(RuntimeError, match=fault):
            run.take_snapshots(CONFIG)
    else:
        assert run.take_snapshots(CONFIG) == counts


class Repository:
    def __init__(self, files: int, fault: str = "") -> None:
        self.files, self.fault = files, fault

    def create_archive(self, *_: object) -> dict[str, Any]:
        if self.fault:
            raise BackupError(self.fault)
        return {"archive": {"stats": {"nfiles": self.files}}}


@pytest.mark.parametrize(
    ("repository", "fault"),
    [
        (Repository(7), ""),
        (Repository(6), "the archive holds 6 of 7 files"),
        (Repository(7, "the disk there is full"), "the disk there is full"),
    ],
)
def test_an_archive_that_lacks_a_single_file_is_a_failure(repository: Repository, fault: str) -> None:
    assert run._find_fault(repository, "archive", 7, None) == fault  # type: ignore[arg-type]


def test_a_message_to_several_people_is_one_file(tmp_path: Path) -> None:
    """Dovecot stores it once and links it; so does borg, which counts it once."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first/message").write_text("to both")
    (tmp_path / "second").mkdir()
    (tmp_path / "second/message").hardlink_to(tmp_path / "first/message")
    (tmp_path / "second/link").symlink_to("message")
    (tmp_path / "second/another").write_text("to one")
    assert run.count_files([tmp_path]) == 2


def test_where_nobody_has_mail_there_is_nothing_to_count(tmp_path: Path) -> None:
    assert run.count_files([tmp_path / "never-made"]) == 0
