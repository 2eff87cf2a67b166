"""Messages are appended to a folder through Dovecot with all that belongs to them, and never twice."""

from pathlib import Path

import pytest
from imap_store import ImapStore

from mailkeep_server.common.message_bytes import digest_content
from mailkeep_server.mail_import import append, imap_session
from mailkeep_server.mail_import.append import QuotaExceededError, append_messages
from mailkeep_server.mail_import.imap_session import ImapError, SessionEndedError, expand_uids, join_uids
from mailkeep_server.mail_import.messages import Message, format_date, read_date

ADDRESS = "anna@example.org"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> ImapStore:
    store = ImapStore()
    monkeypatch.setattr(append, "update_folder", lambda _, folder, *options: store.update(folder, *options))
    return store


def make_messages(count: int, first: int = 1) -> list[Message]:
    return [Message(f"Subject: {n}\n\ntext {n:05}\n".encode(), date=n, key=str(n)) for n in range(first, first + count)]


def test_a_message_keeps_its_bytes_flags_keywords_and_date(store: ImapStore) -> None:
    content = b"Subject: x\r\n\r\nFrom me\nto you\n.\n\xff\n"
    message = Message(content, frozenset({"\\Seen", "\\Draft"}), frozenset({"$Forwarded", "work"}), 1_000_000_000)
    counts = append_messages(ADDRESS, "Projects.Größe", [message], session=store.connect())
    [stored] = store.folders["Projects.Gr&APYA3w-e"].messages
    assert stored.content == content
    assert stored.flags == "\\Seen \\Draft $Forwarded work"
    assert stored.date == "09-Sep-2001 01:46:40 +0000"
    assert (counts.added, counts.size) == (1, len(content))
    assert "Projects.Gr&APYA3w-e" in store.subscribed


def test_a_keyword_that_imap_cannot_keep_is_never_sent(store: ImapStore) -> None:
    message = Message(b"x\n", keywords=frozenset({'a) "x" {5}', "ä", "ok", ""}))
    append_messages(ADDRESS, "INBOX", [message], session=store.connect())
    assert store.folders["INBOX"].messages[0].flags == "ok"


@pytest.mark.slow
def test_appended_twice_is_there_once(store: ImapStore) -> None:
    messages = make_messages(600)
    append_messages(ADDRESS, "INBOX", messages, session=store.connect())
    counts = append_messages(ADDRESS, "INBOX", messages + make_messages(3, 9000), session=store.connect())
    assert (counts.added, counts.duplicates) == (3, 600)
    assert len(store.contents("INBOX")) == 603


def test_line_ends_make_no_other_message(store: ImapStore) -> None:
    append_messages(ADDRESS, "INBOX", [Message(b"Subject: x\r\n\r\ny\r\n")], session=store.connect())
    counts = append_messages(ADDRESS, "INBOX", [Message(b"Subject: x\n\ny\n")], session=store.connect())
    assert counts.duplicates == 1


def test_a_message_that_is_there_twice_stays_twice(store: ImapStore) -> None:
    twin = Message(b"Subject: twin\n\n")
    append_messages(ADDRESS, "INBOX", [twin, twin], session=store.connect())
    assert len(store.contents("INBOX")) == 2
    counts = append_messages(ADDRESS, "INBOX", [twin, twin, twin], session=store.connect())
    assert (counts.added, counts.duplicates) == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("dies_after", [0, 100, 255, 256, 300, 511])
def test_killed_anywhere_a_rerun_completes_it(store: ImapStore, dies_after: int) -> None:
    messages = make_messages(600)
    store.dies_after = dies_after
    with pytest.raises(SessionEndedError):
        append_messages(ADDRESS, "INBOX", messages, session=store.connect())
    store.dies_after = -1
    append_messages(ADDRESS, "INBOX", messages, session=store.connect())
    assert store.contents("INBOX") == [message.content for message in messages]


def test_uids_are_kept_in_an_empty_folder_and_by_a_rerun(store: ImapStore) -> None:
    messages = [Message(f"Subject: {uid}\n\n".encode(), uid=uid) for uid in (3, 4, 7, 100, 101)]
    append_messages(ADDRESS, "INBOX", messages[:3], session=store.connect(), uid_validity=77)
    counts = append_messages(ADDRESS, "INBOX", messages, session=store.connect(), uid_validity=77)
    folder = store.folders["INBOX"]
    assert folder.uid_validity == 77
    assert [message.uid for message in folder.messages] == [3, 4, 7, 100, 101]
    assert (counts.added, counts.other_uids) == (2, 0)


def test_uids_are_new_in_a_folder_with_mail(store: ImapStore) -> None:
    store.add("INBOX", b"Subject: here before\n\n")
    counts = append_messages(
        ADDRESS, "INBOX", [Message(b"Subject: x\n\n", uid=50)], session=store.connect(), uid_validity=77
    )
    assert [message.uid for message in store.folders["INBOX"].messages] == [1, 2]
    assert store.folders["INBOX"].uid_validity == 1000
    assert counts.other_uids == 1


