"""What counts, what does not, and that exactly the limit goes through."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from guard_samples import ANNA, BERT, FREEZE, LIMITS, NO_LIMITS, Desk

from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard.policy import DUNNO, PolicyRequest
from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES

MakeDesk = Callable[..., Desk]


# --- the limits of an account -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "window"),
    [
        ("messages_per_10_minutes", TEN_MINUTES),
        ("messages_per_hour", HOUR),
        ("messages_per_day", DAY),
        ("recipients_per_10_minutes", TEN_MINUTES),
        ("recipients_per_hour", HOUR),
        ("recipients_per_day", DAY),
    ],
)
def test_exactly_the_limit_goes_and_fits_again_to_the_millisecond(desk: MakeDesk, limit: str, window: int) -> None:
    made = desk(limits=NO_LIMITS | {limit: 7})
    for _ in range(7):
        assert made.send() == DUNNO
    assert made.send().startswith("450 4.7.1")
    made.later(window - 1)
    assert made.send().startswith("450")
    made.later(1)
    assert made.send() == DUNNO


def test_a_message_counts_as_its_recipients(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"recipients_per_hour": 10})
    assert made.send(to=4) == made.send(to=6) == DUNNO
    assert made.used() == (2, 10, 6)
    assert made.send(to=1).startswith("450")


def test_the_first_recipient_too_many_is_refused_and_the_message_may_go_without_it(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"recipients_per_hour": 3})
    said = [made.recipient(f"r{number}@example.net") for number in range(5)]
    assert [one[:5] for one in said] == ["DUNNO"] * 3 + ["450 4"] * 2


def test_recipients_that_the_guard_never_heard_of_count_at_the_end_and_as_new(desk: MakeDesk) -> None:
    """As after a restart in the midst of a message."""
    made = desk(limits=NO_LIMITS | {"recipients_per_hour": 10})
    ask = made.judge.judge_message
    assert ask(made.now, PolicyRequest(ANNA, "192.0.2.1", "i1", recipients=10, queue_id="Q1")) == DUNNO
    assert made.used() == (1, 10, 10)
    assert ask(made.now, PolicyRequest(ANNA, "192.0.2.1", "i2", recipients=1, queue_id="Q2")).startswith("450")


def test_a_recipient_named_twice_counts_once(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"recipients_per_hour": 1})
    assert made.recipient("r@example.net") == made.recipient("R@Example.NET") == DUNNO


def test_what_was_refused_is_not_charged(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"messages_per_hour": 3})
    for _ in range(3):
        made.send()
    for _ in range(100):
        made.later(1000)
        assert made.send().startswith("450")
    made.later(HOUR - 100_000)
    assert [made.send() for _ in range(3)] == [DUNNO] * 3


def test_what_has_no_end_is_not_charged(desk: MakeDesk) -> None:
    """RCPT, and then RSET, a lost connection, or a message that Postfix refuses for its own reasons."""
    made = desk(limits=NO_LIMITS | {"recipients_per_hour": 3})
    for number in range(50):
        assert made.recipient("r@example.net", instance=f"i{number}") == DUNNO
    assert made.used() == (0, 0, 0)


def test_upper_case_is_the_same_account(shared_policy: Callable[[str], str]) -> None:
    assert shared_policy("n0@example.org") == shared_policy("N0@Example.ORG") == DUNNO


def test_one_account_does_not_use_up_what_another_may(desk: MakeDesk) -> None:
    made = desk()
    while made.send() == DUNNO:
        pass
    assert made.send(BERT) == DUNNO


def test_an_override_replaces_the_limits_of_one_account(desk: MakeDesk) -> None:
    made = desk(
        accounts={ANNA: {"addresses": [], "limits": NO_LIMITS | {"recipients_per_hour": 200}}, BERT: {"addresses": []}}
    )
    assert made.send(to=200) == DUNNO
    assert made.send(BERT, to=LIMITS["recipients_per_10_minutes"] + 1).startswith("450")


def test_a_stranger_sends_nothing(desk: MakeDesk) -> None:
    made = desk()
    assert made.send("eve@example.org") == "450 4.7.1 eve@example.org is no account here"
    assert made.send("") == "450 4.7.1 Nobody is no account here"


def test_a_refusal_tells_an_honest_user_why_until_when_and_whom_to_ask(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"messages_per_hour": 2})
    made.send()
    made.later(TEN_MINUTES)
    made.send()
    assert made.send() == (
        "450 4.7.1 anna@example.org may send 2 messages in an hour; again at 13:00 UTC, "
        "or ask postmaster@mail.example.org"
    )


# --- first-time recipients --------------------------------------------------------------------------------------------


def test_only_so_many_people_a_day_may_hear_from_an_account_for_the_first_time(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"new_recipients_per_day": 3})
    assert made.send(to=["a@example.net", "b@example.net"]) == made.send(to=["c@example.net"]) == DUNNO
    assert made.send(to=["d@example.net"]).startswith("450")
    assert made.send(to=["a@example.net", "B@example.net", "c@example.net"]) == DUNNO
    made.later(DAY)
    assert made.send(to=["d@example.net"]) == DUNNO


def test_who_was_never_sent_to_stays_new(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"new_recipients_per_day": 1})
    made.recipient("a@example.net", instance="given up")
    assert made.send(to=["b@example.net"]) == DUNNO
    assert made.send(to=["a@example.net"]).startswith("450")


def test_known_recipients_are_known_after_a_restart_and_to_one_account_only(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"new_recipients_per_day": 1})
    made.send(to=["a@example.net"])
    made.restart()
    assert made.send(to=["a@example.net"]) == DUNNO
    assert made.send(BERT, to=["c@example.net"]) == DUNNO
    assert made.send(BERT, to=["a@example.net"]).startswith("450")


def test_who_was_to_hear_from_it_by_a_message_that_did_not_go_stays_new(desk: MakeDesk) -> None:
    """As one with a From: line of somebody else's, which makes nobody known to the account."""
    made = desk(limits=NO_LIMITS | {"new_recipients_per_day": 2})
    made.send(to=["a@example.net", "b@example.net"], queue_id="Q1")
    made.judge.ledger.message_dropped("Q1")
    assert made.send(to=["c@example.net"]) == DUNNO
    assert made.send(to=["a@example.net", "b@example.net"]).startswith("450")
    assert made.used() == (1, 1, 1)


