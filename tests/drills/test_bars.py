"""A drill fails when more got out, or took longer, than may; and what it does is what it says."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from mailkeep.drills.attacks import ATTACKS
from mailkeep.drills.result import DrillResult, Innocents
from mailkeep.drills.simulated_days import DAY, Mail, honest_week, patient_spammer
from mailkeep.settings.sections import DEFAULT_LIMITS

GOOD = DrillResult(
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


def test_what_is_within_all_bars_is_good() -> None:
    assert GOOD.misses == []
    assert GOOD.seconds_to_freeze == pytest.approx(1.1)
    assert GOOD.seconds_to_alert == pytest.approx(2.0)


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
def test_each_bar_can_be_missed(worse: dict[str, object], miss: str) -> None:
    assert replace(GOOD, **worse).misses == [miss]  # type: ignore[arg-type]


def test_the_same_drill_is_the_same_picture(tmp_path: Path) -> None:
    from mailkeep.drills import picture  # here, as loading matplotlib takes half a second

    one, two = (picture.draw_results([GOOD], tmp_path / name)[0].read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_honest_week_is_as_heavy_as_it_says() -> None:
    week = honest_week("anna@example.test", "ben@example-two.test")
    for day in range(7):
        own = [mail for mail in week if mail.at // DAY == day and mail.account == "anna@example.test"]
        assert len(own) == 60
        assert sum(len(mail.recipients) == 40 for mail in own) == 2
    assert sum(len(mail.recipients) for mail in week if mail.account == "ben@example-two.test") == 200


def most(mails: list[Mail], window: float, amount: Callable[[Mail], int]) -> int:
    return max(sum(amount(one) for one in mails if mail.at <= one.at < mail.at + window) for mail in mails)


def test_the_patient_spammer_uses_all_that_he_may_and_no_more() -> None:
    mails = patient_spammer("ben@example-two.test", 2)
    assert most(mails, DAY, lambda _: 1) == DEFAULT_LIMITS["messages_per_day"]
    assert most(mails, DAY, lambda mail: len(mail.recipients)) == DEFAULT_LIMITS["recipients_per_day"]
    assert most(mails, 3600, lambda _: 1) == DEFAULT_LIMITS["messages_per_hour"]
    assert all(one.at < two.at for one, two in pairwise(mails))


def test_attacks_are_bounded() -> None:
    assert all(attack.tries <= 400 and attack.seconds <= 60 for attack in ATTACKS.values())
