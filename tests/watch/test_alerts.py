"""All that matters is told within seconds; nothing twice, and never a flood."""

from collections.abc import Callable

import pytest
from watch_samples import Clock

from mailkeep_server.watch.alert_queue import KEYS, LENGTH, LINES, URGENT, Desk, Letter

Wait = Callable[[float], list[Letter]]
HOUR, DAY = 3600.0, 86400.0


def lines(letters: list[Letter]) -> list[str]:
    return [line for letter in letters for line in letter.text.splitlines()]


def test_what_happens_is_told_after_a_second_and_once(desk: Desk, letters: Wait) -> None:
    desk.happened("near:anna", "anna is near her limit")
    assert letters(0) == []
    (letter,) = letters(2)
    assert letter.subject == "[mail.example.org] anna is near her limit"
    assert letters(HOUR) == []


def test_what_comes_together_goes_in_one_letter_the_urgent_first(desk: Desk, letters: Wait) -> None:
    desk.happened("near:anna", "anna is near her limit")
    desk.happened("over:anna", "anna is over her limit", URGENT)
    (letter,) = letters(2)
    assert letter.urgent
    assert letter.subject == "[mail.example.org] anna is over her limit (and 1 more)"
    assert len(lines([letter])) == 2


def test_a_trouble_is_told_when_it_begins_and_when_it_is_over(desk: Desk, letters: Wait) -> None:
    told = []
    for seen in ({"postfix": ("Postfix is down", "Postfix runs again")}, {}):
        for _ in range(100):
            desk.troubles("unit", seen)
            told += letters(1)
    assert [letter.subject.partition("] ")[2] for letter in told] == [
        "Postfix is down",
        "Postfix runs again (since 2025-11-25 16:00:00 UTC)",
    ]


def test_one_sensors_silence_does_not_end_the_troubles_of_another(desk: Desk, letters: Wait) -> None:
    desk.troubles("unit", {"a": ("a is down", "a runs")})
    desk.troubles("disk", {})
    assert len(lines(letters(60))) == 1


def test_what_lasts_is_told_again_each_day(desk: Desk, letters: Wait, clock: Clock) -> None:
    for hour in range(49):
        desk.trouble("certificate:end", f"The certificate ends in {14 - hour // 24} days", "It was renewed")
        clock.now += HOUR
    texts = lines(letters(1800))
    assert len(texts) == 3
    assert texts[-1].endswith("The certificate ends in 12 days (since 2025-11-25 16:00:00 UTC)")


def test_a_restart_tells_nothing_twice_and_forgets_nothing(desk: Desk, letters: Wait, clock: Clock) -> None:
    desk.trouble("unit:a", "a is down", "a runs again")
    assert len(letters(5)) == 1
    desk.happened("x", "not yet told")
    again = Desk("mail.example.org", desk.state(), clock)
    again.trouble("unit:a", "a is down", "a runs again")
    again.over("unit:a")
    clock.now += 2
    letter = again.letter()
    assert letter
    assert next(line.partition("  ")[2] for line in letter.text.splitlines()) == "not yet told"
    assert "a runs again" in letter.text
    assert "a is down" not in letter.text


def test_what_flaps_is_told_a_few_times_only(desk: Desk, letters: Wait) -> None:
    told = []
    for _ in range(500):
        desk.trouble("unit:a", "a is down", "a runs again")
        told += letters(5)
        desk.over("unit:a")
        told += letters(5)
    assert len([line for line in lines(told) if "a is down" in line]) == 4
    assert len([line for line in lines(told) if "a runs again" in line]) == 4


def test_an_attack_of_70000_tries_makes_a_handful_of_letters(desk: Desk, letters: Wait) -> None:
    """Nine hours of it, with all that the guard might tell of each try, and with names that it makes up."""
    told: list[Letter] = []
    for second in range(0, 9 * 3600, 6):
        for n in range(13):
            desk.happened("over:anna", "anna is over her limit", URGENT)
            desk.happened(f"spoof:{second}-{n}", f"anna wrote as boss{second}-{n}@example.org")
            desk.trouble("failures", "Somebody guesses passwords", "Few logins fail again")
        told += letters(5.5)
    assert len([letter for letter in told if letter.urgent]) <= 4
    assert len(told) <= 8 + 9 * 12
    assert all(len(letter.text) <= (LINES + 1) * (LENGTH + 30) for letter in told)
    assert len(desk.told) <= KEYS


def test_what_can_wait_never_uses_up_what_cannot(desk: Desk, letters: Wait) -> None:
    for n in range(10_000):
        desk.happened(f"network:{n}", f"account {n} sends from a new network")
        if n < 1000 and not n % 10:
            letters(1)
    desk.happened("frozen:anna", "anna is frozen", URGENT)
    (letter,) = letters(2)
    assert letter.subject.startswith("[mail.example.org] anna is frozen")
    assert "more alerts, which the journal of mailkeep-watch has" in letter.text


def test_no_flood_of_urgent_alerts_loses_one_that_comes_first(desk: Desk, letters: Wait) -> None:
    for n in range(LINES * 3):
        desk.happened(f"over:{n}", f"{n} is over its limit", URGENT)
    (letter,) = letters(2)
    assert "  0 is over its limit" in letter.text
    assert f"… and {LINES * 2} more alerts" in letter.text


@pytest.mark.parametrize("evil", ["a\nSubject: x", "a\x1b[2J", "a\u202eb", "x" * 10_000, "\r\n.\r\n"])
def test_what_an_attacker_wrote_stays_on_its_line(desk: Desk, letters: Wait, evil: str) -> None:
    desk.happened("spoof:anna", evil)
    (letter,) = letters(2)
    assert letter.text.count("\n") == 1
    assert all(character.isprintable() or character == "\n" for character in letter.subject + letter.text)
    assert len(letter.subject) < 200
    assert len(letter.text) < LENGTH + 40


def test_a_clock_that_is_set_back_stops_nothing(desk: Desk, letters: Wait, clock: Clock) -> None:
    desk.happened("a", "one")
    assert letters(2)
    clock.now -= DAY
    desk.happened("b", "two")
    assert letters(2)