def test_who_was_to_hear_from_it_when_the_guard_was_killed_stays_new_until_a_message_goes(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"new_recipients_per_day": 2})
    made.send(to=["a@example.net"], queue_id="Q1")
    made.restart()
    made.judge.ledger.message_accepted("Q1")
    assert made.send(to=["a@example.net"]) == DUNNO
    assert made.used() == (2, 2, 2)
    made.restart()
    assert made.send(to=["a@example.net"]) == DUNNO
    assert made.used() == (3, 3, 2)


# --- networks ---------------------------------------------------------------------------------------------------------


def test_only_so_many_networks_an_hour(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"networks_per_hour": 2})
    assert made.send(client="192.0.2.1") == made.send(client="198.51.100.1") == DUNNO
    assert "may send from 2 networks in an hour" in made.send(client="203.0.113.1")
    made.later(HOUR - 1)
    assert made.send(client="198.51.100.1") == DUNNO
    assert made.send(client="203.0.113.1").startswith("450")
    made.later(1)
    assert made.send(client="203.0.113.1") == DUNNO


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.254", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8:1:2::1", "2001:db8:1:ffff::9", True),
        ("2001:db8:1::1", "2001:db8:2::1", False),
        ("2001:DB8:1::1", "2001:db8:1::1", True),
        ("unknown", "unknown", True),
    ],
)
def test_a_network_is_what_one_customer_gets(desk: MakeDesk, first: str, second: str, same: bool) -> None:
    made = desk(limits=NO_LIMITS | {"networks_per_hour": 1})
    made.send(client=first)
    assert (made.send(client=second) == DUNNO) is same


