"""What an account's Sieve script sends counts in its limits, at most half of each: strangers set it off."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guard_samples import ANNA, BERT, NO_FREEZE, JudgeSetup, build_message, build_packet

from mailkeep_server.common.milter_server import split_packets
from mailkeep_server.common.sender_kinds import ANSWER, FORWARD
from mailkeep_server.guard.milter import MilterSession
from mailkeep_server.guard.policy import DUNNO
from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES

NewSetup = Callable[..., JudgeSetup]


@pytest.fixture
def new_setup(tmp_path: Path) -> NewSetup:
    return lambda **changes: JudgeSetup(tmp_path, **changes)


def send_by_script(setup: JudgeSetup, queue_id: str, *to: str, kind: str = FORWARD, account: str = ANNA) -> str | None:
    """The refusal, or None."""
    recipients = to or ("friend@example.net",)
    return setup.judge.scripts.judge_message(setup.now, account, kind, recipients, queue_id)


def test_rules_send_half_of_the_limits_and_the_owner_the_rest(new_setup: NewSetup) -> None:
    setup = new_setup()
    refusals = [send_by_script(setup, f"S{number}") for number in range(8)]
    assert [bool(refusal) for refusal in refusals] == [False] * 5 + [True] * 3, "10 in ten minutes are the account's"
    assert refusals[-1].startswith("450 4.7.1 The rules of anna@example.org send 5 messages in 10 minutes; again at ")
    assert [setup.send_message() for _ in range(5)] == [DUNNO] * 5
    assert setup.send_message().startswith("450"), "both together are the account's limit"
    assert setup.usage_of()[0] == 10
    assert setup.judge.ledger.forwards.usage_within(setup.now, HOUR).messages == 5
    setup.advance_clock(TEN_MINUTES + 1)
    assert send_by_script(setup, "S9") is None
    assert send_by_script(setup, "S10", account=BERT) is None, "each account has its own"


def test_what_the_owner_has_sent_leaves_less_to_the_rules(new_setup: NewSetup) -> None:
    setup = new_setup()
    assert [setup.send_message() for _ in range(8)] == [DUNNO] * 8
    assert [bool(send_by_script(setup, f"S{number}")) for number in range(3)] == [False, False, True]


def test_a_flood_freezes_nobody_makes_nobody_known_and_uses_no_network(new_setup: NewSetup) -> None:
    setup = new_setup(
        freeze={"refused_tries": 1, "foreign_senders": 1, "networks": 1, "new_recipients": 1, "spam_messages": 1}
    )
    for number in range(60):
        send_by_script(setup, f"S{number}", f"x{number}@example.net")
        send_by_script(setup, f"A{number}", f"y{number}@example.net", kind=ANSWER)
    assert setup.freeze_reasons() == {}
    assert setup.usage_of(window=DAY)[2] == 0, "the owner can still write to as many new people"
    assert setup.judge.ledger.get_account(ANNA).networks == {}


def test_an_answer_beyond_the_limits_is_dropped_and_not_tried_again(new_setup: NewSetup) -> None:
    """The message that it answers would wait with it."""
    setup = new_setup()
    refusals = [send_by_script(setup, f"S{number}", kind=ANSWER) for number in range(6)]
    assert refusals[:5] == [None] * 5
    assert refusals[5] == "550 5.7.1 No more automatic answers for now"


def test_the_ceiling_of_all_strangers_mail_holds_too(new_setup: NewSetup) -> None:
    setup = new_setup(forwards={"recipients_per_hour": 1, "recipients_per_day": 1})
    assert send_by_script(setup, "S1", kind=ANSWER) is None
    assert str(send_by_script(setup, "S2", kind=ANSWER)).startswith("550")
    assert str(send_by_script(setup, "S3")).startswith("450 4.7.1 This server sends")


def test_mail_that_stays_here_does_not_count(new_setup: NewSetup) -> None:
    setup = new_setup(aliases={"club@example.org": ["x@example.net", "y@example.net"]})
    assert send_by_script(setup, "S1", BERT) is None
    assert setup.usage_of() in ((), (0, 0, 0))
    assert send_by_script(setup, "S2", "club@example.org") is None
    assert setup.usage_of() == (1, 2, 0)


def test_counts_survive_a_restart_and_end_with_a_message_that_postfix_gives_up(new_setup: NewSetup) -> None:
    setup = new_setup()
    assert [send_by_script(setup, f"S{number}") for number in range(5)] == [None] * 5
    setup.judge.ledger.message_dropped("S4")
    setup.restart()
    assert send_by_script(setup, "S5") is None
    assert send_by_script(setup, "S6") is not None
    assert setup.judge.ledger.get_account(ANNA).networks == {}
    setup.advance_clock(DAY + 1)
    setup.judge.ledger.forget_expired(setup.now)
    assert ANNA not in setup.judge.ledger.accounts


def test_a_new_redirect_is_told_once_for_each_address(new_setup: NewSetup) -> None:
    setup = new_setup()
    for number, address in enumerate(("friend@example.net", "Friend@example.net", "other@example.net", BERT)):
        assert send_by_script(setup, f"S{number}", address) is None
    assert send_by_script(setup, "S8", "somebody@example.net", kind=ANSWER) is None
    setup.restart()
    assert send_by_script(setup, "S9", "friend@example.net") is None
    assert setup.list_events("new-redirect") == [(ANNA, "friend@example.net"), (ANNA, "other@example.net")]


def test_the_operator_hears_once_a_day_that_mail_waits(new_setup: NewSetup) -> None:
    setup = new_setup()
    for number in range(9):
        send_by_script(setup, f"S{number}")
    [(account, detail)] = setup.list_events("script")
    assert (account, detail.split(":")[0]) == (
        ANNA,
        "its rules are over 5 messages in 10 minutes",
    )


def test_rules_of_a_frozen_or_unknown_account_send_nothing_and_lose_nothing(new_setup: NewSetup) -> None:
    setup = new_setup(freeze=NO_FREEZE | {"foreign_senders": 1})
    assert str(send_by_script(setup, "S1", account="gone@example.org")).startswith("450")
    setup.judge.reject_unowned_sender(setup.now, ANNA, "ceo@bank.example")
    assert setup.freeze_reasons()
    assert str(send_by_script(setup, "S2")).startswith("450")


def test_in_mode_learn_rules_send_what_they_like(new_setup: NewSetup) -> None:
    setup = new_setup(mode="learn")
    assert [send_by_script(setup, f"S{number}") for number in range(9)] == [None] * 9
    assert setup.list_events("script")


@pytest.mark.parametrize(
    ("service", "author", "more", "answer"),
    [
        ("forward", "stranger@example.com", (), b"c"),
        ("answer", ANNA, (), b"c"),
        ("answer", "sales@example.org", (), b"c"),
        ("answer", BERT, (), b"y553 5.7.1 The rules of anna@example.org answer as somebody else"),
        ("answer", "ceo@bank.example", [("Resent-From", ANNA)], b"y553 5.7.1 The rules of anna@example.org answer"),
    ],
)
def test_the_milter_lets_answers_have_the_account_s_author_alone(
    new_setup: NewSetup, service: str, author: str, more: Any, answer: bytes
) -> None:
    setup = new_setup()
    session = MilterSession(setup.judge, lambda: setup.now)
    packets = build_message("", "", [("From", author), *more])[2:]
    macros = build_packet(b"DM", "{daemon_name}", service, "{auth_authen}", ANNA, "i", "Q1")
    stream = b"".join([macros, build_packet(b"M", "<>"), *packets, build_packet(b"E")])
    replies = [session.answer_packet(packet) for packet in split_packets(stream)[0]]
    assert replies[-1][4:].startswith(answer)
    assert setup.usage_of() == ((1, 1, 0) if answer == b"c" else ())
