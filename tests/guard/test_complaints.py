"""Complaints of recipients count against the account that sent the message, and nobody gets a victim frozen by them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import pytest
from guard_samples import ANNA, BERT, END, HOLDS, NO_LIMITS, GuardProcess, JudgeSetup, build_message

from mailkeep_server.common.message_ids import MAX_IDS, MAX_VALUE, digest_message_ids
from mailkeep_server.guard import database_recovery
from mailkeep_server.guard.correspondents import IncomingMessage
from mailkeep_server.guard.database import MESSAGE_IDS_KEPT
from mailkeep_server.guard.outcomes import Fate
from mailkeep_server.guard.policy import DUNNO
from mailkeep_server.guard.sliding_window import DAY, HOUR

NewSetup = Callable[..., JudgeSetup]
LOOP = "arf.mail.yahoo.com"


@pytest.fixture
def setup(new_setup: NewSetup) -> JudgeSetup:
    return new_setup(limits=NO_LIMITS, holds=HOLDS)


def send(setup: JudgeSetup, message_id: str, *to: str, account: str = ANNA) -> str:
    """A message that is accepted, and delivered."""
    action = setup.send_message(account, to)
    setup.judge.complaints.note_message(setup.now, account, setup.last_queue_id, digest_message_ids([message_id]))
    for recipient in to:
        setup.note_fate(recipient, Fate.SENT)
    return action


def complain(setup: JudgeSetup, message_id: str, reporter: str) -> str:
    return setup.judge.complaints.note_complaint(setup.now, reporter, digest_message_ids([message_id]))


def count_complaints(setup: JudgeSetup, account: str = ANNA) -> int:
    return setup.judge.strangers.count_complaints(setup.now, account)


def send_and_complain(setup: JudgeSetup, number: int) -> None:
    """To somebody at a domain of its own, who complains."""
    domain = f"d{number}.example.net"
    send(setup, f"<{number}@example.org>", f"you@{domain}")
    assert complain(setup, f"<{number}@example.org>", domain) == ANNA


# --- how many are too many --------------------------------------------------------------------------------------------


def test_three_complaints_hold_mail_to_strangers_and_mail_to_others_goes_on(setup: JudgeSetup) -> None:
    assert send(setup, "<f@example.org>", "friend@example.com") == DUNNO
    for number in (1, 2):
        send_and_complain(setup, number)
    assert setup.list_events("hold") == []
    send_and_complain(setup, 3)
    assert setup.list_events("hold") == [
        (
            ANNA,
            "of 4 first-time recipients in a week, 0 do not exist, 0 name spam or too much mail, and 3 complain",
        )
    ]
    assert setup.send_to_stranger("new@example.com").startswith("HOLD")
    assert setup.send_to_stranger("friend@example.com") == DUNNO
    assert setup.judge.strangers.explain(setup.now, ANNA)["outcomes"].endswith("and 3 complain")


@pytest.mark.slow
def test_the_share_of_a_large_newsletter_decides(setup: JudgeSetup) -> None:
    """Of 2,000 who read it for the first time, 0.3 per cent are 6."""
    send(setup, "<all@example.org>", *(f"r{n}@d{n}.example.com" for n in range(2000)))
    for number in range(1, 6):
        send_and_complain(setup, number)
    assert setup.list_events("hold") == []
    send_and_complain(setup, 6)
    send_and_complain(setup, 7)
    assert len(setup.list_events("hold")) == 1


def test_ten_complaints_freeze(setup: JudgeSetup) -> None:
    for number in range(9):
        send(setup, f"<{number}@example.org>", f"you@d{number}.example.net")
    send(setup, "<9@example.org>", "you@d9.example.net")
    for number in range(9):
        complain(setup, f"<{number}@example.org>", f"d{number}.example.net")
    assert not setup.freeze_reasons()
    complain(setup, "<9@example.org>", "d9.example.net")
    assert "and 10 complain" in setup.freeze_reasons()[ANNA]


def test_learning_holds_nothing(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS, holds=HOLDS, mode="learn")
    for number in range(3):
        send_and_complain(setup, number)
    assert setup.list_events("hold") == []
    assert len(setup.list_events("would-hold")) == 1
    assert setup.send_to_stranger("new@example.com") == DUNNO


def test_the_operator_is_told_of_the_first_of_a_day(setup: JudgeSetup) -> None:
    for number in range(2):
        send_and_complain(setup, number)
    [(account, detail)] = setup.list_events("complaint")
    assert (account, detail) == (
        ANNA,
        "d0.example.net reports its message of 2025-11-25 as spam; 1 in a week, 3 hold its mail to strangers",
    )
    setup.advance_clock(DAY)
    send_and_complain(setup, 3)
    assert len(setup.list_events("complaint")) == 2


# --- whose word counts ------------------------------------------------------------------------------------------------


def test_whoever_does_not_know_the_message_id_says_nothing(setup: JudgeSetup) -> None:
    for number in range(20):
        send(setup, f"<{number}@example.org>", f"you@d{number}.example.net")
        assert complain(setup, f"<guessed-{number}@example.org>", f"d{number}.example.net") == ""
    assert count_complaints(setup) == 0
    assert setup.list_events("complaint") == []


def test_one_remote_domain_counts_once(setup: JudgeSetup) -> None:
    for number in range(20):
        send(setup, f"<{number}@example.org>", f"you{number}@example.net")
        complain(setup, f"<{number}@example.org>", "example.net")
    assert count_complaints(setup) == 1
    assert setup.list_events("hold") == []


def test_who_owns_many_domains_speaks_only_for_those_that_were_written_to(setup: JudgeSetup) -> None:
    """He reports in the name of others of his, and knows Message-IDs from an archive of a list."""
    for number in range(20):
        send(setup, f"<{number}@example.org>", f"list@d{number}.example.com")
        assert complain(setup, f"<{number}@example.org>", f"evil{number}.example.net") == ANNA
    assert count_complaints(setup) == 0
    [(_, detail)] = setup.list_events("complaint")
    assert "that does not count" in detail


def test_somebody_at_a_large_provider_counts_once_and_two_count_twice(setup: JudgeSetup) -> None:
    for number, recipient in enumerate(("a@yahoo.com", "a@yahoo.com", "b@yahoo.com")):
        send(setup, f"<{number}@example.org>", recipient)
        complain(setup, f"<{number}@example.org>", LOOP)
    assert count_complaints(setup) == 2


def test_somebody_with_many_mailboxes_at_a_large_provider_freezes_nobody(setup: JudgeSetup) -> None:
    for number in range(20):
        send(setup, f"<{number}@example.org>", f"u{number}@yahoo.com")
    for number in range(20):
        complain(setup, f"<{number}@example.org>", LOOP)
    assert (count_complaints(setup), len(setup.list_events("hold"))) == (20, 1)
    assert not setup.freeze_reasons()


def test_whoever_has_a_mailbox_at_a_large_provider_cannot_report_in_its_name(setup: JudgeSetup) -> None:
    for number in range(5):
        send(setup, f"<{number}@example.org>", f"u{number}@gmail.com")
        assert complain(setup, f"<{number}@example.org>", "gmail.com") == ANNA
    assert count_complaints(setup) == 0


def test_whoever_wrote_first_cannot_complain_of_the_answer(setup: JudgeSetup) -> None:
    """At a large provider, somebody else's mail from there is no reason."""
    arrived = [f"you@d{number}.example.net" for number in range(3)]
    for sender in (*arrived, "somebody@yahoo.com"):
        message = IncomingMessage("198.51.100.7", sender, sender, recipients=[ANNA])
        setup.judge.receiving.judge_message(setup.now, message)
    setup.advance_clock(HOUR)
    for number, recipient in enumerate((*arrived, "other@yahoo.com", "you@d9.example.net")):
        send(setup, f"<{number}@example.org>", recipient)
        domain = recipient.partition("@")[2]
        complain(setup, f"<{number}@example.org>", LOOP if domain == "yahoo.com" else domain)
    assert count_complaints(setup) == 2