# --- asked again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
def test_what_postfix_asks_again_since_it_heard_no_answer_counts_once(desk: MakeDesk, restarted: bool) -> None:
    """After a timeout, or the end of the connection, it sends the same request over another one."""
    made = desk(limits=NO_LIMITS | {"messages_per_hour": 1, "new_recipients_per_day": 1})
    request = PolicyRequest(ANNA, "192.0.2.1", "i1", recipients=1, queue_id="Q1")
    made.judge.judge_recipient(made.now, request._replace(recipient="a@example.net"))
    assert made.judge.judge_message(made.now, request) == DUNNO
    made.later(100_000)
    if restarted:
        made.restart()
    assert made.judge.judge_message(made.now, request) == DUNNO
    assert made.used() == (1, 1, 1)
    assert made.judge.judge_message(made.now, request._replace(queue_id="Q2", instance="i2")).startswith("450")
    assert made.judge.judge_message(made.now, request._replace(account=BERT)) == DUNNO
    assert made.used(BERT) == (1, 1, 1)


def test_a_frozen_account_is_not_answered_as_before_its_freeze(desk: MakeDesk) -> None:
    made = desk()
    request = PolicyRequest(ANNA, "192.0.2.1", "i1", recipients=1, queue_id="Q1")
    assert made.judge.judge_message(made.now, request) == DUNNO
    freeze_list.freeze_account(ANNA, "carl", "lost her phone", datetime(2025, 11, 25, 12, tzinfo=UTC), made.frozen_file)
    made.later(1)
    assert made.judge.judge_message(made.now, request).startswith("521")


# --- ceilings ---------------------------------------------------------------------------------------------------------


def test_all_together_send_no_more_than_the_ceiling(desk: MakeDesk) -> None:
    made = desk(server={"recipients_per_hour": 10, "recipients_per_day": 1000}, limits=NO_LIMITS)
    assert made.send(ANNA, to=5) == made.send(BERT, to=5) == DUNNO
    assert made.send(BERT).startswith("450 4.7.1 All who send here may send 10 recipients in an hour")
    assert made.judge.judge_local_message(made.now, 1, "L1").startswith("450")
    assert [kind for kind, _ in made.events("ceiling")] == [""]


def test_programs_on_the_server_have_a_ceiling_of_their_own(desk: MakeDesk) -> None:
    made = desk(local={"recipients_per_hour": 3, "recipients_per_day": 1000}, limits=NO_LIMITS)
    assert [made.judge.judge_local_message(made.now, 1, f"L{number}") for number in range(3)] == [None] * 3
    assert made.judge.judge_local_message(made.now, 1, "L4").startswith("450 4.7.1 Programs on this server may send 3")
    assert made.send() == DUNNO
    assert len(made.events("local")) == 1
    made.restart()
    assert made.judge.judge_local_message(made.now, 1, "L5").startswith("450")


def test_an_honest_user_is_not_blamed_for_the_ceiling(desk: MakeDesk) -> None:
    made = desk(
        server={"recipients_per_hour": 1, "recipients_per_day": 1},
        freeze={**dict.fromkeys(("refused_tries", "foreign_senders", "networks", "new_recipients"), 1)},
    )
    made.send(BERT)
    for _ in range(20):
        assert made.send(ANNA).startswith("450")
    assert not made.frozen()


# --- taken back -------------------------------------------------------------------------------------------------------


def test_a_message_that_postfix_refuses_after_all_does_not_count(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"messages_per_hour": 2})
    made.send(to=1, queue_id="Q1")
    made.later(1000)
    made.send(to=3, queue_id="Q2")
    made.judge.ledger.message_dropped("Q1")
    made.judge.ledger.message_dropped("Q1")
    assert made.used() == (1, 3, 3)
    assert made.send() == DUNNO
    assert made.send().startswith("450")
    made.restart()
    assert made.used()[:2] == (2, 4)
    assert made.send().startswith("450")