def test_mail_that_arrives_meanwhile_does_not_stop_it(store: ImapStore) -> None:
    messages = [Message(f"Subject: {uid}\n\n".encode(), uid=uid) for uid in (3, 4, 9)]

    def deliver(_: object) -> None:
        store.add("INBOX", b"Subject: new\n\n")

    counts = append_messages(ADDRESS, "INBOX", messages, session=store.connect(), uid_validity=77, note_batch=deliver)
    assert counts.added == 3


@pytest.mark.slow
def test_a_full_mailbox_is_told_and_what_came_before_stays(store: ImapStore) -> None:
    store.max_bytes = 12_000
    noted: list[int] = []
    with pytest.raises(QuotaExceededError, match="Quota exceeded"):
        append_messages(
            ADDRESS, "INBOX", make_messages(1000), session=store.connect(), note_batch=lambda b: noted.append(len(b))
        )
    assert sum(noted) == len(store.contents("INBOX")) > 0


def test_a_message_that_dovecot_refuses_does_not_stop_the_others(store: ImapStore) -> None:
    store.refuses = lambda content: b"text 00005" in content
    counts = append_messages(ADDRESS, "INBOX", make_messages(10), session=store.connect())
    assert counts.added == 9
    assert counts.refused == [("5", "refused")]


def test_messages_of_files_are_not_held_in_memory(
    store: ImapStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap_session, "MAX_IN_MEMORY", 1000)
    file = tmp_path / "message"
    file.write_bytes(b"Subject: x\n\n" + b"x" * 70 + b"\n" * 5000)
    append_messages(ADDRESS, "INBOX", [Message(file)], session=store.connect())
    counts = append_messages(ADDRESS, "INBOX", [Message(file)], session=store.connect())
    assert counts.duplicates == 1
    assert store.contents("INBOX") == [file.read_bytes()]


def test_only_messages_of_an_equal_size_are_read_again(store: ImapStore) -> None:
    append_messages(ADDRESS, "INBOX", make_messages(300), session=store.connect())
    store.commands.clear()
    append_messages(ADDRESS, "INBOX", [Message(b"Subject: other size entirely\n\n")], session=store.connect())
    assert not any("BODY" in command for command in store.commands)


@pytest.mark.parametrize("chunks", [[b"a\r", b"\nb\r\n"], [b"a\r\nb", b"\r", b"\n"], [b"a\nb\n"]])
def test_the_hash_does_not_depend_on_pieces_or_line_ends(chunks: list[bytes]) -> None:
    digest, facts = digest_content(b"".join(chunks))
    assert (digest, facts.imap_size) == (digest_content(b"a\r\nb\r\n")[0], 6)


def test_the_message_id_is_read_from_the_header_only() -> None:
    _, facts = digest_content(b"Subject: x\nMESSAGE-ID:\n <a@example.org>\n\nMessage-ID: <b@example.org>\n")
    assert facts.message_id == "<a@example.org>"


@pytest.mark.parametrize("seconds", [0, 1_000_000_000, 1_700_000_000])
def test_dates_come_back_as_they_were(seconds: int) -> None:
    assert read_date(format_date(seconds)) == seconds
    assert read_date(" 9-Sep-2001 03:46:40 +0200") == 1_000_000_000


def test_sets_of_uids() -> None:
    assert join_uids([5, 1, 2, 3, 9]) == "1:3,5,9"
    assert expand_uids("1:3,5,9") == [1, 2, 3, 5, 9]


def test_an_answer_that_is_no_imap_ends_the_session(store: ImapStore, monkeypatch: pytest.MonkeyPatch) -> None:
    session = store.connect()
    monkeypatch.setattr(store, "separator", '"\r\n* LIST ) (\r\n')
    with pytest.raises(SessionEndedError):
        session.list_folders()


def test_nul_counts_as_the_byte_that_imap_shows_for_it(store: ImapStore) -> None:
    store.add("INBOX", b"Subject: x\n\na\x80b\n")
    counts = append_messages(ADDRESS, "INBOX", [Message(b"Subject: x\n\na\0b\n")], session=store.connect())
    assert counts.duplicates == 1


def test_an_error_of_dovecots_own_ends_it_unless_it_is_about_a_single_message(store: ImapStore) -> None:
    store.refusal = b"NO [SERVERBUG] Internal error occurred."
    store.refuses = lambda content: b"text 00002" in content
    assert append_messages(ADDRESS, "INBOX", make_messages(5), session=store.connect()).refused == [
        ("2", "Internal error occurred.")
    ]
    store.refuses = lambda _: True
    with pytest.raises(ImapError):
        append_messages(ADDRESS, "INBOX", make_messages(5, 100), session=store.connect())
