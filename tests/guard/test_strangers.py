"""What becomes of an account's mail to strangers decides whether more of it may leave."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from urllib.parse import urlencode

import pytest
from guard_samples import (
    ANNA,
    BERT,
    END,
    HOLDS,
    NO_LIMITS,
    OFFER,
    GuardProcess,
    JudgeSetup,
    build_message,
    build_packet,
)

from mailkeep_server import ctl
from mailkeep_server.freezes import enforce, freeze_list
from mailkeep_server.guard.hold_targets import write_outcome
from mailkeep_server.guard.outcomes import Fate, Outcome
from mailkeep_server.guard.policy import DUNNO
from mailkeep_server.guard.sliding_window import DAY, HOUR
from mailkeep_server.guard.strangers import MAX_HELD
from mailkeep_server.operator import accounts, guard_answers

NewSetup = Callable[..., JudgeSetup]
MINUTE = 60_000


@pytest.fixture
def setup(new_setup: NewSetup) -> JudgeSetup:
    """Without limits, so that only outcomes count."""
    return new_setup(limits=NO_LIMITS, holds=HOLDS)


def write_addresses(prefix: str = "a") -> Iterator[str]:
    """Each of a domain of its own."""
    number = 0
    while True:
        number += 1
        yield f"{prefix}{number}@{prefix}{number}.example.net"


def send_list(setup: JudgeSetup, fates: Iterator[Fate]) -> int:
    """One message to one stranger a minute. Returns how many left until one was held."""
    for number, (recipient, fate) in enumerate(zip(write_addresses(), fates, strict=False)):
        setup.advance_clock(MINUTE)
        if setup.send_to_stranger(recipient, fate) != DUNNO:
            return number
    return -1


def every(number: int, fate: Fate = Fate.DEAD, count: int = 200) -> Iterator[Fate]:
    """One of so many has this fate."""
    return (fate if position % number == 0 else Fate.SENT for position in range(1, count + 1))


# --- how much is too much ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "fate", "most"), [(7, Fate.DEAD, 30), (7, Fate.REFUSED, 40), (7, Fate.SLOWED, 40), (5, Fate.DEAD, 20)]
)
def test_a_list_with_15_per_cent_of_dead_addresses_does_not_get_past_30(
    setup: JudgeSetup, number: int, fate: Fate, most: int
) -> None:
    assert 0 < send_list(setup, every(number, fate)) <= most
    [(account, detail)] = setup.list_events("hold")
    assert account == ANNA
    assert "first-time recipients in a week" in detail
    assert not setup.freeze_reasons()


@pytest.mark.slow
def test_of_random_lists_with_15_per_cent_most_do_not_get_past_30(new_setup: NewSetup) -> None:
    setup = new_setup(
        limits=NO_LIMITS, holds=HOLDS, accounts={f"u{n}@example.org": {"addresses": []} for n in range(200)}
    )
    dice, passed = random.Random(1), []  # noqa: S311
    for number in range(200):
        for count, recipient in enumerate(write_addresses(f"l{number}-")):
            fate = Fate.DEAD if dice.random() < 0.15 else Fate.SENT
            if setup.send_to_stranger(recipient, fate, f"u{number}@example.org") != DUNNO:
                passed.append(count)
                break
    passed.sort()
    assert passed[100] <= 22, "the median"
    assert passed[160] <= 30, "four of five"
    assert passed[190] <= 60, "95 of 100"


def test_a_newsletter_to_200_with_3_per_cent_of_dead_addresses_passes(setup: JudgeSetup) -> None:
    readers = [recipient for _, recipient in zip(range(200), write_addresses(), strict=False)]
    assert setup.send_message(to=readers) == DUNNO
    for number, reader in enumerate(readers):  # the dead ones answer first
        setup.note_fate(reader, Fate.DEAD if number < 6 else Fate.SENT)
    assert setup.send_to_stranger("another@example.com") == DUNNO
    assert send_list(setup, every(33)) == -1, "nor does one that a program sends one by one"
    assert setup.list_events("hold") == []


def test_two_mistyped_addresses_hold_nothing(setup: JudgeSetup) -> None:
    for recipient in ("a@one.example.net", "b@two.example.net"):
        assert setup.send_to_stranger(recipient, Fate.DEAD) == DUNNO
    assert setup.send_to_stranger("c@three.example.net") == DUNNO


def test_an_outcome_counts_a_week_and_after_a_restart(setup: JudgeSetup) -> None:
    for number in (1, 2):
        setup.send_to_stranger(f"a@n{number}.example.net", Fate.DEAD)
    setup.restart()
    setup.advance_clock(7 * DAY - HOUR)
    setup.send_to_stranger("a@n3.example.net", Fate.DEAD)
    assert setup.send_to_stranger("b@example.com").startswith("HOLD")


def test_an_outcome_of_last_week_counts_no_more(setup: JudgeSetup) -> None:
    for number in (1, 2):
        setup.send_to_stranger(f"a@n{number}.example.net", Fate.DEAD)
    setup.advance_clock(7 * DAY + 1)
    setup.send_to_stranger("a@n3.example.net", Fate.DEAD)
    assert setup.send_to_stranger("b@example.com") == DUNNO


def test_an_account_whose_mail_is_mostly_dead_is_frozen(setup: JudgeSetup) -> None:
    readers = [recipient for _, recipient in zip(range(30), write_addresses(), strict=False)]
    setup.send_message(to=readers)
    for reader in readers[:9]:
        setup.note_fate(reader, Fate.DEAD)
    assert not setup.freeze_reasons()
    setup.note_fate(readers[9], Fate.DEAD)
    assert setup.freeze_reasons() == {
        ANNA: "of 30 first-time recipients in a week, 10 do not exist, 0 name spam or too much mail, and 0 complain"
    }


# --- whose word counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", [Fate.DEAD, Fate.REFUSED, Fate.SLOWED])
def test_whoever_runs_a_mail_server_cannot_hold_up_or_freeze_those_who_write_to_him(
    setup: JudgeSetup, fate: Fate
) -> None:
    victims = [f"x{number}@attacker.example.net" for number in range(100)]
    assert setup.send_message(to=victims) == DUNNO
    for victim in victims:
        setup.note_fate(victim, fate)
    assert setup.send_to_stranger("y@example.com") == DUNNO
    assert not setup.freeze_reasons()


def test_mail_to_people_whom_the_account_knows_does_not_count(setup: JudgeSetup) -> None:
    for recipient in (friends := [f"f@n{number}.example.net" for number in range(20)]):
        setup.send_to_stranger(recipient, Fate.SENT)
    for friend in friends:
        setup.send_message(to=[friend])
        setup.note_fate(friend, Fate.DEAD)
    assert setup.send_to_stranger("y@example.com") == DUNNO


def test_an_outcome_of_no_known_message_counts_nothing(setup: JudgeSetup) -> None:
    for number in range(50):
        setup.judge.strangers.note_outcome(setup.now, f"F{number}", number, Fate.DEAD)
    assert setup.list_events() == []


def test_an_outcome_counts_once(setup: JudgeSetup) -> None:
    setup.send_message(to=["a@n1.example.net", "a@n2.example.net", "a@n3.example.net"])
    for _ in range(3):
        setup.note_fate("a@n1.example.net", Fate.DEAD)
    assert setup.list_events("hold") == []


# --- what is held -----------------------------------------------------------------------------------------------------


@pytest.fixture
def held(setup: JudgeSetup) -> JudgeSetup:
    """An account of which mail to strangers is held. It knows friend@example.net."""
    setup.send_to_stranger("friend@example.net", Fate.SENT)
    for number in range(3):
        setup.send_to_stranger(f"a@n{number}.example.net", Fate.DEAD)
    return setup


def test_mail_to_strangers_is_held_and_all_other_mail_goes_on(held: JudgeSetup) -> None:
    assert held.send_message(to=["friend@example.net"]) == DUNNO
    assert held.send_message(to=["sales@example.org"]) == DUNNO, "of this server"
    assert held.send_message(BERT, to=["stranger@example.net"]) == DUNNO
    assert held.send_message(to=["friend@example.net", "stranger@example.net"]).startswith("HOLD")
    assert held.send_message(to=["stranger@example.net"]).startswith("HOLD"), "whom it does not know yet"
    held.restart()
    assert held.send_message(to=["stranger@example.net"]).startswith("HOLD")


def test_a_hold_is_told_once_whatever_follows(held: JudgeSetup) -> None:
    for number in range(5):
        held.send_to_stranger(f"b@n{number}.example.net")
    assert len(held.list_events("hold")) == 1


def test_a_release_lets_the_account_write_to_them_and_forgets_the_outcomes(held: JudgeSetup) -> None:
    held.send_message(to=["stranger@example.net"])
    held.advance_clock(HOUR)
    assert held.judge.strangers.release(held.now, ANNA) == [held.last_queue_id]
    assert held.judge.strangers.list_held(held.now) == []
    assert held.database.find_known_recipients(
        ANNA, [*held.judge.strangers._find_strangers(BERT, ["stranger@example.net"]).values()]
    )
    for number in (4, 5):
        held.advance_clock(1000)
        assert held.send_to_stranger(f"a@n{number}.example.net", Fate.DEAD) == DUNNO
    assert held.send_to_stranger("b@example.com") == DUNNO
    held.note_fate("b@example.com", Fate.DEAD)
    assert held.send_to_stranger("c@example.com").startswith("HOLD"), "three more are too much again"


def test_what_nobody_releases_is_due_after_a_day_unless_the_account_is_frozen(held: JudgeSetup) -> None:
    held.send_message(to=["stranger@example.net"])
    message = {"queue_id": held.last_queue_id, "account": ANNA, "time": held.now / 1000}
    message |= {"is_due": False, "is_released": False, "is_settled": False}
    assert held.judge.strangers.list_held(held.now) == [message]
    message["is_settled"] = True
    held.advance_clock(DAY - 1)
    assert held.judge.strangers.list_held(held.now) == [message]
    held.advance_clock(1)
    assert held.judge.strangers.list_held(held.now) == [message | {"is_due": True}]
    held.judge.freezer.freeze_for(held.now, ANNA, held.judge.ledger.get_account(ANNA), held.judge.config, "by a test")
    assert held.judge.strangers.list_held(held.now) == [message], "evidence"
    held.judge.strangers.note_returned(held.now, held.last_queue_id, "it is back")
    assert held.judge.strangers.list_held(held.now) == []
    assert held.list_events("returned") == [(ANNA, f"message {held.last_queue_id} was on hold for a day: it is back")]


def test_a_thaw_ends_a_hold_and_what_is_gone_from_the_queue_is_no_news(held: JudgeSetup) -> None:
    held.send_message(to=["stranger@example.net"])
    held.judge.strangers.note_returned(held.now, held.last_queue_id, "")
    assert held.list_events("returned") == []
    held.judge.freezer.freeze_for(held.now, ANNA, held.judge.ledger.get_account(ANNA), held.judge.config, "by a test")
    held.advance_clock(1000)
    held.judge.freezer.frozen_accounts(held.now)
    freeze_list.thaw_account(ANNA, held.frozen_file)
    held.advance_clock(1000)
    assert held.send_message(to=["stranger@example.net"]) == DUNNO


def test_no_account_fills_the_disk_with_what_is_held(held: JudgeSetup) -> None:
    for _ in range(MAX_HELD):
        assert held.send_message(to=["stranger@example.net"]).startswith("HOLD")
    before = held.usage_of()
    assert held.send_message(to=["stranger@example.net"]).startswith("450 4.7.1")
    assert held.usage_of() == before, "and does not count"


def test_learning_holds_nothing_and_says_once_what_it_would_hold(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS, holds=HOLDS, mode="learn")
    assert send_list(setup, every(3, count=60)) == -1
    assert setup.list_events("hold") == []
    assert not setup.freeze_reasons()
    assert len(setup.list_events("would-hold")) == 1


def test_why_says_what_became_of_the_mail(held: JudgeSetup) -> None:
    held.send_message(to=["stranger@example.net"])
    explanation = held.judge.strangers.explain(held.now, ANNA)
    assert explanation["held"] == 1
    assert explanation["hold"]["cause"] == "outcomes"
    assert explanation["outcomes"].startswith("of 4 first-time recipients in a week, 3 do not exist")


# --- the running guard ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_running_guard_takes_outcomes_and_explains_itself(
    start_guard: Callable[..., GuardProcess], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = start_guard(holds=HOLDS, limits=NO_LIMITS)
    recipients = [f"a@n{number}.example.net" for number in range(3)]
    monkeypatch.setattr(guard_answers, "CONTROL_SOCKET", str(guard.directory / "run" / "control"))
    monkeypatch.setattr(accounts, "CONFIG", guard.directory / "etc" / "guard.json")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(freeze_list, "read_freezes", dict)
    monkeypatch.setattr(enforce, "read_queue", lambda *_: [])

    def run_ctl(command: str) -> str:
        assert ctl.main([command, ANNA]) == 0
        return capsys.readouterr().out

    with guard.open_connection("milter") as milter:
        milter.sendall(OFFER)
        milter.recv(4096)

        def send_message(queue_id: str) -> bytes:
            sent = build_message(ANNA, ANNA, [("From", ANNA)], queue_id)
            to = [build_packet(b"R", f"<{recipient}>") for recipient in recipients]
            milter.sendall(b"".join([*sent[:3], *to, *sent[4:]]))
            assert milter.recv(4096)  # the answer to MAIL
            milter.sendall(END)
            return milter.recv(4096)

        assert send_message("Q1")[4:] == b"c"
        outcomes = [write_outcome(Outcome("Q1", recipient, Fate.DEAD)) for recipient in recipients]
        assert guard.get_target(f"/outcomes?{urlencode([('o', outcome) for outcome in outcomes])}") == {}
        [(account, _)] = guard.list_events("hold")
        assert account == ANNA
        recipients = ["new@example.com"]
        assert send_message("Q2")[4:5] == b"q"
        assert guard.get_target("/held")["messages"][0]["queue_id"] == "Q2"
        text = run_ctl("why")
        assert f"Mail of {ANNA} to strangers is put on hold since " in text
        assert "3 do not exist" in text
        assert f"mailkeepctl release {ANNA}" in text
        assert run_ctl("release") == "0 messages on its way.\n"
        assert guard.get_target("/held") == {"messages": []}
        assert "to strangers is not put on hold, released 2" in run_ctl("why")
        assert send_message("Q3")[4:] == b"c"
