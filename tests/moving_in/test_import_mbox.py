"""An mbox comes over message by message, with its flags and dates, also one that a crash has left."""

import io
import mailbox
from pathlib import Path

import pytest
from import_bench import Bench, make_bench

from mailkeep.moving_in.copy_model import SOURCE_FAILED, CopyError
from mailkeep.moving_in.mbox_format import MboxReader

FROM = b"From anna@example.org Fri Jul 14 02:40:01 2017\n"
EPOCH = 1_500_000_001


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return make_bench(tmp_path, monkeypatch)


def read_all(data: bytes, zone: str = "UTC") -> tuple[list[tuple[bytes, list[str], int, int]], MboxReader]:
    reader = MboxReader(zone)
    messages = [
        (message.content, message.flags, message.date, message.uid)
        for message in reader.read_messages(io.BytesIO(data))
    ]
    return messages, reader


def test_the_lines_of_mail_programs_become_flags_and_uids() -> None:
    data = (
        FROM + b"Subject: a\nX-IMAPbase: 777 9\n work\nX-UID: 5\nStatus: RO\nX-Status: AF\nX-Keywords: work $Junk  \n"
        b"Content-Length: 4\nX-Mine: 1\n\ntext\nStatus: R\n\n" + FROM + b"Subject: b\nStatus: O\n\n>From here\n"
    )
    messages, reader = read_all(data)
    assert messages == [
        (
            b"Subject: a\nX-Mine: 1\n\ntext\nStatus: R\n",
            ["$Junk", "\\Answered", "\\Flagged", "\\Seen", "work"],
            EPOCH,
            5,
        ),
        (b"Subject: b\n\n>From here\n", [], EPOCH, 0),
    ]
    assert reader.uid_validity == 777


@pytest.mark.parametrize(
    ("line", "zone", "date"),
    [
        (b"From a Fri Jul 14 02:40:01 2017", "UTC", EPOCH),
        (b"From a Fri Jul 14 04:40:01 2017", "Europe/Berlin", EPOCH),
        (b"From a Fri Jul 14 04:40:01 2017 +0200", "UTC", EPOCH),
        (b"From a Fri, 14 Jul 2017 02:40:01", "UTC", 0),
        (b"From a b c Fri Jul 14 02:40:01 UTC 2017", "Europe/Berlin", EPOCH),
        (b"From MAILER-DAEMON Fri Jul 14 02:40 2017", "UTC", EPOCH - 1),
        (b"From a Fri Jul 14 02:40:01 2017 remote from x", "Nowhere/Nothing", EPOCH),
    ],
)
def test_dates_of_from_lines(line: bytes, zone: str, date: int) -> None:
    messages, _ = read_all(line + b"\nSubject: a\n\n", zone)
    assert [message[2] for message in messages] == ([date] if date else [])


def test_a_line_of_text_that_begins_with_from_stays_text() -> None:
    data = (
        FROM + b"Subject: a\n\nFrom here on, all is text.\n\nFrom Monday to Friday 2017\n\n" + FROM + b"Subject: b\n\n"
    )
    messages, _ = read_all(data)
    assert [message[0] for message in messages] == [
        b"Subject: a\n\nFrom here on, all is text.\n\nFrom Monday to Friday 2017\n",
        b"Subject: b\n\n"[:-1],
    ]


def test_messages_without_a_blank_line_between_them_are_two() -> None:
    messages, _ = read_all(FROM + b"Subject: a\n\nx\n" + FROM + b"Subject: b\n\ny\n")
    assert [message[0] for message in messages] == [b"Subject: a\n\nx\n", b"Subject: b\n\ny\n"]


def test_what_a_crash_leaves_is_no_part_of_a_message() -> None:
    data = b"garbage\n\n" + FROM + b"Subject: a\n\nx\n\n" + b"\0" * 100 + FROM + b"Subject: b\n\nhalf a li"
    messages, reader = read_all(data)
    assert [message[0] for message in messages] == [b"Subject: a\n\nx\n", b"Subject: b\n\nhalf a li"]
    assert (reader.leading, reader.nul_bytes) == (7, 100)


