"""Mail of another IMAP server comes over as it is there; what goes wrong is said in one line."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imap_store import ImapStore

from mailkeep_server.common.folder_names import decode_name, encode_name, find_purpose, place_folder, read_name
from mailkeep_server.common.mail_frames import Arrival
from mailkeep_server.common.message_bytes import digest_content
from mailkeep_server.mail_import import append, dbox_copy, import_session
from mailkeep_server.mail_import.dbox_copy import ChunkReader
from mailkeep_server.mail_import.imap_source import ImapSource, SourceError
from mailkeep_server.mail_import.import_session import ImportSession
from mailkeep_server.mail_import.journal import Journal

ADDRESS = "anna@example.org"
OPEN = {"do": "open", "address": ADDRESS, "source": "imaps://x"}
Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def old() -> ImapStore:
    old = ImapStore(separator="/", password="right")  # noqa: S106
    old.add("INBOX", b"Subject: a\n\n", "\\Seen \\Recent $Forwarded", "14-Jul-2017 04:40:01 +0200")
    old.add("INBOX", b"Subject: b\n\n")
    old.add("INBOX/Gr&APYA3w-e", b"Subject: c\n\n")
    old.add("Other/ben", b"Subject: ben's\n\n")
    old.subscribed = {"INBOX/Gr&APYA3w-e"}
    old.prefix = "INBOX/"
    old.folders["INBOX"].uid_validity = 555
    return old


@pytest.fixture
def new(monkeypatch: pytest.MonkeyPatch) -> ImapStore:
    store = ImapStore()
    monkeypatch.setattr(append, "update_folder", lambda _, folder, *options: store.update(folder, *options))
    return store


@pytest.fixture
def ask(old: ImapStore, new: ImapStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.setattr(import_session.mailboxes, "ROOT", str(tmp_path))
    monkeypatch.setattr(ImapSource, "log_in", classmethod(lambda cls, **_: cls(_connect(old), {})))

    def ask_session(*requests: dict[str, Any]) -> list[dict[str, Any]]:
        reader = io.BytesIO(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
        writer = io.BytesIO()
        ImportSession(reader, writer, lambda _: new.connect(), str(tmp_path / "journals")).serve()
        return [json.loads(line) for line in writer.getvalue().splitlines()]

    return ask_session


def _connect(store: ImapStore) -> Any:
    password, store.password = store.password, ""
    try:
        return store.connect()
    finally:
        store.password = password


def pull(name: str, uids: list[int], folder: str) -> dict[str, Any]:
    return {
        "do": "pull",
        "name": name,
        "uids": uids,
        "prefix": "x/",
        "folder": folder,
        "uid_validity": 555,
        "subscribe": True,
    }


def test_folders_of_another_server_lose_its_prefix(ask: Ask) -> None:
    *_, connected = ask(OPEN, {"do": "connect", "host": "x"})
    assert [(folder["name"], folder["short"], folder["subscribed"]) for folder in connected["folders"]] == [
        ("INBOX", "INBOX", False),
        ("INBOX/Gr&APYA3w-e", "Gr&APYA3w-e", True),
    ]
    assert [folder["messages"] for folder in connected["folders"]] == [2, 1]


def test_messages_come_with_flags_dates_and_uids(ask: Ask, new: ImapStore) -> None:
    *_, done = ask(
        OPEN, {"do": "connect", "host": "x"}, {"do": "scan", "name": "INBOX"}, pull("INBOX", [1, 2], "INBOX")
    )
    assert (done["added"], done["other_uids"], done["uid_validity"]) == (2, 0, 555)
    messages = new.folders["INBOX"].messages
    assert [(message.flags, message.date) for message in messages] == [
        ("\\Seen $Forwarded", "14-Jul-2017 02:40:01 +0000"),
        ("", "01-Jan-2020 00:00:00 +0000"),
    ]
    assert [message.imap_content for message in messages] == [b"Subject: a\r\n\r\n", b"Subject: b\r\n\r\n"]


def test_the_journal_knows_what_has_arrived(ask: Ask) -> None:
    ask(OPEN, {"do": "connect", "host": "x"}, {"do": "scan", "name": "INBOX"}, pull("INBOX", [1], "INBOX"))
    opened, known, done = ask(OPEN, {"do": "known", "folder": "INBOX"})
    assert opened["known"] == 1
    assert known["arrivals"][0][0] == "x/555.1"
    assert done == {"done": True}


def test_nothing_changes_on_the_other_server(ask: Ask, old: ImapStore) -> None:
    ask(OPEN, {"do": "connect", "host": "x"}, {"do": "scan", "name": "INBOX"}, pull("INBOX", [1, 2], "INBOX"))
    words = {command.split()[0] for command in old.commands}
    assert words <= {"CAPABILITY", "LIST", "LSUB", "NAMESPACE", "STATUS", "EXAMINE", "UID"}
    assert not any("STORE" in command or "BODY[" in command for command in old.commands)


@pytest.mark.slow
def test_a_connection_that_ends_is_told_and_what_has_arrived_stays(ask: Ask, old: ImapStore, new: ImapStore) -> None:
    for number in range(600):
        old.add("INBOX", f"Subject: {number}\n\n".encode())
    new.dies_after = 300
    *_, error = ask(OPEN, {"do": "connect", "host": "x"}, pull("INBOX", list(range(1, 603)), "INBOX"))
    assert error["error"] in ("server", "source")
    assert len(new.contents("INBOX")) > 300


def test_a_full_mailbox_is_told(ask: Ask, new: ImapStore) -> None:
    new.max_bytes = 20
    *_, error = ask(
        OPEN, {"do": "connect", "host": "x"}, {"do": "scan", "name": "INBOX"}, pull("INBOX", [1, 2], "INBOX")
    )
    assert error["error"] == "room"


def test_flags_can_be_set_by_uid(ask: Ask, new: ImapStore) -> None:
    new.add("INBOX", b"x\n")
    ask(OPEN, {"do": "store", "folder": "INBOX", "flags": [[1, "key", ["\\Seen", "work", "b)d"]]]})
    assert "UID STORE 1 FLAGS.SILENT (\\Seen work)" in new.commands


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_a_line_of_the_journal_that_a_kill_has_cut_is_left_out(tmp_path: Path, cut: int) -> None:
    journal = Journal(ADDRESS, "x", "INBOX", str(tmp_path))
    journal.note([Arrival(str(number), "d", 1, "", [], 5, number, 0) for number in (1, 2)])
    journal.close()
    [file] = tmp_path.rglob("*.jsonl")
    file.write_bytes(file.read_bytes()[: -1 - cut])
    journal = Journal(ADDRESS, "x", "INBOX", str(tmp_path))
    journal.note([Arrival("3", "d", 1, "", [], 5, 3, 0)])
    journal.close()
    assert {*Journal(ADDRESS, "x", "INBOX", str(tmp_path)).arrivals} == ({"1", "2", "3"} if not cut else {"1", "3"})
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dbox_copy.mailboxes, "ROOT", str(tmp_path))
    monkeypatch.setattr(dbox_copy.shutil, "chown", lambda *_: None)
    return tmp_path


def make_chunks(data: bytes) -> io.BytesIO:
    parts = [data[position : position + 1000] for position in range(0, len(data), 1000)]
    stream = b"".join(b'{"chunk":true,"size":%d}\n' % len(part) + part for part in parts)
    return io.BytesIO(stream + b'{"end":true}\nnext request')


def test_a_dbox_archive_is_unpacked_without_links_and_paths_out_of_it(scratch: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, kind in (("./mailboxes/INBOX/dbox-Mails/u.1", tarfile.REGTYPE), ("./link", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/passwd", 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"abc"))
    stream = make_chunks(data.getvalue())
    (scratch / f".import-{ADDRESS}-killed").mkdir()
    copy = dbox_copy.DboxCopy(ADDRESS, 100)
    copy.unpack(ChunkReader(stream))
    [directory] = scratch.iterdir()
    assert [path.name for path in directory.rglob("*") if not path.is_dir()] == ["u.1"]
    assert stream.read() == b"next request"
    copy.remove()
    assert list(scratch.iterdir()) == []


@pytest.mark.usefixtures("scratch")
def test_an_archive_that_leads_out_of_the_copy_is_refused() -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../escaped"), io.BytesIO())
    with pytest.raises(SourceError):
        dbox_copy.DboxCopy(ADDRESS, 100).unpack(ChunkReader(make_chunks(data.getvalue())))


@pytest.mark.parametrize("name", ["INBOX", "Größe", "日本語", "a&b", "Tom & Jerry", "&", "~x", "😀"])
def test_names_survive_modified_utf_7(name: str) -> None:
    assert decode_name(encode_name(name)) == name


@pytest.mark.parametrize("encoded", ["a&b", "&", "&AAA", "Gr&APY-&AN8-e", "&AGE-", "Größe", "&2D0-"])
def test_names_that_are_not_modified_utf_7_are_taken_as_written(encoded: str) -> None:
    with pytest.raises(ValueError):
        decode_name(encoded)
    assert read_name(encoded.encode())[0] == encoded


@pytest.mark.parametrize(
    ("path", "attributes", "folder"),
    [
        (("Gesendet",), (), "Sent"),
        (("Sent Items",), (), "Sent"),
        (("[Gmail]", "Sent Mail"), (), "Sent"),
        (("[Google Mail]", "Papierkorb"), (), "Trash"),
        (("Odd name",), ("\\HasNoChildren", "\\Junk"), "Junk"),
        (("Entwürfe",), (), "Drafts"),
        (("ENVOYÉS",), (), "Sent"),
        (("Projects", "Sent"), (), "Projects.Sent"),
        (("INBOX",), (), "INBOX"),
        (("Inbox", "a.b"), (), "INBOX.a_b"),
        (("~x", "a/b*", "\x01"), (), "_x.a_b_._"),
    ],
)
def test_folders_have_their_place(path: tuple[str, ...], attributes: tuple[str, ...], folder: str) -> None:
    assert place_folder(path, ".", frozenset(attributes)) == folder
    assert find_purpose(path, frozenset(attributes)) in (folder, "")


def test_what_is_in_another_folder_is_noted_and_not_appended(ask: Ask, new: ImapStore) -> None:
    elsewhere = [digest_content(b"Subject: a\n\n")[0]]
    *_, line, done = ask(
        OPEN,
        {"do": "connect", "host": "x"},
        {"do": "scan", "name": "INBOX"},
        {**pull("INBOX", [1, 2], "All Mail"), "elsewhere": elsewhere},
    )
    assert done["added"] == 1
    assert [arrival[6] for arrival in line["arrivals"]] == [0, 2]
    assert new.contents("All Mail") == [b"Subject: b\r\n\r\n"]


def test_a_full_disk_is_told_although_dovecot_calls_it_an_internal_error(
    ask: Ask, new: ImapStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    new.refusal, new.refuses = b"NO [SERVERBUG] Internal error occurred.", lambda _: True
    requests = [OPEN, {"do": "connect", "host": "x"}, {"do": "scan", "name": "INBOX"}, pull("INBOX", [1, 2], "INBOX")]
    assert ask(*requests)[-1].get("refused"), "two messages, and room"
    monkeypatch.setattr(append, "MAX_FAILURES", 2)
    assert ask(*requests)[-1]["error"] == "server"
    monkeypatch.setattr(import_session, "FULL_INODES", 2**64)
    assert ask(*requests)[-1]["error"] == "room"