def test_only_the_message_itself_is_taken_back(desk: MakeDesk) -> None:
    """Not one like it, of another time."""
    made = desk()
    made.send(queue_id="Q1")
    made.later(TEN_MINUTES // 2)
    made.send(queue_id="Q2")
    made.judge.ledger.message_dropped("Q1")
    made.later(TEN_MINUTES // 2)
    assert made.used(window=TEN_MINUTES)[0] == 1
    assert made.judge.ledger.server.usage_within(made.now, TEN_MINUTES).messages == 1


def test_a_clock_that_goes_back_a_little_loses_no_count_and_takes_back_exactly(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"messages_per_hour": 2})
    made.send(BERT)
    made.later(-TEN_MINUTES)
    made.judge.ledger.correct_clock_step(made.now)
    made.send(queue_id="Q1")
    made.send()
    assert made.send().startswith("450")
    made.judge.ledger.message_dropped("Q1")
    assert made.judge.ledger.server.usage_within(made.now, HOUR).messages == 2
    assert made.send() == DUNNO


@pytest.mark.parametrize("running", [True, False])
def test_a_clock_that_was_ahead_once_holds_up_nobody(desk: MakeDesk, running: bool) -> None:
    """As at a boot, until the time has come over the network."""
    most = {"messages_per_10_minutes": 2, "networks_per_hour": 1}
    made = desk(limits=NO_LIMITS | most, freeze=FREEZE)
    made.later(DAY)
    for number in range(2):
        made.send(BERT, queue_id=f"Q{number}")
    for _ in range(FREEZE["refused_tries"] - 1):
        made.send(BERT)
    made.judge.judge_local_message(made.now, 1, "L1")
    made.later(-DAY)
    if running:
        made.judge.ledger.correct_clock_step(made.now)
    else:
        made.restart()
    assert made.events("clock") == [
        ("", "The clock has gone back by 1440 minutes; what was sent since counts from now on")
    ]
    for _ in range(3):
        made.later(TEN_MINUTES)
        assert [made.send()[:3] for _ in range(3)] == ["DUN", "DUN", "450"]
        assert [made.send(BERT)[:3] for _ in range(3)] == ["DUN", "DUN", "450"]
        made.restart()
        made.judge.ledger.correct_clock_step(made.now)
    made.later(HOUR)
    assert made.send(BERT, client="198.51.100.1") == DUNNO
    assert made.judge.ledger.server.usage_within(made.now, DAY).messages == 3 + 12 + 1
    assert len(made.events("clock")) == 1
    assert not made.frozen()


def test_what_was_sent_while_the_clock_was_ahead_counts_and_is_taken_back(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"messages_per_hour": 3})
    made.later(DAY)
    made.send(queue_id="Q1")
    made.send(queue_id="Q2")
    made.later(-DAY)
    made.judge.ledger.correct_clock_step(made.now)
    made.judge.ledger.message_dropped("Q1")
    assert made.used()[0] == 1
    assert [made.send()[:3] for _ in range(3)] == ["DUN", "DUN", "450"]


def test_what_went_stays_counted(desk: MakeDesk) -> None:
    made = desk()
    made.send(queue_id="Q1")
    made.judge.ledger.message_accepted("Q1")
    made.judge.ledger.message_dropped("Q1")
    assert made.used()[0] == 1


# --- the operator is told, once ---------------------------------------------------------------------------------------


def test_the_operator_hears_once_that_an_account_is_near_and_over_a_limit(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"messages_per_hour": 10})
    for _ in range(7):
        made.send()
    assert not made.events("near")
    for _ in range(8):
        made.send()
    assert made.events("near") == [(ANNA, "has sent 8 of 10 messages in an hour")]
    assert made.events("over") == [(ANNA, "may send 10 messages in an hour")]
    made.later(HOUR)
    for _ in range(15):
        made.send()
    assert len(made.events("near")) == len(made.events("over")) == 2


def test_the_operator_hears_of_a_network_never_used_but_not_of_the_first(desk: MakeDesk) -> None:
    made = desk()
    made.send(client="192.0.2.1")
    assert not made.events("network")
    made.send(client="198.51.100.1")
    made.restart()
    made.send(client="198.51.100.9")
    made.send(client="192.0.2.9")
    assert made.events("network") == [(ANNA, "sends from 198.51.100.0/24, for the first time")]


def test_mode_learn_refuses_nothing_and_says_what_it_would_have(desk: MakeDesk) -> None:
    made = desk(mode="learn", limits=NO_LIMITS | {"messages_per_hour": 2, "networks_per_hour": 1})
    assert [made.send() for _ in range(10)] == [DUNNO] * 10
    assert made.send(client="198.51.100.1") == DUNNO
    assert {detail for _, detail in made.events("would-refuse")} == {
        "may send 2 messages in an hour",
        "may send from 1 networks in an hour",
    }
    assert not made.events("over")