def test_a_report_that_arrives_in_the_account_itself_counts(setup: JudgeSetup) -> None:
    """As where `abuse@` is an alias of it: then the domain writes to it, but later."""
    send(setup, "<1@example.org>", "you@example.net")
    setup.advance_clock(HOUR)
    report = IncomingMessage("198.51.100.7", "abuse@example.net", "abuse@example.net", recipients=[ANNA])
    setup.judge.receiving.judge_message(setup.now, report)
    complain(setup, "<1@example.org>", "example.net")
    assert count_complaints(setup) == 1


def test_a_message_counts_once_however_many_complain_of_it(setup: JudgeSetup) -> None:
    send(setup, "<all@example.org>", *(f"you@d{number}.example.net" for number in range(10)))
    for number in range(10):
        complain(setup, "<all@example.org>", f"d{number}.example.net")
    assert count_complaints(setup) == 1
    assert not setup.freeze_reasons()


def test_a_report_that_comes_again_changes_nothing(setup: JudgeSetup) -> None:
    send(setup, "<all@example.org>", *(f"you{number}@yahoo.com" for number in range(10)))
    for _ in range(10):
        complain(setup, "<all@example.org>", LOOP)
    send(setup, "<b@example.org>", "b@example.net")
    send(setup, "<c@example.org>", "c@example.net")
    for message_id in ("<b@example.org>", "<c@example.org>"):
        complain(setup, message_id, "example.net")
    assert count_complaints(setup) == 2, "three messages, and two voices"


