"""A drill fails when it exceeds one of its bounds, and its attacks and users are as described."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from mailkeep.drills.attacks import ATTACKS
from mailkeep.drills.result import DrillResult, Innocents
from mailkeep.drills.simulated_days import DAY, Mail, habits_of, honest_week, patient_thief
from mailkeep.settings.sections import DEFAULT_LIMITS

WITHIN_BOUNDS = DrillResult(
    drill="A",
    title="a probe",
    incident="",
    tries=60,
    taken=20,
    messages=15,
    recipients=15,
    limit=8.0,
    threshold=19.0,
    freeze=19.1,
    cut=20.0,
    held=20.1,
    alert=21.0,
    queued=0,
    on_hold=5,
    disk=(18_000, 18_600),
    innocents=Innocents(sent=20, logins=9),
    tried_at=(0.1, 0.5),
    out_at=(0.2,),
    innocents_at=(0.3,),
)


def test_a_result_within_all_bounds_misses_none() -> None:
    assert WITHIN_BOUNDS.misses == []
    assert WITHIN_BOUNDS.seconds_to_freeze == pytest.approx(1.1)
    assert WITHIN_BOUNDS.seconds_to_alert == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("worse", "miss"),
    [
        ({"messages": 31}, "31 messages out; at most 30 are allowed"),
        ({"cut": 24.5}, "5.5 seconds to the freeze; at most 5 are allowed"),
        ({"cut": None}, "no freeze"),
        ({"held": None}, "no freeze"),
        ({"alert": 29.5}, "10.5 seconds to the alert; at most 10 are allowed"),
        ({"alert": None}, "no alert"),
        ({"queued": 1}, "1 messages of the account left in the queue, not on hold; at most 0 are allowed"),
        ({"disk": (0, 20_000)}, "20000 KiB of disk used; at most 16384 are allowed"),
        ({"innocents": Innocents(lost=1)}, "1 messages of innocents lost; at most 0 are allowed"),
        ({"innocents": Innocents(refused=1)}, "1 messages or logins of innocents refused; at most 0 are allowed"),
    ],
)
def test_each_bound_can_be_missed(worse: dict[str, object], miss: str) -> None:
    assert replace(WITHIN_BOUNDS, **worse).misses == [miss]  # type: ignore[arg-type]


@pytest.mark.slow
def test_equal_results_make_equal_pictures(tmp_path: Path) -> None:
    from mailkeep.drills import picture  # importing matplotlib takes half a second, which only this test needs

    files = [picture.draw_results([WITHIN_BOUNDS], tmp_path / name)[0] for name in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_honest_week_is_as_heavy_as_described() -> None:
    week = honest_week("anna@example.test", "ben@example-two.test")
    for day in range(7):
        sent = [mail for mail in week if mail.at // DAY == day and mail.account == "anna@example.test"]
        assert len(sent) == 60
        assert sum(len(mail.recipients) == 40 for mail in sent) == 2
    assert sum(len(mail.recipients) for mail in week if mail.account == "ben@example-two.test") == 200


def busiest_window(mails: list[Mail], seconds: float, amount: Callable[[Mail], int]) -> int:
    """The largest sum of `amount` within this many seconds."""
    return max(sum(amount(mail) for mail in mails if start.at <= mail.at < start.at + seconds) for start in mails)


def test_the_patient_thief_stays_within_every_limit_and_writes_to_strangers_alone() -> None:
    account = "ben@example-two.test"
    mails = patient_thief(account)
    assert busiest_window(mails, DAY, lambda mail: len(mail.recipients)) <= DEFAULT_LIMITS["new_recipients_per_day"]
    assert busiest_window(mails, 3600, lambda _: 1) <= DEFAULT_LIMITS["messages_per_hour"]
    habits = habits_of(account)
    assert all(earlier.at < later.at for earlier, later in pairwise([*habits, *mails]))
    known = {recipient for mail in habits for recipient in mail.recipients}
    strangers = [recipient for mail in mails for recipient in mail.recipients]
    assert not known & set(strangers)
    assert len(set(strangers)) == len(strangers)
    dead = sum(not recipient.endswith("@outside.test") for recipient in strangers)
    assert 0.13 <= dead / len(strangers) <= 0.15


def test_attacks_are_bounded() -> None:
    assert all(attack.tries <= 400 and attack.seconds <= 60 for attack in ATTACKS.values())