def test_the_record_of_uw_imap_is_no_message() -> None:
    data = (
        (FROM + b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\nX-IMAP: 1234 5\nStatus: RO\n\nx\n\n")
        + FROM
        + b"Subject: a\n\n"
    )
    messages, reader = read_all(data)
    assert len(messages) == 1
    assert reader.uid_validity == 1234


def test_pythons_own_mbox_is_read_as_python_reads_it(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "box")
    for number in range(50):
        message = mailbox.mboxMessage(f"Subject: {number}\n\nFrom me\n\n\nto you {number}\n")
        message.set_flags("RA" if number % 2 else "F")
        box.add(message)
    box.flush()
    messages, _ = read_all((tmp_path / "box").read_bytes())
    assert len(messages) == 50
    assert messages[1][1] == ["\\Answered", "\\Seen"]
    assert messages[1][0] == b"Subject: 1\n\n>From me\n\n\nto you 1\n"


@pytest.mark.slow
def test_one_file_is_the_inbox_and_a_rerun_takes_what_is_new(bench: Bench) -> None:
    file = bench.directory / "anna"
    first = FROM + b"Subject: a\nStatus: RO\n\nx\n\n" + FROM + b"Subject: a\n\nx\n\n"
    file.write_bytes(first)
    assert bench.run(file).differences == []
    file.write_bytes(first + FROM + b"Message-ID: <new@x>\nSubject: new\n\ny\n")
    report = bench.run(file)
    assert report.differences == []
    [row] = report.folders
    assert (row.folder, row.added, row.known) == ("INBOX", 1, 2)
    assert [message.flags for message in bench.store.folders["INBOX"].messages] == ["\\Seen", "", ""]


def test_uids_of_an_mbox_are_kept(bench: Bench) -> None:
    file = bench.directory / "anna"
    file.write_bytes(
        FROM + b"Subject: a\nX-IMAPbase: 777 9\nX-UID: 3\n\nx\n\n" + FROM + b"Subject: b\nX-UID: 8\n\nx\n\n"
    )
    [row] = bench.run(file).folders
    assert row.uids == "kept"
    assert [message.uid for message in bench.store.folders["INBOX"].messages] == [3, 8]


@pytest.mark.slow
def test_a_directory_of_mboxes_with_other_files(bench: Bench) -> None:
    (bench.directory / "work" / ".imap").mkdir(parents=True)
    (bench.directory / "Sent Items").write_bytes(FROM + b"Subject: s\n\nx\n")
    (bench.directory / "work" / "R&AOk-sum&AOk-").write_bytes(FROM + b"Subject: r\n\nx\n")
    (bench.directory / "work" / ".imap" / "dovecot.index").write_bytes(b"From ")
    (bench.directory / "photo.jpg").write_bytes(b"\xff\xd8")
    (bench.directory / "empty").write_bytes(b"")
    planned = bench.run(dry_run=True).planned
    assert [(row["folder"], row["messages"]) for row in planned] == [("Sent Items", 1), ("work/Résumé", 1)]
    report = bench.run()
    assert report.differences == []
    assert {row.folder: row.target for row in report.folders} == {"Sent Items": "Sent", "work/Résumé": "work.Résumé"}
    assert report.notes == ["1 files do not begin as an mbox does, and are left alone: photo.jpg."]


def test_a_file_that_is_no_mbox_is_told(bench: Bench) -> None:
    file = bench.directory / "anna"
    file.write_bytes(b"\x7fELF" * 100)
    with pytest.raises(CopyError, match="no mbox, or its beginning is broken") as raised:
        bench.run(file)
    assert raised.value.exit_code == SOURCE_FAILED


def test_a_directory_without_mail_is_told(bench: Bench) -> None:
    (bench.directory / "notes.txt").write_text("x")
    with pytest.raises(CopyError, match="holds no mail that Mailkeep knows"):
        bench.run()
