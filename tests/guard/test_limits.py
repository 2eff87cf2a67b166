"""Which messages count, which do not, and that exactly the limit is accepted."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from guard_samples import ANNA, BERT, FREEZE, LIMITS, NO_LIMITS, JudgeSetup, build_config

from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard import config
from mailkeep_server.guard.policy import DUNNO, PolicyRequest
from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES

NewSetup = Callable[..., JudgeSetup]


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
def test_exactly_the_limit_is_accepted_and_fits_again_to_the_millisecond(
    new_setup: NewSetup, limit: str, window: int
) -> None:
    setup = new_setup(limits=NO_LIMITS | {limit: 7})
    for _ in range(7):
        assert setup.send_message() == DUNNO
    assert setup.send_message().startswith("450 4.7.1")
    setup.advance_clock(window - 1)
    assert setup.send_message().startswith("450")
    setup.advance_clock(1)
    assert setup.send_message() == DUNNO


def test_a_message_counts_as_its_recipients(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"recipients_per_hour": 10})
    assert setup.send_message(to=4) == setup.send_message(to=6) == DUNNO
    assert setup.usage_of() == (2, 10, 6)
    assert setup.send_message(to=1).startswith("450")


def test_the_first_recipient_too_many_is_refused_and_the_message_may_go_without_it(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"recipients_per_hour": 3})
    actions = [setup.ask_recipient(f"r{number}@example.net") for number in range(5)]
    assert [action[:5] for action in actions] == ["DUNNO"] * 3 + ["450 4"] * 2


def test_recipients_that_the_guard_did_not_see_count_at_the_end_and_as_new(new_setup: NewSetup) -> None:
    """As after a restart during a message."""
    setup = new_setup(limits=NO_LIMITS | {"recipients_per_hour": 10})
    first = PolicyRequest(ANNA, "192.0.2.1", "i1", recipients=10, queue_id="Q1")
    assert setup.judge.judge_message(setup.now, first) == DUNNO
    assert setup.usage_of() == (1, 10, 10)
    second = PolicyRequest(ANNA, "192.0.2.1", "i2", recipients=1, queue_id="Q2")
    assert setup.judge.judge_message(setup.now, second).startswith("450")


def test_a_recipient_named_twice_counts_once(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"recipients_per_hour": 1})
    assert setup.ask_recipient("r@example.net") == setup.ask_recipient("R@Example.NET") == DUNNO


def test_a_refused_message_is_not_charged(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"messages_per_hour": 3})
    for _ in range(3):
        setup.send_message()
    for _ in range(100):
        setup.advance_clock(1000)
        assert setup.send_message().startswith("450")
    setup.advance_clock(HOUR - 100_000)
    assert [setup.send_message() for _ in range(3)] == [DUNNO] * 3


def test_a_message_without_an_end_is_not_charged(new_setup: NewSetup) -> None:
    """RCPT, and then RSET, a lost connection, or a message that Postfix refuses for its own reasons."""
    setup = new_setup(limits=NO_LIMITS | {"recipients_per_hour": 3})
    for number in range(50):
        assert setup.ask_recipient("r@example.net", instance=f"i{number}") == DUNNO
    assert setup.usage_of() == (0, 0, 0)


def test_upper_case_is_the_same_account(ask_shared_guard: Callable[[str], str]) -> None:
    assert ask_shared_guard("n0@example.org") == ask_shared_guard("N0@Example.ORG") == DUNNO


def test_an_account_does_not_use_up_the_limits_of_another(new_setup: NewSetup) -> None:
    setup = new_setup()
    while setup.send_message() == DUNNO:
        pass
    assert setup.send_message(BERT) == DUNNO


def test_an_override_replaces_the_limits_of_its_account(new_setup: NewSetup) -> None:
    setup = new_setup(
        accounts={ANNA: {"addresses": [], "limits": NO_LIMITS | {"recipients_per_hour": 200}}, BERT: {"addresses": []}}
    )
    assert setup.send_message(to=200) == DUNNO
    assert setup.send_message(BERT, to=LIMITS["recipients_per_10_minutes"] + 1).startswith("450")


def test_a_stranger_sends_nothing(new_setup: NewSetup) -> None:
    setup = new_setup()
    assert setup.send_message("eve@example.org") == "450 4.7.1 eve@example.org is no account here"
    assert setup.send_message("") == "450 4.7.1 Nobody is no account here"


def test_a_refusal_says_why_until_when_and_whom_to_ask(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"messages_per_hour": 2})
    setup.send_message()
    setup.advance_clock(TEN_MINUTES)
    setup.send_message()
    assert setup.send_message() == (
        "450 4.7.1 anna@example.org may send 2 messages in an hour; again at 13:00 UTC, "
        "or ask postmaster@mail.example.org"
    )


# --- first-time recipients --------------------------------------------------------------------------------------------


def test_an_account_may_write_to_only_so_many_first_time_recipients_a_day(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"new_recipients_per_day": 3})
    assert (
        setup.send_message(to=["a@example.net", "b@example.net"]) == setup.send_message(to=["c@example.net"]) == DUNNO
    )
    assert setup.send_message(to=["d@example.net"]).startswith("450")
    assert setup.send_message(to=["a@example.net", "B@example.net", "c@example.net"]) == DUNNO
    setup.advance_clock(DAY)
    assert setup.send_message(to=["d@example.net"]) == DUNNO


def test_a_recipient_of_an_unfinished_message_stays_new(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"new_recipients_per_day": 1})
    setup.ask_recipient("a@example.net", instance="given up")
    assert setup.send_message(to=["b@example.net"]) == DUNNO
    assert setup.send_message(to=["a@example.net"]).startswith("450")


def test_known_recipients_are_known_after_a_restart_and_to_their_account_only(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"new_recipients_per_day": 1})
    setup.send_message(to=["a@example.net"])
    setup.restart()
    assert setup.send_message(to=["a@example.net"]) == DUNNO
    assert setup.send_message(BERT, to=["c@example.net"]) == DUNNO
    assert setup.send_message(BERT, to=["a@example.net"]).startswith("450")


def test_a_recipient_of_a_dropped_message_stays_new(new_setup: NewSetup) -> None:
    """As after a From: line of somebody else, which must not make the recipient known to the account."""
    setup = new_setup(limits=NO_LIMITS | {"new_recipients_per_day": 2})
    setup.send_message(to=["a@example.net", "b@example.net"], queue_id="Q1")
    setup.judge.ledger.message_dropped("Q1")
    assert setup.send_message(to=["c@example.net"]) == DUNNO
    assert setup.send_message(to=["a@example.net", "b@example.net"]).startswith("450")
    assert setup.usage_of() == (1, 1, 1)


def test_a_recipient_of_a_message_during_a_kill_stays_new_until_one_is_accepted(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"new_recipients_per_day": 2})
    setup.send_message(to=["a@example.net"], queue_id="Q1")
    setup.restart()
    setup.judge.ledger.message_accepted("Q1")
    assert setup.send_message(to=["a@example.net"]) == DUNNO
    assert setup.usage_of() == (2, 2, 2)
    setup.restart()
    assert setup.send_message(to=["a@example.net"]) == DUNNO
    assert setup.usage_of() == (3, 3, 2)


# --- networks ---------------------------------------------------------------------------------------------------------


def test_only_so_many_networks_an_hour(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"networks_per_hour": 2})
    assert setup.send_message(client="192.0.2.1") == setup.send_message(client="198.51.100.1") == DUNNO
    assert "may send from 2 networks in an hour" in setup.send_message(client="203.0.113.1")
    setup.advance_clock(HOUR - 1)
    assert setup.send_message(client="198.51.100.1") == DUNNO
    assert setup.send_message(client="203.0.113.1").startswith("450")
    setup.advance_clock(1)
    assert setup.send_message(client="203.0.113.1") == DUNNO


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
def test_a_network_is_as_large_as_a_customer_gets(new_setup: NewSetup, first: str, second: str, same: bool) -> None:
    setup = new_setup(limits=NO_LIMITS | {"networks_per_hour": 1})
    setup.send_message(client=first)
    assert (setup.send_message(client=second) == DUNNO) is same


# --- repeated requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
def test_a_request_that_postfix_repeats_without_an_answer_counts_once(new_setup: NewSetup, restarted: bool) -> None:
    """After a timeout, or the end of the connection, Postfix sends the same request over another one."""
    setup = new_setup(limits=NO_LIMITS | {"messages_per_hour": 1, "new_recipients_per_day": 1})
    request = PolicyRequest(ANNA, "192.0.2.1", "i1", recipients=1, queue_id="Q1")
    setup.judge.judge_recipient(setup.now, request._replace(recipient="a@example.net"))
    assert setup.judge.judge_message(setup.now, request) == DUNNO
    setup.advance_clock(100_000)
    if restarted:
        setup.restart()
    assert setup.judge.judge_message(setup.now, request) == DUNNO
    assert setup.usage_of() == (1, 1, 1)
    assert setup.judge.judge_message(setup.now, request._replace(queue_id="Q2", instance="i2")).startswith("450")
    assert setup.judge.judge_message(setup.now, request._replace(account=BERT)) == DUNNO
    assert setup.usage_of(BERT) == (1, 1, 1)


def test_a_repeated_request_of_an_account_frozen_meanwhile_is_refused(new_setup: NewSetup) -> None:
    setup = new_setup()
    request = PolicyRequest(ANNA, "192.0.2.1", "i1", recipients=1, queue_id="Q1")
    assert setup.judge.judge_message(setup.now, request) == DUNNO
    freeze_list.freeze_account(
        ANNA, "carl", "lost her phone", datetime(2025, 11, 25, 12, tzinfo=UTC), setup.frozen_file
    )
    setup.advance_clock(1)
    assert setup.judge.judge_message(setup.now, request).startswith("521")


# --- ceilings ---------------------------------------------------------------------------------------------------------


def test_all_together_send_no_more_than_the_ceiling(new_setup: NewSetup) -> None:
    setup = new_setup(server={"recipients_per_hour": 10, "recipients_per_day": 1000}, limits=NO_LIMITS)
    assert setup.send_message(ANNA, to=5) == setup.send_message(BERT, to=5) == DUNNO
    assert setup.send_message(BERT).startswith("450 4.7.1 All who send here may send 10 recipients in an hour")
    assert setup.send_local("L1").startswith("450")
    assert [kind for kind, _ in setup.list_events("ceiling")] == [""]


def test_programs_on_the_server_have_a_ceiling_of_their_own(new_setup: NewSetup) -> None:
    setup = new_setup(local={"recipients_per_hour": 3, "recipients_per_day": 1000}, limits=NO_LIMITS)
    assert [setup.send_local(f"L{number}") for number in range(3)] == [None] * 3
    assert setup.send_local("L4").startswith("450 4.7.1 Programs on this server may send 3")
    assert setup.send_message() == DUNNO
    assert len(setup.list_events("local")) == 1
    setup.restart()
    assert setup.send_local("L5").startswith("450")


def test_an_honest_user_is_not_blamed_for_the_ceiling(new_setup: NewSetup) -> None:
    setup = new_setup(
        server={"recipients_per_hour": 1, "recipients_per_day": 1},
        freeze={
            **dict.fromkeys(("refused_tries", "foreign_senders", "networks", "new_recipients", "spam_messages"), 1)
        },
    )
    setup.send_message(BERT)
    for _ in range(20):
        assert setup.send_message(ANNA).startswith("450")
    assert not setup.freeze_reasons()


# --- uncounted messages -----------------------------------------------------------------------------------------------


def test_a_message_that_postfix_refuses_after_all_does_not_count(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"messages_per_hour": 2})
    setup.send_message(to=1, queue_id="Q1")
    setup.advance_clock(1000)
    setup.send_message(to=3, queue_id="Q2")
    setup.judge.ledger.message_dropped("Q1")
    setup.judge.ledger.message_dropped("Q1")
    assert setup.usage_of() == (1, 3, 3)
    assert setup.send_message() == DUNNO
    assert setup.send_message().startswith("450")
    setup.restart()
    assert setup.usage_of()[:2] == (2, 4)
    assert setup.send_message().startswith("450")


def test_only_the_message_itself_is_uncounted(new_setup: NewSetup) -> None:
    """Not one of the same size, of another time."""
    setup = new_setup()
    setup.send_message(queue_id="Q1")
    setup.advance_clock(TEN_MINUTES // 2)
    setup.send_message(queue_id="Q2")
    setup.judge.ledger.message_dropped("Q1")
    setup.advance_clock(TEN_MINUTES // 2)
    assert setup.usage_of(window=TEN_MINUTES)[0] == 1
    assert setup.judge.ledger.server.usage_within(setup.now, TEN_MINUTES).messages == 1


def test_a_clock_that_goes_back_a_little_loses_no_count_and_uncounts_exactly(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"messages_per_hour": 2})
    setup.send_message(BERT)
    setup.advance_clock(-TEN_MINUTES)
    setup.judge.ledger.correct_clock_step(setup.now)
    setup.send_message(queue_id="Q1")
    setup.send_message()
    assert setup.send_message().startswith("450")
    setup.judge.ledger.message_dropped("Q1")
    assert setup.judge.ledger.server.usage_within(setup.now, HOUR).messages == 2
    assert setup.send_message() == DUNNO


@pytest.mark.parametrize("running", [True, False])
def test_a_clock_that_was_ahead_once_holds_up_nobody(new_setup: NewSetup, running: bool) -> None:
    """As at a boot, until the time arrives over the network."""
    most = {"messages_per_10_minutes": 2, "networks_per_hour": 1}
    setup = new_setup(limits=NO_LIMITS | most, freeze=FREEZE)
    setup.advance_clock(DAY)
    for number in range(2):
        setup.send_message(BERT, queue_id=f"Q{number}")
    for _ in range(FREEZE["refused_tries"] - 1):
        setup.send_message(BERT)
    setup.send_local("L1")
    setup.advance_clock(-DAY)
    if running:
        setup.judge.ledger.correct_clock_step(setup.now)
    else:
        setup.restart()
    assert setup.list_events("clock") == [
        ("", "The clock has gone back by 1440 minutes; what was sent since counts from now on")
    ]
    for _ in range(3):
        setup.advance_clock(TEN_MINUTES)
        assert [setup.send_message()[:3] for _ in range(3)] == ["DUN", "DUN", "450"]
        assert [setup.send_message(BERT)[:3] for _ in range(3)] == ["DUN", "DUN", "450"]
        setup.restart()
        setup.judge.ledger.correct_clock_step(setup.now)
    setup.advance_clock(HOUR)
    assert setup.send_message(BERT, client="198.51.100.1") == DUNNO
    assert setup.judge.ledger.server.usage_within(setup.now, DAY).messages == 3 + 12 + 1
    assert len(setup.list_events("clock")) == 1
    assert not setup.freeze_reasons()


def test_a_message_of_a_clock_that_was_ahead_counts_and_can_be_uncounted(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"messages_per_hour": 3})
    setup.advance_clock(DAY)
    setup.send_message(queue_id="Q1")
    setup.send_message(queue_id="Q2")
    setup.advance_clock(-DAY)
    setup.judge.ledger.correct_clock_step(setup.now)
    setup.judge.ledger.message_dropped("Q1")
    assert setup.usage_of()[0] == 1
    assert [setup.send_message()[:3] for _ in range(3)] == ["DUN", "DUN", "450"]


def test_an_accepted_message_stays_counted_in_the_ledger(new_setup: NewSetup) -> None:
    setup = new_setup()
    setup.send_message(queue_id="Q1")
    setup.judge.ledger.message_accepted("Q1")
    setup.judge.ledger.message_dropped("Q1")
    assert setup.usage_of()[0] == 1


# --- notices to the operator ------------------------------------------------------------------------------------------


def test_the_operator_is_told_once_that_an_account_is_near_and_over_a_limit(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"messages_per_hour": 10})
    for _ in range(7):
        setup.send_message()
    assert not setup.list_events("near")
    for _ in range(8):
        setup.send_message()
    assert setup.list_events("near") == [(ANNA, "has sent 8 of 10 messages in an hour, last from 192.0.2.1")]
    assert setup.list_events("over") == [
        (ANNA, "may send 10 messages in an hour; 1 refused in 10 minutes, 1000000000 freeze it, last from 192.0.2.1")
    ]
    setup.advance_clock(HOUR)
    for _ in range(15):
        setup.send_message()
    assert len(setup.list_events("near")) == len(setup.list_events("over")) == 2


def test_the_operator_is_told_of_a_network_never_used_but_not_of_the_first(new_setup: NewSetup) -> None:
    setup = new_setup()
    setup.send_message(client="192.0.2.1")
    assert not setup.list_events("network")
    setup.send_message(client="198.51.100.1")
    setup.restart()
    setup.send_message(client="198.51.100.9")
    setup.send_message(client="192.0.2.9")
    assert setup.list_events("network") == [
        (ANNA, "sends from 198.51.100.0/24, for the first time, last from 198.51.100.1")
    ]


def test_mode_learn_refuses_nothing_and_notes_what_it_would_have_refused(new_setup: NewSetup) -> None:
    setup = new_setup(mode="learn", limits=NO_LIMITS | {"messages_per_hour": 2, "networks_per_hour": 1})
    assert [setup.send_message() for _ in range(10)] == [DUNNO] * 10
    assert setup.send_message(client="198.51.100.1") == DUNNO
    assert {detail.partition(";")[0] for _, detail in setup.list_events("would-refuse")} == {
        "may send 2 messages in an hour",
        "may send from 1 networks in an hour",
    }
    assert not setup.list_events("over")


@pytest.mark.slow
def test_an_account_that_does_not_send_takes_little_memory(tmp_path: Path) -> None:
    """A hundred thousand of them have 16 MB."""
    file, number = tmp_path / "guard.json", 5000
    accounts = {f"n{index}@example.test": {"addresses": []} for index in range(number)}
    file.write_text(json.dumps(build_config(accounts=accounts)))
    tracemalloc.start()
    try:
        loaded = config.load_config(file)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(loaded.addresses) == number
    assert taken / number < 250
