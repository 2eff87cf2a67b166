"""What an account receives: strangers wait above a limit, people whom it knows do not; a mail bomb is marked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from guard_samples import ANNA, BERT, RECEIVING, JudgeSetup

from mailkeep_server.guard.correspondents import FIRST_DAYS, IncomingMessage, read_author
from mailkeep_server.guard.receiving import FIRST_DAYS_FACTOR, format_day
from mailkeep_server.guard.sliding_window import DAY, HOUR

NewSetup = Callable[..., JudgeSetup]
TEAM = "team@example.org"
LIMITS = {"messages_per_hour": 20, "network_messages_per_hour": 8, "new_senders_per_hour": 10}


def receive(
    setup: JudgeSetup,
    *to: str,
    sender: str = "stranger@example.net",
    author: str = "",
    client: str = "198.51.100.7",
    is_list_mail: bool = False,
) -> str:
    """The refusal of the last recipient; else the day by which the message is sorted, or ""."""
    judge = setup.judge.receiving
    message = IncomingMessage(client, sender, author or sender, is_list_mail)
    for recipient in to or (ANNA,):
        if refusal := judge.judge_recipient(setup.now, message, recipient):
            return refusal
        message.recipients.append(recipient)
    return judge.judge_message(setup.now, message)


def send_bomb(setup: JudgeSetup, number: int, *to: str, first: int = 0) -> list[str]:
    """From as many domains and networks."""
    return [
        receive(setup, *to, sender=f"bounce{n}@d{n}.example.com", client=f"2001:db8:{n:x}::1")
        for n in range(first, first + number)
    ]


@pytest.fixture
def setup(new_setup: NewSetup) -> JudgeSetup:
    return build_setup(new_setup, LIMITS)


@pytest.fixture
def bombing(new_setup: NewSetup) -> JudgeSetup:
    return build_setup(new_setup, LIMITS | {"messages_per_hour": 500})


def build_setup(new_setup: NewSetup, limits: dict[str, int]) -> JudgeSetup:
    """Anna's and Bert's first message is a week old."""
    setup = new_setup(receiving=limits, aliases={TEAM: [ANNA, BERT], "far@example.org": ["far@example.net"]})
    receive(setup, ANNA, sender="news@known.example")
    receive(setup, BERT, sender="news@known.example")
    setup.advance_clock(FIRST_DAYS + HOUR)
    return setup


# --- limits -----------------------------------------------------------------------------------------------------------


def test_one_network_gets_so_many_an_hour_into_one_account(setup: JudgeSetup) -> None:
    assert {receive(setup, client=f"198.51.100.{n}") for n in range(8)} == {""}
    assert receive(setup, client="198.51.100.99").startswith(
        f"450 4.7.1 Too many messages for {ANNA} in an hour; again at"
    )
    assert receive(setup, BERT) == "", "a large provider's network writes to many accounts"
    assert receive(setup, client="192.0.2.7") == ""
    setup.advance_clock(HOUR)
    assert receive(setup) == ""


def test_all_strangers_together_do_not_keep_out_people_whom_the_account_knows(setup: JudgeSetup) -> None:
    setup.send_message(to=["friend@example.net"])
    assert {receive(setup, client=f"2001:db8:{n:x}::1", sender=f"a@d{n % 5}.example.com") for n in range(20)} == {""}
    assert receive(setup, client="2001:db8:77::1", sender="new@example.com").startswith("450")
    assert receive(setup, client="2001:db8:77::1", sender="").startswith("450"), "a notice, which may be backscatter"
    assert receive(setup, client="2001:db8:78::1", sender="friend@example.net") == ""
    for n in range(20):
        assert receive(setup, client=f"2001:db8:{n:x}::1", sender="other@known.example") == ""
    assert receive(setup, client="2001:db8:78::1", sender="other@known.example").startswith("450")
    assert receive(setup, client="2001:db8:78::1", sender="friend@example.net") == "", "nor does a known domain"


def test_a_list_waits_once_all_accounts_behind_it_are_over_their_limits(setup: JudgeSetup) -> None:
    assert {receive(setup) for _ in range(8)} == {""}
    assert receive(setup).startswith("450")
    assert receive(setup, TEAM) == "", "bert has room, and the message counts for both"
    assert {receive(setup, TEAM) for _ in range(7)} == {""}
    assert receive(setup, TEAM).startswith(f"450 4.7.1 Too many messages for {TEAM}")
    assert {receive(setup, "far@example.org") for _ in range(30)} == {""}, "its members have no account here"


def test_a_list_and_an_address_in_it_are_one_message(setup: JudgeSetup) -> None:
    assert {receive(setup, TEAM, ANNA, "anna+x@example.org") for _ in range(8)} == {""}
    assert receive(setup).startswith("450")


def test_exempt_networks_do_not_count(new_setup: NewSetup) -> None:
    setup = new_setup(receiving=LIMITS, exempt_networks=["198.51.100.0/25", "2001:db8::/48"])
    assert {receive(setup) for _ in range(50)} == {""}
    assert {receive(setup, client="2001:db8::7") for _ in range(50)} == {""}
    assert {receive(setup, client=f"192.0.{n}.1") for n in range(20)} == {""}
    assert receive(setup, client="198.51.100.200").startswith("450")
    assert receive(setup) == "", "whatever others have sent"


def test_the_operator_hears_of_the_beginning_and_of_the_end_once(setup: JudgeSetup) -> None:
    for _ in range(50):
        receive(setup)
    assert [account for account, _ in setup.list_events("flood")] == [ANNA]
    assert "the last from 198.51.100.7" in setup.list_events("flood")[0][1]
    setup.restart()
    for _ in range(50):
        receive(setup)
    setup.judge.receiving.end_what_is_over(setup.now + HOUR - 1)
    assert len(setup.list_events("flood")) == 1
    assert not setup.list_events("flood-end")
    setup.judge.receiving.end_what_is_over(setup.now + HOUR)
    assert [account for account, _ in setup.list_events("flood-end")] == [ANNA]


def test_learn_only_reports(new_setup: NewSetup) -> None:
    setup = new_setup(receiving=LIMITS, mode="learn")
    assert {receive(setup) for _ in range(30)} == {""}
    assert {*send_bomb(setup, 60)} == {""}
    assert setup.list_events("flood")
    assert "nothing is sorted" in setup.list_events("bomb")[0][1]


def test_a_restart_forgets_nothing(setup: JudgeSetup) -> None:
    for _ in range(8):
        receive(setup)
    setup.restart()
    assert receive(setup).startswith("450")
    setup.advance_clock(2 * HOUR)
    send_bomb(setup, 9)
    setup.restart()
    days = send_bomb(setup, 3, first=9)
    assert days == [format_day(setup.now)] * 3
    setup.restart()
    assert send_bomb(setup, 1, first=50) == days[:1]
    assert len(setup.list_events("bomb")) == 1


def test_a_clock_that_was_ahead_keeps_nobody_out(setup: JudgeSetup) -> None:
    setup.advance_clock(30 * DAY)
    for _ in range(9):
        refusal = receive(setup)
    assert refusal.startswith("450")
    setup.advance_clock(-30 * DAY)
    setup.judge.receiving.correct_clock_step(setup.now)
    setup.advance_clock(HOUR)
    assert receive(setup) == ""


# --- mail bombs -------------------------------------------------------------------------------------------------------


def test_many_senders_that_never_wrote_before_are_a_bomb(bombing: JudgeSetup) -> None:
    days = send_bomb(bombing, 15)
    assert days == [*[""] * 9, *[format_day(bombing.now)] * 6]
    assert receive(bombing, sender="bounce3@d3.example.com") == days[-1], "it was the bomb's, before it was recognised"
    ((account, detail),) = bombing.list_events("bomb")
    assert account == ANNA
    assert "10 senders wrote to it for the first time within an hour" in detail
    assert receive(bombing, BERT, sender="a@new.example") == ""


def test_whom_the_account_knows_stays_in_the_inbox(bombing: JudgeSetup) -> None:
    bombing.send_message(to=["friend@example.net"])
    receive(bombing, sender="list-bounces@lists.example", author="a@b.example", is_list_mail=True)
    bombing.advance_clock(2 * HOUR)
    assert send_bomb(bombing, 20)[-1]
    assert receive(bombing, sender="friend@example.net") == ""
    assert receive(bombing, sender="", author="friend@example.net") == "", "an automatic answer"
    assert receive(bombing, sender="bounce-77@mailer.example", author="news@known.example") == ""
    assert receive(bombing, sender="list-bounces@lists.example", author="new@c.example", is_list_mail=True) == ""
    assert receive(bombing, sender="list-bounces@lists.example", author="new@c.example"), "of a form's sender: no list"
    assert receive(bombing, sender="friend2@example.net"), "who has the same provider, and was not written to"


def test_few_senders_and_known_ones_are_no_bomb(bombing: JudgeSetup) -> None:
    for hour in range(48):
        assert {*send_bomb(bombing, 9, first=9 * hour)} == {""}
        bombing.advance_clock(HOUR)
    for n in range(8):
        assert receive(bombing, sender=f"x{n}@one.example") == "", "one domain is one sender"
    bombing.advance_clock(HOUR)
    known = [receive(bombing, sender=f"again@d{n}.example.com", client=f"2001:db8:{n:x}::1") for n in range(20)]
    assert {*known} == {""}


def test_backscatter_counts_by_network(bombing: JudgeSetup) -> None:
    days = [receive(bombing, sender="", client=f"2001:db8:{n:x}::1") for n in range(12)]
    assert days[:9] == [""] * 9
    assert all(days[9:])


def test_a_new_account_knows_nobody_yet(new_setup: NewSetup) -> None:
    setup = new_setup(receiving=RECEIVING | {"new_senders_per_hour": 10})
    days = send_bomb(setup, 10 * FIRST_DAYS_FACTOR + 5)
    assert [bool(day) for day in days] == [*[False] * (10 * FIRST_DAYS_FACTOR - 1), *[True] * 6]


def test_a_message_to_several_accounts_is_sorted_if_all_get_the_bomb(bombing: JudgeSetup) -> None:
    assert send_bomb(bombing, 20)[-1]
    assert receive(bombing, ANNA, BERT, sender="a@new1.example") == ""
    assert all(send_bomb(bombing, 20, TEAM, first=100)[9:])
    assert receive(bombing, TEAM, sender="a@new2.example")


def test_a_bomb_ends_and_what_comes_later_is_in_the_inbox(bombing: JudgeSetup) -> None:
    send_bomb(bombing, 20)
    bombing.judge.receiving.end_what_is_over(bombing.now)
    assert not bombing.list_events("bomb-end")
    bombing.advance_clock(HOUR + 1)
    bombing.judge.receiving.end_what_is_over(bombing.now)
    assert [account for account, _ in bombing.list_events("bomb-end")] == [ANNA]
    assert receive(bombing, sender="a@new.example") == ""
    bombing.restart()
    assert receive(bombing, sender="b@new.example") == ""


def test_an_undone_bomb_does_not_begin_again_for_a_day(bombing: JudgeSetup) -> None:
    send_bomb(bombing, 20)
    bombing.judge.receiving.undo_bomb(bombing.now, ANNA)
    assert {*send_bomb(bombing, 15, first=100)} == {""}
    bombing.restart()
    bombing.advance_clock(DAY)
    assert {*send_bomb(bombing, 15, first=100)} == {""}, "they are known by now"
    assert send_bomb(bombing, 15, first=200)[-1]


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_is_bounded_by_limits_and_not_by_senders(bombing: JudgeSetup) -> None:
    answers = send_bomb(bombing, 1500)
    assert answers[-1].startswith("450")
    receiver = bombing.judge.receiving._receivers[ANNA]
    assert len(receiver.new_origins) == 2 * FIRST_DAYS_FACTOR * LIMITS["new_senders_per_hour"]
    assert [len(count._times) for count in receiver.counts] == [500, 0, 0]
    bombing.judge.receiving.forget_expired(bombing.now + HOUR)
    assert not bombing.judge.receiving._receivers


@pytest.mark.parametrize(
    ("line", "author"),
    [
        ("Anna <Anna@Example.org>", "anna@example.org"),
        ('"a@b.example" <c@d.example>', "c@d.example"),
        ("anna@example.org (Anna)", "anna@example.org"),
        ("", ""),
        ("<>", ""),
        ("<" * 100_000, ""),
        ("a@" * 50_000, "a@a"),
        ("\udcff@\udcff", ""),
    ],
)
def test_authors_are_read(line: str, author: str) -> None:
    assert read_author(line) == author