def test_a_thief_who_complains_first_hides_nothing(setup: JudgeSetup) -> None:
    """He sends each message to himself, too."""
    for number in range(3):
        send(setup, f"<{number}@example.org>", f"x{number}@evil.example.net", f"you@d{number}.example.com")
        complain(setup, f"<{number}@example.org>", "evil.example.net")
        complain(setup, f"<{number}@example.org>", f"d{number}.example.com")
    assert count_complaints(setup) == 3


def test_a_feedback_loop_speaks_for_all_domains(setup: JudgeSetup) -> None:
    for number in range(3):
        send(setup, f"<{number}@example.org>", f"you@d{number}.example.com")
        complain(setup, f"<{number}@example.org>", LOOP)
    assert count_complaints(setup) == 3
    assert len(setup.list_events("hold")) == 1


def test_people_whom_the_account_knows_do_not_count(setup: JudgeSetup) -> None:
    for number in range(5):
        send(setup, f"<{number}@example.org>", f"friend@d{number}.example.net")
    for number in range(5):
        send(setup, f"<again-{number}@example.org>", f"friend@d{number}.example.net")
        assert complain(setup, f"<again-{number}@example.org>", f"d{number}.example.net") == ANNA
    assert count_complaints(setup) == 0
    assert "that does not count" in setup.list_events("complaint")[0][1]


def test_a_bounced_message_is_complained_of_by_nobody(setup: JudgeSetup) -> None:
    send(setup, "<1@example.org>", "you@example.net")
    setup.send_to_stranger("dead@example.com", Fate.DEAD)
    setup.judge.complaints.note_message(setup.now, ANNA, setup.last_queue_id, digest_message_ids(["<2@example.org>"]))
    complain(setup, "<2@example.org>", "example.com")
    assert count_complaints(setup) == 0


def test_a_message_id_of_two_accounts_counts_against_the_newest_message(setup: JudgeSetup) -> None:
    """A thief takes it from a message that the victim's colleague got."""
    send(setup, "<1@example.org>", *(f"me@d{number}.example.com" for number in range(3)))
    for number in range(3):
        send(setup, "<1@example.org>", f"you@d{number}.example.com", account=BERT)
        complain(setup, "<1@example.org>", f"d{number}.example.com")
    assert (count_complaints(setup), count_complaints(setup, BERT)) == (0, 3)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_what_was_sent_is_known_after_a_restart_and_for_a_month(setup: JudgeSetup) -> None:
    send(setup, "<1@example.org>", "you@example.net")
    setup.restart()
    setup.advance_clock(MESSAGE_IDS_KEPT - HOUR)
    list(setup.database.forget_expired(setup.now))
    assert complain(setup, "<1@example.org>", "example.net") == ANNA
    assert count_complaints(setup) == 0, "the message is older than a week"
    setup.advance_clock(2 * HOUR)
    list(setup.database.forget_expired(setup.now))
    assert complain(setup, "<1@example.org>", "example.net") == ""


def test_a_complaint_counts_after_a_restart_until_the_account_is_released(setup: JudgeSetup) -> None:
    for number in range(3):
        send_and_complain(setup, number)
    setup.restart()
    assert count_complaints(setup) == 3
    setup.advance_clock(HOUR)
    setup.judge.strangers.release(setup.now, ANNA)
    assert count_complaints(setup) == 0


