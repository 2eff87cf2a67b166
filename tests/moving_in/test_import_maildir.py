"""A Maildir comes over with its folders, flags, keywords, dates and UIDs, once, and what is odd in it is told."""

import gzip
import os
from pathlib import Path

import pytest
from import_bench import ADDRESS, Bench, make_bench

from mailkeep.moving_in import copy_mail
from mailkeep.moving_in.copy_address import parse_source
from mailkeep.moving_in.copy_host import OldHost
from mailkeep.moving_in.copy_maildir import read_subscriptions, read_uid_list, split_directory, split_flags
from mailkeep.moving_in.copy_model import NO_ROOM, SOURCE_FAILED, CopyError, Source


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return make_bench(tmp_path, monkeypatch)


def write_message(folder: Path, name: str, content: bytes, date: int = 1_600_000_000) -> None:
    for kind in ("cur", "new", "tmp"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    file = folder / ("cur" if ":2," in name else "new") / name
    file.write_bytes(content)
    os.utime(file, (date, date))


def write_maildir(directory: Path) -> None:
    write_message(directory, "1.a.host:2,RS", b"Message-ID: <1@x>\nSubject: one\n\n1\n", 1_500_000_001)
    write_message(directory, "2.b.host:2,Sab", b"Subject: two\r\n\r\n2\r\n", 1_500_000_002)
    write_message(directory, "3.c.host", b"Subject: three\n\n3\n", 1_500_000_003)
    write_message(directory / ".Gesendet", "4.d.host:2,S", b"Subject: sent\n\n")
    write_message(directory / ".Sent", "5.e.host:2,S", b"Subject: sent too\n\n")
    write_message(directory / ".Gr&APYA3w-e.2020", "6.f.host:2,S", b"Subject: deep\n\n")
    (directory / "dovecot-uidlist").write_bytes(b"3 V777 N12 Gabc\n5 W20 :1.a.host\n9 :2.b.host:2,S\n11 :3.c.host\n")
    (directory / "dovecot-keywords").write_bytes(b"0 $Forwarded\n1 work\n")
    (directory / "subscriptions").write_bytes(b"V\t2\n\nSent\nGesendet\n")
    (directory / "dovecot.index").write_bytes(b"x")
    (directory / "cur" / "dovecot.index.log").write_bytes(b"x")


def test_all_that_a_maildir_has_comes_over(bench: Bench) -> None:
    write_maildir(bench.directory)
    report = bench.run()
    assert report.differences == []
    inbox = bench.store.folders["INBOX"]
    assert inbox.uid_validity == 777
    assert [(m.uid, m.flags, m.content[:12]) for m in inbox.messages] == [
        (5, "\\Seen \\Answered", b"Message-ID: "),
        (9, "\\Seen $Forwarded work", b"Subject: two"),
        (11, "", b"Subject: thr"),
    ]
    assert inbox.messages[0].date == "14-Jul-2017 02:40:01 +0000"
    assert bench.store.contents("Sent") == [b"Subject: sent\n\n", b"Subject: sent too\n\n"]
    assert bench.store.contents("Gr&APYA3w-e.2020") == [b"Subject: deep\n\n"]
    assert bench.store.subscribed == {"Sent"}
    assert [(row.folder, row.target, row.uids) for row in report.folders] == [
        ("Gesendet", "Sent", "none there"),
        ("Sent", "Sent", "none there"),
        ("Größe/2020", "Größe.2020", "none there"),
        ("INBOX", "INBOX", "kept"),
    ]
    assert "1 files between the messages are no mail" in report.notes[0]


@pytest.mark.slow
def test_run_twice_nothing_is_copied_twice_and_nothing_read_twice(bench: Bench) -> None:
    write_maildir(bench.directory)
    bench.run()
    bench.progress.clear()
    write_message(bench.directory, "7.g.host:2,", b"Subject: new\n\n")
    report = bench.run()
    assert report.differences == []
    assert {row.folder: (row.added, row.known) for row in report.folders} == {
        "INBOX": (1, 3),
        "Gesendet": (0, 1),
        "Sent": (0, 1),
        "Größe/2020": (0, 1),
    }
    assert len(bench.progress) == 1


@pytest.mark.slow
@pytest.mark.parametrize("dies_after", [0, 1, 255, 300, 599])
def test_killed_anywhere_the_next_run_completes_it(bench: Bench, dies_after: int) -> None:
    for number in range(600):
        write_message(
            bench.directory, f"{number}.x.host:2,S", f"Subject: {number}\n\n".encode(), 1_500_000_000 + number
        )
    bench.store.dies_after = dies_after
    with pytest.raises(CopyError, match="goes on from there"):
        bench.run()
    bench.store.dies_after = -1
    report = bench.run()
    assert report.differences == []
    assert len(bench.store.contents("INBOX")) == len({*bench.store.contents("INBOX")}) == 600


@pytest.mark.slow
def test_without_a_journal_the_hashes_tell_what_is_here(bench: Bench) -> None:
    write_maildir(bench.directory)
    bench.run()
    for file in bench.journals.rglob("*.jsonl"):
        file.unlink()
    report = bench.run()
    assert sum(row.added for row in report.folders) == 0
    assert report.differences == []


def test_two_equal_messages_stay_two(bench: Bench) -> None:
    write_message(bench.directory, "1.a.host:2,S", b"Subject: twin\n\n")
    write_message(bench.directory, "2.b.host:2,S", b"Subject: twin\n\n")
    assert bench.run().differences == []
    assert bench.run().differences == []
    assert len(bench.store.contents("INBOX")) == 2


@pytest.mark.slow
def test_what_the_owner_has_deleted_here_is_told_and_does_not_come_back(bench: Bench) -> None:
    write_maildir(bench.directory)
    bench.run()
    bench.store.folders["INBOX"].messages.pop(0)
    report = bench.run()
    assert [(item.kind, item.message) for item in report.differences] == [("gone", "<1@x>")]
    assert len(bench.store.contents("INBOX")) == 2


@pytest.mark.slow
def test_flags_that_the_old_server_has_changed_since_come_over_unless_they_changed_here(bench: Bench) -> None:
    write_maildir(bench.directory)
    bench.run()
    for name in ("1.a.host:2,RS", "2.b.host:2,Sab"):
        file = bench.directory / "cur" / name
        file.rename(file.with_name(f"{name.partition(':')[0]}:2,FS"))
    bench.store.folders["INBOX"].messages[1].flags = "\\Seen \\Deleted"
    report = bench.run()
    assert [(item.kind, item.text) for item in report.differences] == [
        ("flags", "\\Flagged \\Seen there, \\Deleted \\Seen here")
    ]
    assert bench.store.folders["INBOX"].messages[0].flags == "\\Seen \\Flagged"
    (bench.directory / "cur" / "1.a.host:2,FS").rename(bench.directory / "cur" / "1.a.host:2,RS")
    bench.run()
    assert bench.store.folders["INBOX"].messages[0].flags == "\\Seen \\Answered"


@pytest.mark.slow
def test_every_difference_is_told(bench: Bench) -> None:
    write_maildir(bench.directory)
    bench.run()
    inbox = bench.store.folders["INBOX"].messages
    inbox[0].flags, inbox[1].date = "\\Seen", "14-Jul-2017 02:41:02 +0000"
    inbox[2].content = b"Subject: other bytes\n\n"
    assert [item.kind for item in bench.run().differences] == ["flags", "date", "bytes"]


@pytest.mark.slow
def test_mail_that_was_here_before_stays_and_is_no_difference(bench: Bench) -> None:
    bench.store.add("INBOX", b"Subject: before\n\n")
    write_maildir(bench.directory)
    report = bench.run()
    assert report.differences == []
    assert {row.folder: (row.uids, row.others) for row in report.folders}["INBOX"] == ("new", 1)


@pytest.mark.slow
def test_the_other_layout_and_names_that_do_not_decode(bench: Bench) -> None:
    write_message(bench.directory, "1.a.host:2,S", b"Subject: 1\n\n")
    write_message(bench.directory / "Projects" / "v1.2", "2.a.host:2,S", b"Subject: 2\n\n")
    write_message(bench.directory / "Tom & Jerry", "3.a.host:2,S", b"Subject: 3\n\n")
    report = bench.run()
    assert report.differences == []
    assert bench.store.contents("Projects.v1_2") == [b"Subject: 2\n\n"]
    assert bench.store.contents("Tom &- Jerry") == [b"Subject: 3\n\n"]
    assert "Projects/v1.2: is Projects.v1_2 here; the name cannot be the same." in report.notes
    assert "Tom & Jerry: the name is not in modified UTF-7; it is taken as it is written." in report.notes


@pytest.mark.slow
def test_files_that_get_another_name_while_they_are_read_come_all_the_same(bench: Bench) -> None:
    write_maildir(bench.directory)
    address = parse_source(f"ssh://old.example.org{bench.directory}")

    def open_and_rename() -> Source:
        source = work.open_ssh(OldHost(address), dry_run=False)
        (bench.directory / "new" / "3.c.host").rename(bench.directory / "cur" / "3.c.host:2,S")
        (bench.directory / "cur" / "2.b.host:2,Sab").unlink()
        return source

    with bench.connect() as session:
        work = copy_mail.MailImport(session, ADDRESS, address)
        report = copy_mail.run_import(work, open_and_rename, lambda *_: None)
    assert [item.kind for item in report.differences] == ["unread"], "the file is gone"
    assert len(bench.store.contents("INBOX")) == 2


@pytest.mark.slow
def test_an_old_server_without_the_tools_of_gnu_is_read_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = OldHost.probe

    def probe_without_gnu(host: OldHost) -> str:
        kind = probe(host)
        host._facts = {key: value for key, value in host._facts.items() if key not in ("find", "tar")}
        return kind

    monkeypatch.setattr(OldHost, "probe", probe_without_gnu)
    write_maildir(bench.directory)
    write_message(bench.directory / "with space", "8.h.host:2,S", b"Subject: space\n\n")
    report = bench.run()
    assert report.differences == []
    assert sum(row.added for row in report.folders) == 7


@pytest.mark.slow
def test_no_other_user_can_read_whose_mail_was_imported(bench: Bench) -> None:
    bench.journals.rmdir()
    write_maildir(bench.directory)
    bench.run()
    assert bench.journals.stat().st_mode & 0o777 == 0o700


def test_a_compressed_message_is_unpacked(bench: Bench) -> None:
    content = b"Subject: packed\n\n" + b"x\n" * 1000
    write_message(bench.directory, f"1.a.host,S={len(content)}:2,SZ", gzip.compress(content))
    report = bench.run()
    assert bench.store.contents("INBOX") == [content]
    assert report.differences == []


@pytest.mark.slow
def test_a_message_that_dovecot_does_not_take_is_told(bench: Bench) -> None:
    write_maildir(bench.directory)
    bench.store.refuses = lambda content: b"three" in content
    [difference] = bench.run().differences
    assert (difference.kind, difference.folder) == ("refused", "INBOX")


def test_the_quota_is_looked_at_before_anything_is_copied(bench: Bench) -> None:
    write_message(bench.directory, "1.a.host:2,S", b"x" * 70_000)
    bench.store.max_bytes = 60_000
    with pytest.raises(CopyError, match=r"Set `quota: 1G` or more") as raised:
        bench.run()
    assert raised.value.exit_code == NO_ROOM
    assert bench.store.contents("INBOX") == []


def test_a_dry_run_counts_and_copies_nothing(bench: Bench) -> None:
    write_maildir(bench.directory)
    report = bench.run(dry_run=True)
    assert {row["folder"]: row["messages"] for row in report.planned} == {
        "INBOX": 3,
        "Gesendet": 1,
        "Sent": 1,
        "Größe/2020": 1,
    }
    assert list(bench.store.folders) == ["INBOX"]
    assert "nothing was copied" in report.describe_plan()


def test_a_directory_above_the_maildir_is_told(bench: Bench) -> None:
    write_maildir(bench.directory / "Maildir")
    with pytest.raises(CopyError, match=r"give .*/old/Maildir"):
        bench.run()


def test_a_path_that_is_not_there_is_told(bench: Bench) -> None:
    with pytest.raises(CopyError, match="no such file or directory") as raised:
        bench.run(bench.directory / "nothing")
    assert raised.value.exit_code == SOURCE_FAILED


def test_messages_beyond_message_size_come_and_are_told(bench: Bench) -> None:
    write_message(bench.directory, "1.a.host:2,S", b"Subject: x\n\n" + b"x\n" * 5000)
    report = bench.run(message_size=5000)
    assert report.differences == []
    assert "1 messages are larger than `message_size`" in report.notes[0]


@pytest.mark.slow
def test_two_imports_of_one_account_exclude_each_other(bench: Bench) -> None:
    with bench.connect() as session:
        session.ask("open", address="anna@example.org", source="x")
        with pytest.raises(CopyError, match="Another import"):
            bench.run()


@pytest.mark.parametrize(
    ("directory", "path"),
    [
        (b".", ("INBOX",)),
        (b"./.A.B", ("A", "B")),
        (b"./A/B", ("A", "B")),
        (b"./.INBOX.Sent", ("Sent",)),
        (b"./.&ZeVnLIqe-", ("日本語",)),
    ],
)
def test_names_of_folders(directory: bytes, path: tuple[str, ...]) -> None:
    assert split_directory(directory)[0] == path


def test_lists_of_dovecot_and_courier() -> None:
    assert read_uid_list(b"3 V5 N9\n7 W1 S2 :1.a\n8 :2.b:2,S\n") == (5, {b"1.a": 7, b"2.b": 8})
    assert read_uid_list(b"1 5 9\n7 1.a\n8 2.b\n") == (5, {b"1.a": 7, b"2.b": 8})
    assert read_uid_list(b"garbage\n\0\n") == (0, {})
    assert split_flags(b"1.a,S=3:2,FS") == (b"1.a,S=3", "FS")
    assert read_subscriptions(b"INBOX.Sent\nA.B\n") >= {("Sent",), ("A", "B")}
