"""An IMAP server's folders for the same purpose, and its views of other folders, come to their places."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from import_bench import ADDRESS, Bench, make_bench

from mailkeep.moving_in import copy_mail
from mailkeep.moving_in.copy_address import parse_source
from mailkeep.moving_in.copy_model import SOURCE_FAILED, CopyError
from mailkeep.moving_in.copy_report import ImportReport
from mailkeep_server.mail_import.imap_source import ImapSource, SourceError

SOURCE = parse_source("imaps://anna@imap.example.net")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return make_bench(tmp_path, monkeypatch)


@contextmanager
def opened(bench: Bench) -> Iterator[copy_mail.MailImport]:
    with bench.connect() as session:
        yield copy_mail.MailImport(session, ADDRESS, SOURCE)


def run(bench: Bench, monkeypatch: pytest.MonkeyPatch, old: Any) -> ImportReport:
    monkeypatch.setattr(ImapSource, "log_in", classmethod(lambda cls, **_: cls(old.connect(), {})))
    with opened(bench) as work:
        return copy_mail.run_import(work, lambda: work.open_imap(SOURCE, "secret", ""), lambda *_: None)


def test_gmails_folders_come_to_ours_and_each_message_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    old = type(bench.store)(separator="/")
    for name, attribute in {"Gesendet": "\\Sent", "Alle": "\\All", "Markiert": "\\Flagged"}.items():
        old.add(f"[Gmail]/{name}", f"Subject: {name}\n\n".encode())
        old.folders[f"[Gmail]/{name}"].attributes = attribute
    old.folders["[Gmail]/Markiert"].messages.clear()
    old.add("INBOX", b"Subject: inbox\n\n", "\\Flagged")
    for content in (b"Subject: inbox\n\n", b"Subject: Gesendet\n\n"):
        old.add("[Gmail]/Alle", content)
    old.add("[Gmail]/Markiert", b"Subject: inbox\n\n")
    for added in (3, 0):
        report = run(bench, monkeypatch, old)
        assert report.differences == []
        assert sum(row.added for row in report.folders) == added
    assert bench.store.contents("Sent") == [b"Subject: Gesendet\r\n\r\n"]
    assert bench.store.contents("[Gmail].Alle") == [b"Subject: Alle\r\n\r\n"]
    assert "[Gmail]/Markiert: a view of messages" in report.notes[0]


def test_uids_are_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    old = type(bench.store)(separator="/")
    for number in range(5):
        old.add("INBOX", f"Subject: {number}\n\n".encode())
    del old.folders["INBOX"].messages[1:3]
    [row] = run(bench, monkeypatch, old).folders
    assert row.uids == "kept"
    assert [message.uid for message in bench.store.folders["INBOX"].messages] == [1, 4, 5]
    assert bench.store.folders["INBOX"].uid_validity == old.folders["INBOX"].uid_validity


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SourceError("Authentication failed.", step="login"), "refuses the login: Authentication failed."),
        (SourceError("timed out", step="connect"), "cannot be reached from the new one: timed out"),
        (SourceError("self-signed", step="certificate", certificate="ab" * 32), "--certificate ab:ab:"),
        (SourceError("gone", step="read"), "stopped in between: gone"),
    ],
)
def test_a_source_that_fails_is_told_with_what_helps(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: SourceError, text: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ImapSource, "log_in", fail)
    with opened(bench) as work, pytest.raises(CopyError) as raised:
        work.open_imap(SOURCE, "secret", "")
    assert raised.value.exit_code == SOURCE_FAILED
    assert text in str(raised.value)
    assert "secret" not in str(raised.value)