def test_a_database_begun_anew_still_knows_what_was_sent(tmp_path: Path, new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS, holds=HOLDS)
    send(setup, "<1@example.org>", "you@example.net")
    setup.database.close()
    database_recovery.begin_anew(tmp_path / "guard.db", setup.now, ValueError("spoilt")).close()
    del setup.database
    setup.restart()
    assert complain(setup, "<1@example.org>", "example.net") == ANNA
    send(setup, "<2@example.org>", "you@example.com")
    assert complain(setup, "<2@example.org>", "example.com") == ANNA


def test_the_database_does_not_name_messages_and_an_entry_has_a_bound(tmp_path: Path, setup: JudgeSetup) -> None:
    send(setup, "<secret-one@example.org>", "you@example.net")
    setup.database.commit()
    path = tmp_path / "guard.db"
    plain = {int.from_bytes(bytes.fromhex(text)[:8], signed=True) for text in digest_message_ids(["<secret-one@e>"])}
    [(message,)] = setup.database.read("SELECT message FROM message_ids").fetchall()
    assert message not in plain
    setup.database.close()
    del setup.database
    with closing(sqlite3.connect(path)) as database:
        assert "secret-one" not in "\n".join(database.iterdump())
        database.executescript("PRAGMA journal_mode = DELETE; VACUUM")
        before = path.stat().st_size
        rows = ((1_764_072_000_000 + n, ANNA, f"4dGk{n:011d}", hash((n, "x"))) for n in range(10_000))
        statement = "INSERT INTO message_ids (time, account, queue_id, message) VALUES (?, ?, ?, ?)"
        with database:
            database.executemany(statement, rows)
    assert (path.stat().st_size - before) / 10_000 < 100, "bytes of an entry"
    setup.restart()


# --- the milter and the control socket --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_milter_notes_each_message_id_of_an_account(start_guard: Callable[..., GuardProcess]) -> None:
    """Folded, with comments, twice, without brackets, in bytes that are no text; a killed guard forgets none."""
    guard = start_guard(limits=NO_LIMITS, holds=HOLDS)
    written: dict[str, list[tuple[str, str | bytes]]] = {
        "Q1": [("Message-ID", "\r\n <folded@example.org>")],
        "Q2": [("message-id", "(a <comment@example.org>) <real@example.org> (b)")],
        "Q3": [("Message-Id", "<first@example.org>"), ("Message-ID", "<second@example.org>")],
        "Q4": [("Message-ID", "bare@example.org")],
        "Q5": [("Message-ID", b"<\xff\xfe@example.org>")],
        "Q6": [],
        "Q7": [("Message-ID", "x" * 5000)] * 50,
    }
    with guard.open_connection("milter") as client, client.makefile("rb") as replies:
        for queue_id, headers in written.items():
            for packet in build_message(ANNA, ANNA, [("From", ANNA), *headers], queue_id):
                client.sendall(packet)
            client.sendall(END)
            answers = replies.read(10)
            assert answers == 2 * b"\x00\x00\x00\x01c", "to the sender, and to the end"
    guard.kill()
    guard.start()

    def ask(value: str) -> str:
        query = urlencode([("reporter", "example.net"), *(("m", text) for text in digest_message_ids([value]))])
        return str(guard.get_target(f"/complaint?{query}")["account"])

    names = ("folded", "comment", "real", "first", "second")
    assert [ask(f"<{name}@example.org>") for name in names] == [ANNA] * len(names)
    assert [ask("bare@example.org"), ask("<\udcff\udcfe@example.org>"), ask("x" * MAX_VALUE)] == [ANNA] * 3
    assert ask("<other@example.org>") == ""


@pytest.mark.parametrize(
    ("values", "number"),
    [
        ([], 0),
        ([""], 0),
        (["<>"], 1),
        (["<a@b> <a@b>", "<a@b>"], 1),
        ([f"<{n}@b>" for n in range(9)], MAX_IDS),
        (["".join(f"<{n}@b>" for n in range(9))], MAX_IDS),
    ],
)
def test_a_message_has_few_ids(values: list[str], number: int) -> None:
    assert len(digest_message_ids(values)) == number


def test_white_space_is_no_part_of_an_id() -> None:
    assert digest_message_ids(["<a\r\n\t@b>"]) == digest_message_ids(["( c )  <a@b>"])
    assert digest_message_ids(["<A@b>"]) != digest_message_ids(["<a@b>"])
