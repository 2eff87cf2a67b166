"""What is counted is who is reached: behind aliases, aliases of aliases and catch-alls, whoever writes to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from guard_samples import (
    ANNA,
    BERT,
    FREEZE,
    NO_CEILING,
    NO_LIMITS,
    JudgeSetup,
    build_config,
    build_message,
    build_packet,
)

from mailkeep_server.common.alias_reach import AliasReach
from mailkeep_server.common.guard_summary import summarise_config
from mailkeep_server.common.milter_server import split_packets
from mailkeep_server.common.sender_kinds import BOUNCE, FORWARD, LOCAL
from mailkeep_server.guard.config import describe_config, load_config
from mailkeep_server.guard.forwards import MAX_EXTENSIONS
from mailkeep_server.guard.milter import MilterSession
from mailkeep_server.guard.policy import DUNNO
from mailkeep_server.guard.sliding_window import DAY, HOUR, SendHistory

NewSetup = Callable[..., JudgeSetup]

CLUB = [f"m{number}@example.net" for number in range(400)]
ALIASES = {
    "members@example.org": CLUB,
    "all@example.org": ["members@example.org", "Board@example.org", ANNA, "friend@example.net"],
    "board@example.org": ["all@example.org", "m0+board@example.net", "m1@example.net"],
    "team@example.org": [ANNA, BERT],
    "postmaster@mail.example.org": ["you@example.net"],
}
CATCH_ALL = {"example.com": ["members@example.org"]}
DOMAINS = ["example.org", "example.com", "mail.example.org"]
LISTS = {"recipients_per_hour": 5, "recipients_per_day": 20, "messages_per_hour": 2, "messages_per_day": 10}


@pytest.fixture
def new_club(new_setup: NewSetup) -> NewSetup:
    return lambda **changes: new_setup(
        **{"aliases": ALIASES, "catch_all": CATCH_ALL, "domains": DOMAINS, "limits": NO_LIMITS} | changes
    )


# --- who is reached ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "name", "number"),
    [
        ("members@example.org", "members@example.org", 400),
        ("Members+x@Example.ORG", "members@example.org", 400),
        # Each member once, however many ways lead there; a loop ends.
        ("all@example.org", "all@example.org", 403),
        ("whatever@example.com", "@example.com", 400),
        (ANNA, "", 1),
        ("anna+x@example.org", "", 1),
        ("x@example.net", "", 1),
        ("postmaster+97@mail.example.org", "postmaster@mail.example.org", 1),
        ("root", "", 1),
    ],
)
def test_aliases_and_catch_alls_are_followed_to_the_end(address: str, name: str, number: int) -> None:
    aliases = {alias.lower(): targets for alias, targets in ALIASES.items()}
    reach = AliasReach(aliases, {"example.com": "members@example.org"}, {ANNA, BERT}, set(DOMAINS))
    assert reach.find_list(address) == name
    assert len(reach.expand(address)) == number


def test_an_account_of_a_domain_with_a_catch_all_is_no_list() -> None:
    reach = AliasReach({}, {"example.org": "you@example.net"}, {ANNA}, {"example.org"})
    assert reach.expand("anna+x@example.org") == ("anna+x@example.org",)
    assert reach.expand("other@example.org") == ("you@example.net",)


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_a_list_counts_as_its_members_and_they_as_first_time_recipients(new_club: NewSetup) -> None:
    setup = new_club()
    assert setup.send_message(to=["members@example.org"]) == DUNNO
    assert setup.usage_of() == (1, 400, 400)
    assert setup.send_message(to=["members@example.org", "m3@example.net", "m3+x@example.net"]) == DUNNO
    assert setup.usage_of() == (2, 801, 401)


def test_a_list_beyond_the_limits_is_refused_with_its_size_and_freezes_nobody(new_club: NewSetup) -> None:
    setup = new_club(limits=NO_LIMITS | {"recipients_per_hour": 60, "new_recipients_per_day": 200}, freeze=FREEZE)
    action = setup.send_message(to=["Members@example.org"])
    assert action.startswith("450 4.7.1 anna@example.org may send 200 first-time recipients in a day, and members@exam")
    assert "is 400: `limits` of the account in mail.yml" in action
    assert setup.send_message() == DUNNO
    assert setup.usage_of() == (1, 1, 1)
    assert setup.freeze_reasons() == {}


def test_exactly_the_limit_of_members_is_accepted(new_club: NewSetup) -> None:
    setup = new_club(limits=NO_LIMITS | {"recipients_per_hour": 800})
    assert [setup.send_message(to=["members@example.org"]) for _ in range(2)] == [DUNNO] * 2
    assert setup.send_message().startswith("450")


def test_the_ceiling_counts_members_too(new_club: NewSetup) -> None:
    setup = new_club(server=NO_CEILING | {"recipients_per_hour": 500})
    assert setup.send_message(to=["members@example.org"]) == DUNNO
    assert setup.send_message(BERT, to=["members@example.org"]).startswith("450 4.7.1 All who send here")
    assert setup.send_local("L1", "members@example.org") is not None


# --- strangers --------------------------------------------------------------------------------------------------------


def test_a_list_takes_so_much_from_strangers_and_the_operator_is_told_once(new_club: NewSetup) -> None:
    setup = new_club(lists=LISTS)
    for _ in range(2):
        assert setup.send_as_stranger("members@example.org") == [DUNNO, DUNNO]
    for _ in range(50):
        (action,) = setup.send_as_stranger("members@example.org")
        assert action.startswith("450 4.7.1 members@example.org takes 800 recipients in an hour")
    ((_, detail),) = setup.list_events("list")
    assert "members@example.org" in detail
    assert "198.51.100.7" in detail
    setup.restart()
    assert setup.send_as_stranger("members@example.org")[0].startswith("450")
    setup.advance_clock(HOUR)
    assert setup.send_as_stranger("members@example.org") == [DUNNO, DUNNO]


def test_a_short_list_takes_more_messages_and_each_list_has_its_own_limit(new_club: NewSetup) -> None:
    setup = new_club(lists=LISTS)
    actions = [setup.send_as_stranger("postmaster@mail.example.org")[-1] for _ in range(6)]
    assert [action[:3] for action in actions] == ["DUN"] * 5 + ["450"]
    assert setup.send_as_stranger("other@example.com")[-1] == DUNNO


def test_recipients_that_are_refused_cost_the_others_nothing(new_club: NewSetup) -> None:
    setup = new_club(lists=LISTS | {"messages_per_hour": 1})
    setup.send_as_stranger("members@example.org")
    actions = setup.send_as_stranger("members@example.org", "postmaster@mail.example.org", "team@example.org")
    assert [action[:3] for action in actions] == ["450", "DUN", "DUN", "DUN"]


def test_one_member_by_several_ways_is_one_mail(new_club: NewSetup) -> None:
    """With propagate_unmatched_extensions and enable_original_recipient as main.cf has them."""
    setup = new_club()
    setup.send_as_stranger("members@example.org", "members+1@example.org", "x@example.com")
    assert setup.judge.ledger.forwards.usage_within(setup.now, HOUR).recipients == 400


def test_mail_to_members_here_does_not_leave(new_club: NewSetup) -> None:
    setup = new_club(lists=LISTS, forwards={"recipients_per_hour": 1, "recipients_per_day": 1})
    assert [setup.send_as_stranger("team@example.org")[-1] for _ in range(20)] == [DUNNO] * 20


def test_all_that_strangers_send_on_has_a_ceiling_below_which_accounts_have_room(new_club: NewSetup) -> None:
    setup = new_club(forwards={"recipients_per_hour": 500, "recipients_per_day": 5000})
    assert setup.send_as_stranger("members@example.org")[-1] == DUNNO
    assert setup.send_as_stranger("x@example.com")[-1].startswith("450 4.7.1 This server sends 500 recipients in an ho")
    assert len(setup.list_events("forward")) == 1
    assert setup.send_message() == DUNNO
    setup.restart()
    assert setup.send_as_stranger("x@example.com")[-1].startswith("450")
    setup.advance_clock(DAY)
    assert setup.send_as_stranger("x@example.com")[-1] == DUNNO


def test_what_strangers_send_on_counts_to_the_ceiling_of_all(new_club: NewSetup) -> None:
    setup = new_club(server={"recipients_per_hour": 401, "recipients_per_day": 5000})
    setup.send_as_stranger("members@example.org")
    assert setup.send_message() == DUNNO
    assert setup.send_message().startswith("450 4.7.1 All who send here")


def test_learning_refuses_nothing_to_strangers_either(new_club: NewSetup) -> None:
    setup = new_club(mode="learn", lists=LISTS)
    assert [setup.send_as_stranger("members@example.org")[-1] for _ in range(9)] == [DUNNO] * 9
    assert len(setup.list_events("list")) == 1


def test_a_message_of_strangers_without_an_end_is_not_charged(new_club: NewSetup) -> None:
    setup = new_club(lists=LISTS)
    for _ in range(50):
        setup.judge.transaction_aborted("i0")
        setup.send_as_stranger()
    assert setup.send_as_stranger("members@example.org")[-1] == DUNNO


# --- many addresses of one mailbox ------------------------------------------------------------------------------------


def test_one_mailbox_gets_few_addresses_of_one_message_and_the_rest_comes_in_another(new_club: NewSetup) -> None:
    setup = new_club()
    actions = setup.send_as_stranger(*(f"anna+{number}@example.org" for number in range(98)), BERT)
    assert actions[:MAX_EXTENSIONS] == [DUNNO] * MAX_EXTENSIONS
    assert {action[:9] for action in actions[MAX_EXTENSIONS:-2]} == {"452 4.5.3"}
    assert actions[-2:] == [DUNNO] * 2


# --- without a login: Sieve, bounces, programs ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FORWARD, BOUNCE])
def test_scripts_and_bounces_use_up_their_own_ceiling_and_not_that_of_programs(new_club: NewSetup, kind: str) -> None:
    small = {"recipients_per_hour": 5, "recipients_per_day": 8}
    setup = new_club(local=small, forwards=small)
    refusals = [setup.send_local(f"Q{number}", f"x{number}@example.net", kind=kind) for number in range(9)]
    assert [bool(refusal) for refusal in refusals] == [False] * 5 + [True] * 4
    assert setup.send_local("L1") is None
    assert setup.send_local("Q20", "anna@example.org", kind=kind) is None, "it stays here"
    assert setup.send_local("Q21", "members@example.org", kind=kind) is not None


def test_one_address_gets_few_bounces_and_the_rest_waits(new_club: NewSetup) -> None:
    """Twelve sessions that pass RCPT before a mailbox is full would bounce eleven times, to a forged sender."""
    setup = new_club()
    refusals = [setup.send_local(f"Q{number}", "victim@example.net", kind=BOUNCE) for number in range(11)]
    assert [bool(refusal) for refusal in refusals] == [False] * 3 + [True] * 8
    setup.judge.ledger.message_dropped("Q0")
    setup.restart()
    assert setup.send_local("Q20", "other@example.net", kind=BOUNCE) is None
    assert setup.send_local("Q21", "Victim@example.net", kind=BOUNCE) is None
    assert setup.send_local("Q22", "victim@example.net", kind=BOUNCE) is not None
    assert [setup.send_local(f"Q{number}", "victim@example.net", kind=FORWARD) for number in range(30, 40)] == [
        None
    ] * 10


def test_notices_about_our_own_mail_do_not_wait(new_club: NewSetup) -> None:
    """As of a cron job that mails to an address that is gone; the administrator may read it elsewhere."""
    setup = new_club()
    notices = [setup.send_local(f"Q{number}", "Postmaster@mail.example.org", kind=BOUNCE) for number in range(11)]
    assert notices == [None] * 11


def test_notices_about_our_own_mail_have_the_ceiling_of_all_that_leaves_again(new_club: NewSetup) -> None:
    setup = new_club(forwards={"recipients_per_hour": 5, "recipients_per_day": 8})
    notices = [setup.send_local(f"Q{number}", "postmaster@mail.example.org", kind=BOUNCE) for number in range(9)]
    assert [bool(refusal) for refusal in notices] == [False] * 5 + [True] * 4


def test_a_forward_that_postfix_gives_up_counts_no_more(new_club: NewSetup) -> None:
    setup = new_club(forwards={"recipients_per_hour": 1, "recipients_per_day": 1})
    assert setup.send_local("Q1", kind=FORWARD) is None
    setup.judge.ledger.message_dropped("Q1")
    assert setup.send_local("Q2", kind=FORWARD) is None
    setup.judge.ledger.message_accepted("Q2")
    assert setup.send_local("Q3", kind=FORWARD) is not None


@pytest.mark.parametrize(("service", "kind"), [("forward", FORWARD), ("bounce", BOUNCE), ("mail.example.org", LOCAL)])
def test_the_milter_knows_scripts_and_bounces_by_the_service_that_took_them(
    new_club: NewSetup, service: str, kind: str
) -> None:
    setup = new_club()
    session = MilterSession(setup.judge, lambda: setup.now)
    packets = build_message("", "s@example.com", [("From", "x@example.net")])[2:]
    macros = build_packet(b"DM", "{daemon_name}", service, "i", "Q1")
    mail = build_packet(b"M", "<s@example.com>")
    for packet in split_packets(b"".join([macros, mail, *packets, build_packet(b"E")]))[0]:
        session.answer_packet(packet)
    counted = {name: history.usage_within(setup.now, HOUR).recipients for name, history in _histories(setup).items()}
    assert counted == {LOCAL: int(kind == LOCAL), FORWARD: int(kind != LOCAL)}


def _histories(setup: JudgeSetup) -> dict[str, SendHistory]:
    return {LOCAL: setup.judge.ledger.local, FORWARD: setup.judge.ledger.forwards}


# --- the first use of an account --------------------------------------------------------------------------------------


def _set_age(setup: JudgeSetup, days: int) -> None:
    setup.database.began_at = setup.now - days * DAY


def test_the_first_use_of_an_account_is_told_once_with_address_count_and_next_step(new_club: NewSetup) -> None:
    setup = new_club()
    _set_age(setup, 8)
    assert setup.send_message(to=["members@example.org"], client="203.0.113.9") == DUNNO
    setup.advance_clock(2 * HOUR)
    assert setup.send_message(client="203.0.113.9") == DUNNO
    setup.restart()
    _set_age(setup, 9)
    assert setup.send_message(client="203.0.113.9") == DUNNO
    assert setup.list_events("first-use") == [
        (
            ANNA,
            "sends for the first time, from 203.0.113.9 (203.0.113.0/24), to 400 recipients. "
            "If that is not its owner: `mailkeepctl freeze anna@example.org`",
        )
    ]


def test_a_first_use_that_is_refused_is_not_yet_one(new_club: NewSetup) -> None:
    setup = new_club(limits=NO_LIMITS | {"recipients_per_hour": 5})
    _set_age(setup, 8)
    setup.send_message(to=["members@example.org"])
    assert setup.list_events("first-use") == []
    setup.send_message(client="198.51.100.9")
    assert len(setup.list_events("first-use")) == 1


def test_while_the_database_is_new_first_uses_are_no_news(new_club: NewSetup) -> None:
    """As on a new server, or after the old database was lost: else each account would be an alert."""
    setup = new_club()
    _set_age(setup, 6)
    setup.send_message()
    assert setup.list_events("first-use") == []
    assert len(setup.list_events("first-use-expected")) == 1


def test_the_running_guard_is_as_declared_whatever_the_case_of_its_aliases(tmp_path: Path) -> None:
    """`mailkeep verify` compares the two."""
    declared = build_config(aliases=ALIASES | {"MAILER-DAEMON@example.org": ["You@example.net"]}, catch_all=CATCH_ALL)
    file = tmp_path / "guard.json"
    file.write_text(json.dumps(declared))
    assert describe_config(load_config(file)) == summarise_config(declared)
