"""The operator's borg deletes nothing by dates that are wrong, nor for another server; its faults are clear."""

import json
from pathlib import Path

import pytest

from mailkeep.errors import UserError
from mailkeep.operate.backup_pruning import OperatorsBorg
from mailkeep.settings.sections import BackupTarget, Keep

TARGET = BackupTarget.model_validate(
    {
        "name": "offsite",
        "host": "backup.example.net",
        "path": "/home/mailkeep/mail",
        "host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEB1Z29vZGV4YW1wbGVrZXlmb3Jkb2N1bWVudGF0",
    }
)
FAKE = """#!/bin/sh
echo "$*" >> {directory}/calls
cat {directory}/messages >&2
cat {directory}/archives.json
exit {code}
"""


def write_borg(directory: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0, messages: str = "") -> OperatorsBorg:
    names = {
        "mail.example.org-20261127T030000Z": "2026-11-27T03:00:00.000000",
        "mail.example.org-20261128T030000Z.checkpoint": "2026-11-28T03:00:00.000000",
        "mail.example.org-two.example-20261128T030000Z": "2026-11-28T03:00:00.000000",
    }
    archives = [{"archive": name, "start": start} for name, start in names.items()]
    (directory / "archives.json").write_text(json.dumps({"archives": archives}))
    (directory / "messages").write_text(messages)
    for program in ("borg", "ssh"):
        (directory / program).write_text(FAKE.format(directory=directory, code=code))
        (directory / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return OperatorsBorg(TARGET, "not to be shown")


def test_only_whole_archives_of_this_server_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    borg = write_borg(tmp_path, monkeypatch)
    assert [archive.name for archive in borg.list_archives("mail.example.org")] == ["mail.example.org-20261127T030000Z"]


def test_only_archives_of_this_server_are_deleted_and_no_secret_is_an_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_borg(tmp_path, monkeypatch).prune(Keep(), "mail.example.org")
    prune, compact = (tmp_path / "calls").read_text().splitlines()
    assert f"--glob-archives=mail.example.org-{'[0-9]' * 8}T{'[0-9]' * 6}Z " in prune
    assert "--keep-daily=7 --keep-weekly=5 --keep-monthly=12" in prune
    assert " compact " in compact
    assert "not to be shown" not in prune + compact


def log_message(text: str, msgid: str = "") -> str:
    return f"{json.dumps({'type': 'log_message', 'levelname': 'ERROR', 'message': text, 'msgid': msgid})}\n"


@pytest.mark.parametrize(
    ("code", "messages", "text", "hint"),
    [
        (73, log_message("Failed to create", "LockTimeout"), "borg break-lock /home/mailkeep/mail", False),
        (52, log_message("incorrect", "PassphraseWrong"), "the passphrase is wrong", False),
        (83, log_message("not allowed", "PathNotAllowed"), "not allowed", True),
        (
            255,
            f"Permission denied (publickey).\n{log_message('Closed', 'ConnectionClosedWithHint')}",
            "Permission denied (publickey)",
            True,
        ),
    ],
)
def test_a_fault_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, messages: str, text: str, hint: bool
) -> None:
    """Only one of the connection is about the operator's SSH key."""
    with pytest.raises(UserError) as raised:
        write_borg(tmp_path, monkeypatch, code, messages).list_archives("mail.example.org")
    assert text in str(raised.value)
    assert ("Your own SSH key must let you in as" in str(raised.value)) == hint
    assert len(str(raised.value)) < 500
