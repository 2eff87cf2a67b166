"""Thieves with the right password who stay under every limit (drills E, G, H, I, J), and honest people for a year.

Time is simulated; the judge is the real one. `simulated_people` and `simulated_thieves` have the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from heapq import merge
from pathlib import Path

import pytest
from guard_samples import JudgeSetup
from simulated_people import MINUTE, RELEASED_AFTER, START, Dice, Mail, Person, SimulatedServer, make_people, run_year
from simulated_programs import OFFICE
from simulated_thieves import Thief, attack, measure_hours_until_told

from mailkeep.settings.sections import DEFAULT_LIMITS
from mailkeep_server.common.sender_kinds import FORWARD
from mailkeep_server.guard.sliding_window import DAY, HOUR

pytestmark = pytest.mark.slow
HISTORY, DAYS = 60, 4
"""Days of honest mail before the thief; and his."""
SHARES = (0.15, 0.05, 0.0)
MAX_REACHED = {0.15: 60, 0.05: 100, 0.0: 150}
MAX_HOURS = 24


def run_history(server: SimulatedServer, people: list[Person], days: int = HISTORY) -> None:
    def live_until(person: Person) -> Iterator[Mail]:
        for mail in person.live():
            if mail.at >= START + days * DAY:
                return
            yield mail

    for mail in merge(*map(live_until, people)):
        server.take(mail)
    for person in people:
        server.judge.strangers.release(START + days * DAY, person.account)
        server.tallies[person.account].holds.clear()


def choose_victims(seed: int, number: int) -> list[Person]:
    people = make_people(seed, 3 * number)
    return [person for person in people if not (person.is_seasonal or person.first_day or person.newsletter)][:number]


PLAIN = [Thief(share) for share in SHARES]
FRIENDLY = [Thief(share, knows_friends=True) for share in SHARES]
NEAR = [Thief(share, is_near=True, knows_friends=True) for share in SHARES]
COPYING_HEADERS = [Thief(share, is_near=True, copies_program=True) for share in SHARES]
COPYING = [replace(thief, copies_greeting=True) for thief in COPYING_HEADERS]
COLLEAGUE, SAME_PLACE = Thief(0.0, client="office"), Thief(0.0, client="office", copies_program=True)
SAME_DEVICE = replace(SAME_PLACE, copies_greeting=True)
EACH = 3
"""Victims of each kind of thief."""


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> dict[Thief, list[tuple[int, float | None]]]:
    """By thief, for each victim: how many people he reached, and hours until the operator was told."""
    thieves = [*PLAIN, *FRIENDLY, *NEAR, *COPYING, *COPYING_HEADERS, COLLEAGUE, SAME_DEVICE, SAME_PLACE]
    victims = choose_victims(201, EACH * len(thieves))
    server = SimulatedServer(tmp_path_factory.mktemp("thieves"), victims)
    run_history(server, victims)
    pairs = [(thief, victims[EACH * number + copy]) for number, thief in enumerate(thieves) for copy in range(EACH)]
    attack(server, pairs, HISTORY + 1, DAYS)
    results: dict[Thief, list[tuple[int, float | None]]] = {}
    for thief, victim in pairs:
        reached = len(server.tallies[victim.account].reached)
        results.setdefault(thief, []).append((reached, measure_hours_until_told(server, victim, HISTORY + 1)))
    for thief, numbers in results.items():
        print(thief, numbers)
    return results


@pytest.mark.parametrize("thief", [*PLAIN, *FRIENDLY, *NEAR, *COPYING_HEADERS, *COPYING], ids=str)
def test_a_patient_thief_reaches_few_and_the_operator_is_told_the_same_day(
    attacked: dict[Thief, list[tuple[int, float | None]]], thief: Thief
) -> None:
    for reached, hours in attacked[thief]:
        assert reached <= MAX_REACHED[thief.dead_share]
        assert hours is not None
        assert hours <= MAX_HOURS


def test_a_thief_at_a_colleague_s_device_is_held_later(
    attacked: dict[Thief, list[tuple[int, float | None]]],
) -> None:
    """Drill J. One at the victim's own device is not held: only the limits and what becomes of his mail bound him.

    One who copies the headers there is held by how his program greets, if that is by another kind of name.
    """
    assert all(reached <= 100 and hours is not None for reached, hours in attacked[COLLEAGUE])
    assert sum(reached <= 100 and hours is not None for reached, hours in attacked[SAME_PLACE]) > EACH / 2
    assert any(reached == 200 * DAYS and hours is None for reached, hours in attacked[SAME_DEVICE])


# --- other drills -----------------------------------------------------------------------------------------------------


def make_forgotten(tmp_path: Path) -> tuple[SimulatedServer, Person]:
    person = Person("forgotten@example.org", Dice("forgotten"))
    return SimulatedServer(tmp_path / "guard", [person]), person


def test_a_forgotten_account_that_wakes_up_reaches_ten_people_at_most(tmp_path: Path) -> None:
    """Drill G."""
    server, person = make_forgotten(tmp_path)
    attack(server, [(Thief(0.0), person)], 200, DAYS)
    assert len(server.tallies[person.account].reached) <= 10
    assert measure_hours_until_told(server, person, 200) is not None


def test_an_account_that_was_left_months_ago_reaches_ten_people_at_most(tmp_path: Path) -> None:
    [person] = choose_victims(202, 1)
    server = SimulatedServer(tmp_path / "guard", [person])
    run_history(server, [person])
    attack(server, [(Thief(0.0), person)], HISTORY + 100, DAYS)
    assert len(server.tallies[person.account].reached) <= 10


LIST, MEMBERS = "members@example.org", [f"m{number}@members.example.com" for number in range(400)]
LIST_LIMITS = DEFAULT_LIMITS | dict.fromkeys(
    ("recipients_per_10_minutes", "recipients_per_hour", "new_recipients_per_day"), len(MEMBERS)
)
"""Without them, no message to the list would leave."""


def abuse_list(server: SimulatedServer, client: str, program: int, person: Person) -> list[str]:
    """What became of twenty messages in twenty minutes."""
    device = person.devices[0]
    mail = Mail(
        *(START + (HISTORY + 1) * DAY + 12 * HOUR, person.account, client, program, (LIST,)),
        is_thief=True,
        name=device.name,
        greeting=device.greet(OFFICE),
    )
    return [server.take(replace(mail, at=mail.at + number * MINUTE)) for number in range(20)]


def make_list_server(tmp_path: Path) -> tuple[SimulatedServer, Person]:
    """The limits of the account let it write to the list."""
    [person] = choose_victims(203, 1)
    person.newsletter, person.first_newsletter = 1, HISTORY + 100  # limits of its own, and no newsletter yet
    server = SimulatedServer(tmp_path / "guard", [person], {LIST: MEMBERS}, LIST_LIMITS)
    run_history(server, [person])
    server.is_released = False
    return server, person


def test_a_list_of_400_reaches_nobody_from_elsewhere(tmp_path: Path) -> None:
    """Drill H."""
    server, person = make_list_server(tmp_path)
    results = abuse_list(server, "198.51.100.9", 7, person)
    assert results.count("left") == 0
    assert results[0] == "held"
    assert server.tallies[person.account].holds


def test_a_list_of_400_reaches_each_member_once_from_the_usual_place(tmp_path: Path) -> None:
    """Drill H at the victim's own device: one message is as its owner's, and the limits end the others."""
    server, person = make_list_server(tmp_path)
    results = abuse_list(server, person.office, person.programs[0], person)
    assert results.count("left") == 1
    assert results[0] == "left"
    assert all(" 450 " in f" {result}" or result == "held" or "frozen" in result for result in results[1:]), results


def test_a_redirect_by_a_thief_is_told_at_once(new_setup: Callable[[], JudgeSetup]) -> None:
    """Drill I: rules send mail on. It is bounded as what rules send, and the first address is told."""
    setup = new_setup()
    refusal = setup.judge.scripts.judge_message(setup.now, "anna@example.org", FORWARD, ["thief@example.net"], "Q1")
    assert refusal is None
    assert setup.list_events("new-redirect") == [("anna@example.org", "thief@example.net")]


# --- honest people ----------------------------------------------------------------------------------------------------


def test_honest_people_are_hardly_ever_held_and_never_frozen(tmp_path: Path) -> None:
    """A seed that no number was tuned on. `python tests/guard/simulated_people.py` runs other ones, of 50 people."""
    tallies = run_year(tmp_path / "guard", 104, 16)
    assert sum(tally.sent for tally in tallies.values()) > 5000
    assert not any(tally.frozen for tally in tallies.values())
    assert sum(tally.refused for tally in tallies.values()) == 0
    assert sum(len(tally.holds) for tally in tallies.values()) <= len(tallies)
    assert max(len(tally.holds) for tally in tallies.values()) <= 2
    assert RELEASED_AFTER <= DAY
