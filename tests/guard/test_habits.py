"""Each thing that is unusual about a message has a sentence and points, and nothing else decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from guard_samples import ANNA, BERT, HOLDS, NO_LIMITS, NOON, JudgeSetup, build_request

from mailkeep_server.common.networks import wide_network_of
from mailkeep_server.guard.habits import (
    GREETING_POINTS,
    HOUR_POINTS,
    IDLE_POINTS,
    MAX_NETWORKS,
    MAX_PACE_POINTS,
    MAX_PROGRAMS,
    MAX_TRAITS,
    NAME_POINTS,
    NETWORK_POINTS,
    NEVER_POINTS,
    PACE_DAYS,
    PROGRAM_POINTS,
    SIZE_POINTS,
    WIDE_POINTS,
    Habits,
    Source,
)
from mailkeep_server.guard.mail_program import describe_greeting, describe_program, read_name, shapes_program
from mailkeep_server.guard.policy import DUNNO, parse_request
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


NAMED = replace(HOME, name="apple mail", greeting="a private address")


@pytest.fixture
def named_habits() -> Habits:
    """As `habits`, of one program, of which name, greeting and sizes are known."""
    habits = Habits()
    for day in range(30, 0, -1):
        for number in range(4):
            habits.learn(NOON - day * DAY, BIRTH, NAMED, int(number == 0), size=3000)
    return habits


def test_another_name_and_another_greeting_of_a_program_are_strange(named_habits: Habits) -> None:
    assert find_points(named_habits, NAMED) == {}
    assert find_points(named_habits, replace(NAMED, name="phpmailer")) == {"its mail": NAME_POINTS}
    assert find_points(named_habits, replace(NAMED, greeting="localhost")) == {"its program": GREETING_POINTS}
    assert not named_habits.is_usual(NOON, replace(NAMED, greeting="localhost"))


def test_a_greeting_from_a_network_that_is_new_all_around_may_be_the_network_s(named_habits: Habits) -> None:
    hotel = replace(NAMED, network=AWAY.network, greeting="a name in hotel.example")
    assert find_points(named_habits, hotel) == {"the network": NETWORK_POINTS, "its program": GREETING_POINTS}
    hotel = replace(hotel, wide_network=AWAY.wide_network)
    assert find_points(named_habits, hotel) == {"the network": NETWORK_POINTS + WIDE_POINTS}


def test_a_new_program_has_a_new_name_and_greeting_and_that_counts_once(named_habits: Habits) -> None:
    new = replace(NAMED, program=2, name="phpmailer", greeting="localhost")
    assert find_points(named_habits, new) == {"its mail": PROGRAM_POINTS}


def test_a_name_and_a_greeting_that_nobody_knows_are_not_strange(named_habits: Habits, habits: Habits) -> None:
    assert find_points(named_habits, HOME) == {}, "as after a restart of the guard"
    assert find_points(habits, NAMED) == {}, "as of a model that was made before names were learned"


def test_names_and_greetings_become_usual_and_are_forgotten(named_habits: Habits) -> None:
    other = replace(NAMED, name="em client", greeting="localhost")
    for day in (0, 3, 7):
        assert len(find_points(named_habits, other, now=NOON + day * DAY)) == 2
        named_habits.learn(NOON + day * DAY, BIRTH, other, 0, size=3000)
    assert find_points(named_habits, other, now=NOON + 7 * DAY) == {}
    named_habits.learn(NOON + 100 * DAY, BIRTH, NAMED, 0, size=3000)
    assert (list(named_habits.names), list(named_habits.greetings)) == (["apple mail"], ["a private address"])


def test_a_size_that_it_never_sends_is_strange(named_habits: Habits) -> None:
    assert find_points(named_habits, NAMED) == {}
    for size, points in ((900, {}), (15_000, {}), (17_000, {"its messages": SIZE_POINTS}), (0, {})):
        reasons = named_habits.find_reasons(NOON, BIRTH, NAMED, 1, size)
        assert {" ".join(reason.sentence.split()[:2]): reason.points for reason in reasons} == points, size
    [reason] = named_habits.find_reasons(NOON, BIRTH, NAMED, 1, 5 << 20)
    assert reason.sentence == "its messages are hardly ever of some 5 MiB"


def test_what_is_weak_holds_no_newsletter() -> None:
    """The pace of a newsletter, at a rare hour and of a rare size, from the usual place."""
    assert HOLDS["strangeness"] > MAX_PACE_POINTS + HOUR_POINTS + SIZE_POINTS


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


@pytest.mark.parametrize("usual", [1, 9, 40])
def test_who_usually_writes_to_many_cannot_be_used_to_reach_a_hundred_from_elsewhere(usual: int) -> None:
    """By a thief who copies all but the network, and that is near."""
    habits, reached = Habits(), 0
    for day in range(30, 0, -1):
        habits.learn(NOON - day * DAY, BIRTH, HOME, usual)
    near = replace(HOME, network="192.0.7.0/24")
    while sum(find_points(habits, near).values()) < HOLDS["strangeness"]:
        habits.learn(NOON, BIRTH, near, 1)
        reached += 1
    assert 60 < reached < 100


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
        networks = (f"2001:db8:{number:04x}::/48", f"2001:{number:04x}::/32")
        source = Source(*networks, number << 20, f"{number}".rjust(24, "n"), f"a name in {f'{number}'.rjust(40, 'g')}")
        habits.learn(NOON + number * DAY // 10, BIRTH, source, 1, size=number << 10)
    assert len(habits.networks) <= MAX_NETWORKS
    assert len(habits.programs) <= MAX_PROGRAMS
    assert len(habits.pace) <= PACE_DAYS + 1
    assert len(habits.names) <= MAX_TRAITS
    assert len(habits.greetings) <= MAX_TRAITS
    assert sum(habits.hours) <= 2001
    assert sum(habits.sizes) <= 2001
    assert len(habits.to_json()) < 4096


def test_habits_survive(named_habits: Habits) -> None:
    assert Habits.from_json(named_habits.to_json()) == named_habits


def test_a_model_of_before_has_no_names_yet(habits: Habits) -> None:
    fields = json.loads(habits.to_json())
    for name in ("names", "greetings", "sizes"):
        del fields[name]
    assert Habits.from_json(json.dumps(fields)) == habits


def test_a_source_survives_in_a_row_and_one_that_cannot_be_read_is_nobody_s() -> None:
    assert Source.from_text(NAMED.network, NAMED.program_text) == NAMED
    for text in ("", "7", "[1]", "[1, 2, 3, 4, 5]"):
        assert Source.from_text(NAMED.network, text).program == int(text == "[1]")


@pytest.mark.parametrize("client", ["192.0.2.77", "2001:db8:7::9", "nonsense"])
def test_wide_networks(client: str) -> None:
    wide = {"192.0.2.77": "192.0.0.0/16", "2001:db8:7::9": "2001:db8::/32", "nonsense": "nonsense"}
    assert wide_network_of(client) == wide[client]


def test_programs_differ_by_the_order_and_the_spelling_of_headers() -> None:
    first = ["Message-ID", "Date", "MIME-Version", "To", "From", "Subject", "Content-Type"]
    spelt, ordered = [name.replace("MIME", "Mime") for name in first], [*first[1:], first[0]]
    assert len({describe_program(names) for names in (first, spelt, ordered)}) == 3
    assert not any(map(shapes_program, ("References", "In-Reply-To", "Cc", "Received", "Content-Transfer-Encoding")))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Mozilla Thunderbird", "mozilla thunderbird"),
        ("Apple Mail (2.3774.300.61.1.2)", "apple mail"),
        ("iPhone Mail (21A329)", "iphone mail"),
        (" Microsoft Outlook 16.0", "microsoft outlook"),
        ("PHPMailer 6.8.0 (https://github.com/PHPMailer/PHPMailer)", "phpmailer"),
        ("K-9 Mail for Android", "k"),
        ("", "an unreadable name"),
        ("7\r\n", "an unreadable name"),
    ],
)
def test_a_program_keeps_its_name_over_updates(value: str, name: str) -> None:
    assert read_name(value) == name
    assert len(read_name("x" * 5000)) == 24


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("[192.168.178.20]", "a private address"),
        ("[10.1.2.3]", "a private address"),
        ("[8.8.8.8]", "a public address"),
        ("[127.0.0.1]", "localhost"),
        ("[IPv6:::1]", "localhost"),
        ("localhost.localdomain", "localhost"),
        ("[IPv6:2606:4700::1111]", "an IPv6 address"),
        ("8.8.8.8", "an address without brackets"),
        ("DESKTOP-4F2A", "a name without a domain"),
        ("macbook.local", "a local name"),
        ("pc.fritz.box", "a local name"),
        ("smtpclient.apple", "a name in smtpclient.apple"),
        ("mail-ed1-f42.google.com", "a name in google.com"),
        ("", "no valid name"),
        ("[nonsense]", "no valid name"),
        ("a b.example", "no valid name"),
        ("x.`reboot`.example", "no valid name"),
        ("a." * 200 + "example", "no valid name"),
    ],
)
def test_a_greeting_is_known_by_its_kind(name: str, kind: str) -> None:
    assert describe_greeting(name) == kind


def test_postfix_says_how_a_client_greets_and_how_large_its_message_is() -> None:
    _, request = parse_request(build_request(helo_name="pc.example.com", size="900").removesuffix(b"\n\n"))
    assert (request.greeting, request.size) == ("pc.example.com", 900)


def test_a_greeting_takes_a_bounded_place() -> None:
    assert len(describe_greeting(f"{'a' * 63}.{'b' * 63}")) <= 60


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


def test_the_judge_sees_greetings_and_sizes_and_a_release_makes_them_usual(setup: JudgeSetup) -> None:
    for _ in range(60):
        setup.advance_clock(12 * HOUR)
        setup.send_message(to=["friend@example.net"], name="apple mail", greeting="[192.168.1.2]", size=3000)
    away = {"client": "192.0.99.1", "program": 1, "name": "phpmailer", "greeting": "vps.example.com", "size": 5 << 20}
    strangers = [f"x{number}@example.com" for number in range(24)]
    action = setup.send_message(to=strangers, **away)
    assert "; its program greets as a name in example.com, and that is new to it; " in action
    assert action.endswith("; its messages are hardly ever of some 5 MiB")
    setup.judge.strangers.release(setup.now, ANNA)
    setup.advance_clock(2 * DAY)
    habits = setup.judge.strangers._store.load_habits(ANNA)
    source = Source("192.0.99.0/24", "192.0.0.0/16", 1, "phpmailer", "a name in example.com")
    assert habits.is_usual(setup.now, source)
    assert not habits.is_usual(setup.now, replace(source, greeting="localhost"))


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
    assert "Its programs call themselves thunderbird, and greet as a private address." in usual
    assert "It usually writes to 6 new people a day at most" in usual
    assert explanation["events"][0].startswith("hold: the network 198.51.100.0/24 is new to it")
