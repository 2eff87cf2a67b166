"""Each thing that is unusual about a message has a sentence and points, and nothing else decides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from guard_samples import ANNA, BERT, HOLDS, NO_LIMITS, NOON, JudgeSetup

from mailkeep_server.common.networks import wide_network_of
from mailkeep_server.guard.habits import (
    IDLE_POINTS,
    MAX_NETWORKS,
    MAX_PACE_POINTS,
    MAX_PROGRAMS,
    NETWORK_POINTS,
    NEVER_POINTS,
    PACE_DAYS,
    PROGRAM_POINTS,
    WIDE_POINTS,
    Habits,
    Source,
)
from mailkeep_server.guard.mail_program import describe_program, shapes_program
from mailkeep_server.guard.policy import DUNNO
from mailkeep_server.guard.sliding_window import DAY, HOUR

NewSetup = Callable[..., JudgeSetup]
HOME = Source("192.0.2.0/24", "192.0.0.0/16", 1)
AWAY = Source("198.51.100.0/24", "198.51.0.0/16", 2)
BIRTH = NOON // DAY - 400


@pytest.fixture
def habits() -> Habits:
    """Of thirty days with four messages, one of them to a new person, until yesterday."""
    habits = Habits()
    for day in range(30, 0, -1):
        for number in range(4):
            habits.learn(NOON - day * DAY, BIRTH, HOME, int(number == 0))
    return habits


def find_points(habits: Habits, source: Source = HOME, strangers: int = 1, now: int = NOON) -> dict[str, float]:
    """Points by the beginning of their sentence."""
    reasons = habits.find_reasons(now, BIRTH, source, strangers)
    return {" ".join(reason.sentence.split()[:2]): round(reason.points, 2) for reason in reasons}


def test_nothing_about_a_usual_message_is_strange(habits: Habits) -> None:
    assert find_points(habits) == {}


def test_a_new_network_and_a_new_program_are_strange(habits: Habits) -> None:
    near = Source("192.0.99.0/24", "192.0.0.0/16", 1)
    assert find_points(habits, near) == {"the network": NETWORK_POINTS}
    assert find_points(habits, AWAY) == {"the network": NETWORK_POINTS + WIDE_POINTS, "its mail": PROGRAM_POINTS}


@pytest.mark.parametrize(("days", "is_familiar"), [((0, 1, 2), False), ((0, 7), False), ((0, 3, 7), True)])
def test_what_is_new_becomes_usual_after_a_week_and_three_days_of_use(
    habits: Habits, days: tuple[int, ...], is_familiar: bool
) -> None:
    for day in days:
        habits.learn(NOON + day * DAY, BIRTH, AWAY, 0)
    assert (find_points(habits, AWAY, now=NOON + max(days) * DAY) == {}) == is_familiar


def test_what_was_not_used_for_long_is_forgotten(habits: Habits) -> None:
    habits.learn(NOON + 100 * DAY, BIRTH, AWAY, 0)
    assert "the network" in find_points(habits, now=NOON + 100 * DAY)


def test_an_hour_at_which_it_never_sends_is_strange(habits: Habits) -> None:
    hour = NOON % DAY // HOUR
    assert find_points(habits, now=NOON + 2 * HOUR) == {"it hardly": 1}
    assert find_points(habits, now=NOON + HOUR) == {}, f"beside {hour}:00"


def test_many_more_new_people_than_usual_are_strange_and_alone_hold_nothing(habits: Habits) -> None:
    assert find_points(habits, strangers=6) == {}
    assert find_points(habits, strangers=12) == {"it writes": 2.0}
    assert find_points(habits, strangers=24) == {"it writes": 4.0}
    assert find_points(habits, strangers=5000) == {"it writes": MAX_PACE_POINTS}
    assert HOLDS["strangeness"] > MAX_PACE_POINTS + 1


def test_whoever_usually_writes_to_many_may() -> None:
    habits = Habits()
    for day in range(30, 0, -1):
        habits.learn(NOON - day * DAY, BIRTH, HOME, 40)
    assert find_points(habits, strangers=40) == {}


def test_one_day_of_many_teaches_nothing(habits: Habits) -> None:
    habits.learn(NOON - 8 * DAY, BIRTH, HOME, 200)
    assert find_points(habits, strangers=24) == {"it writes": 4.0}


def test_a_week_of_few_a_day_from_elsewhere_adds_up(habits: Habits) -> None:
    for day in range(5):
        habits.learn(NOON + day * DAY, BIRTH, AWAY, 6)
    points = find_points(habits, AWAY, 6, NOON + 5 * DAY)
    assert points["it writes"] == pytest.approx(2.53, abs=0.01)


def test_what_it_writes_from_its_usual_place_is_not_held_against_another(habits: Habits) -> None:
    habits.learn(NOON, BIRTH, HOME, 200)
    assert "it writes" not in find_points(habits, AWAY)


def test_a_long_silence_is_strange(habits: Habits) -> None:
    assert "it sent" not in find_points(habits, now=NOON + 58 * DAY)
    assert find_points(habits, now=NOON + 59 * DAY)["it sent"] == IDLE_POINTS
    habits.learn(NOON + 59 * DAY, BIRTH, HOME, 1)
    assert find_points(habits, now=NOON + 60 * DAY)["it sent"] == IDLE_POINTS, "for the first week"
    assert "it sent" not in find_points(habits, now=NOON + 66 * DAY)


def test_an_old_account_that_has_never_sent_is_strange_and_a_new_one_is_not() -> None:
    assert find_points(Habits()) == {"it had": NEVER_POINTS}
    woken = Habits()
    woken.learn(NOON, BIRTH, AWAY, 3)
    assert find_points(woken, AWAY, 7) == {"it had": NEVER_POINTS, "it writes": 1.47}
    today = NOON // DAY
    assert Habits().find_reasons(NOON, today, AWAY, 20) == []
    assert Habits().find_reasons(NOON, today, AWAY, 200)[0].points <= MAX_PACE_POINTS


def test_a_young_account_has_no_usual_place() -> None:
    habits = Habits()
    for day in range(4):
        habits.learn(NOON + day * DAY, NOON // DAY, HOME, 3)
    assert habits.find_reasons(NOON + 20 * DAY, NOON // DAY, AWAY, 5) == []
    habits.learn(NOON + 13 * DAY, NOON // DAY, HOME, 3)
    assert habits.find_reasons(NOON + 13 * DAY, NOON // DAY, AWAY, 5) == [], "after 14 days at the earliest"
    assert len(habits.find_reasons(NOON + 14 * DAY, NOON // DAY, AWAY, 5)) == 2


def test_habits_take_a_bounded_place() -> None:
    habits = Habits()
    for number in range(1000):
        habits.learn(NOON + number * DAY // 10, BIRTH, Source(f"n{number}", f"w{number}", number), 1)
    assert len(habits.networks) <= MAX_NETWORKS
    assert len(habits.programs) <= MAX_PROGRAMS
    assert len(habits.pace) <= PACE_DAYS + 1
    assert sum(habits.hours) <= 2001
    assert len(habits.to_json()) < 3000


def test_habits_survive(habits: Habits) -> None:
    assert Habits.from_json(habits.to_json()) == habits


@pytest.mark.parametrize("client", ["192.0.2.77", "2001:db8:7::9", "nonsense"])
def test_wide_networks(client: str) -> None:
    wide = {"192.0.2.77": "192.0.0.0/16", "2001:db8:7::9": "2001:db8::/32", "nonsense": "nonsense"}
    assert wide_network_of(client) == wide[client]


def test_programs_differ_by_the_order_and_the_spelling_of_headers() -> None:
    first = ["Message-ID", "Date", "MIME-Version", "To", "From", "Subject", "Content-Type"]
    spelt, ordered = [name.replace("MIME", "Mime") for name in first], [*first[1:], first[0]]
    assert len({describe_program(names) for names in (first, spelt, ordered)}) == 3
    assert not any(map(shapes_program, ("References", "In-Reply-To", "Cc", "Received", "Content-Transfer-Encoding")))


# --- the judge --------------------------------------------------------------------------------------------------------


@pytest.fixture
def setup(new_setup: NewSetup) -> JudgeSetup:
    """Anna has written for thirty days: each day to a friend, and to somebody new."""
    setup = new_setup(limits=NO_LIMITS, holds=HOLDS)
    for day in range(30):
        setup.advance_clock(DAY)
        assert setup.send_message(to=["friend@example.net", f"new{day}@example.net"]) == DUNNO
    setup.advance_clock(DAY)
    return setup


AWAY_CLIENT = "198.51.100.1"


def begin_hold(setup: JudgeSetup) -> str:
    """As a thief would: from elsewhere, with another program, to many strangers."""
    for number in range(40):
        action = setup.send_message(to=[f"x{number}@example.com"], client=AWAY_CLIENT, program=2)
        if action != DUNNO:
            return action
    return ""


def test_a_thief_elsewhere_writes_to_few_and_the_owner_goes_on(setup: JudgeSetup) -> None:
    action = begin_hold(setup)
    assert action.startswith("HOLD mail to strangers is on hold: the network 198.51.100.0/24 is new to it, and so is ")
    assert "; its mail program is new to it; it writes to 12 new people in a day so, and usually to 6 at most" in action
    [(account, detail)] = setup.list_events("hold")
    assert account == ANNA
    assert detail in action
    assert setup.send_message(to=["another@example.com"]) == DUNNO, "from her usual place"
    assert setup.send_message(to=["friend@example.net"], client="203.0.113.1", program=3) == DUNNO
    assert setup.send_message(to=["another2@example.com"], client="203.0.113.1", program=3).startswith("HOLD")
    assert setup.send_message(to=["friend@example.net"], client=AWAY_CLIENT, program=2).startswith("HOLD"), "a thief's"
    setup.restart()
    setup.advance_clock(3 * DAY)
    assert setup.send_message(to=["y@example.com"], client=AWAY_CLIENT, program=2).startswith("HOLD")


def test_after_a_release_the_place_is_usual(setup: JudgeSetup) -> None:
    begin_hold(setup)
    setup.judge.strangers.release(setup.now, ANNA)
    for number in range(30):
        setup.advance_clock(HOUR)
        assert setup.send_message(to=[f"z{number}@example.com"], client=AWAY_CLIENT, program=2) == DUNNO
    assert setup.send_message(to=["friend@example.net"], client=AWAY_CLIENT, program=2) == DUNNO


def test_a_message_to_many_strangers_from_elsewhere_reaches_none_of_them(setup: JudgeSetup) -> None:
    strangers = [f"x{number}@example.com" for number in range(40)]
    assert setup.send_message(to=strangers, client=AWAY_CLIENT, program=2).startswith("HOLD")


def test_the_same_from_the_usual_place_is_not_held(setup: JudgeSetup) -> None:
    assert setup.send_message(to=[f"x{number}@example.com" for number in range(150)]) == DUNNO


def test_learning_holds_nothing_unusual_either(new_setup: NewSetup, setup: JudgeSetup) -> None:
    setup.database.close()
    learning = new_setup(limits=NO_LIMITS, holds=HOLDS, mode="learn")
    learning.now = setup.now
    assert begin_hold(learning) == ""
    assert len(learning.list_events("would-hold")) == 1


def test_damaged_habits_begin_anew(setup: JudgeSetup) -> None:
    setup.database.change("UPDATE habits SET model = '{\"days\": 3}'")
    assert setup.send_message(to=["x@example.com"], client=AWAY_CLIENT, program=2) == DUNNO
    setup.database.change("UPDATE habits SET model = 'x'")
    assert setup.send_message(to=["y@example.com"]) == DUNNO


def test_the_accounts_of_an_older_database_are_as_old_as_it_is_unless_they_have_sent(new_setup: NewSetup) -> None:
    setup = new_setup()
    setup.database.change("DELETE FROM births")
    setup.database.began_at = setup.now - 100 * DAY
    setup.database.remember_network(setup.now, ANNA, "192.0.2.0/24")
    store = setup.judge.strangers._store
    store.note_births(setup.now, [ANNA, BERT])
    assert store.find_birth(setup.now, ANNA) == setup.now // DAY
    assert store.find_birth(setup.now, BERT) == setup.now // DAY - 100
    store.note_births(setup.now + DAY, [ANNA, BERT, "new@example.org"])
    assert store.find_birth(setup.now + DAY, BERT) == setup.now // DAY - 100
    assert store.find_birth(setup.now + 9 * DAY, "new@example.org") == setup.now // DAY + 1


def test_why_says_what_is_usual(setup: JudgeSetup) -> None:
    begin_hold(setup)
    explanation = setup.judge.strangers.explain(setup.now, ANNA)
    usual = " ".join(explanation["usual"])
    assert "It usually sends from 192.0.2.0/24, 192.0.0.0/16, by 1 mail program, most at " in usual
    assert "It usually writes to 6 new people a day at most" in usual
    assert explanation["events"][0].startswith("hold: the network 198.51.100.0/24 is new to it")
