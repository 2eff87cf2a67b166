"""The incidents, replayed: a thief with the right password gets few messages out, and no other account is affected."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from clients import SUBMISSION, compose_message, deliver_message

from mailkeep.drills import production
from mailkeep.drills.attacks import ATTACKS
from mailkeep.drills.in_lab import STOLEN, allow_newsletter, bypass_guard, create_setup, run_drill
from mailkeep.drills.replay import DrillSetup, replay_attack
from mailkeep.drills.result import MAX_MESSAGES_OUT, DrillResult
from mailkeep.drills.simulated_days import DAY, MAX_REACHED, SimulatedDaysResult
from mailkeep.lab import Internet, Lab, poll
from mailkeep.lab.site import Site

QUICK_A = replace(ATTACKS["A"], pace=8.0)
"""Incident A, three times as fast as it happened."""


@pytest.fixture(scope="module")
def drill_setup(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[DrillSetup]:
    server = lab.boot_server("drilled", hostname="mail.example.test", image=built_image)
    site = built_site.copy_for(server)
    assert site.deploy().code == 0  # the deploy restores its resolver: a copy boots with the resolver of this machine
    yield create_setup(lab, site, internet)
    server.remove()


@pytest.fixture(scope="module")
def incident_a(drill_setup: DrillSetup) -> DrillResult:
    return replay_attack(drill_setup, QUICK_A)


def test_incident_a_ends_after_its_limit_with_a_freeze_and_an_alert(incident_a: DrillResult) -> None:
    assert incident_a.misses == []
    assert incident_a.tries > incident_a.taken == 20
    assert incident_a.on_hold > 0


def test_a_drill_has_a_picture(incident_a: DrillResult, tmp_path: Path) -> None:
    from mailkeep.drills import picture  # importing matplotlib takes half a second, which only this test needs

    svg, png = picture.draw_results([incident_a], tmp_path / "a")
    assert "<svg" in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_botnet_of_200_networks_gets_no_further(drill_setup: DrillSetup) -> None:
    result = replay_attack(drill_setup, ATTACKS["F"])
    assert result.misses == []
    assert (
        result.taken
        <= drill_setup.site.settings.effective_limits(drill_setup.site.settings.guard.limits)["networks_per_hour"]
    )


def test_without_the_guard_incident_a_is_not_stopped(drill_setup: DrillSetup) -> None:
    with bypass_guard(drill_setup.server):
        result = replay_attack(drill_setup, replace(QUICK_A, tries=60))
    assert result.messages > MAX_MESSAGES_OUT
    assert result.freeze is None
    assert any("messages out" in miss for miss in result.misses)


def test_a_newsletter_to_200_is_one_message_where_mail_yml_allows_it(drill_setup: DrillSetup) -> None:
    drill_setup.prepare()
    readers = [f"reader-{number}@outside.test" for number in range(200)]
    text = compose_message(STOLEN, readers[0], "newsletter")

    def send_newsletter() -> str:
        login = (STOLEN, drill_setup.site.passphrases[STOLEN])
        return deliver_message(str(drill_setup.server.ip), SUBMISSION, STOLEN, readers, text, login=login)

    assert send_newsletter().startswith("450 4.7.1 <reader-60@outside.test>")
    with allow_newsletter(drill_setup.site):
        assert send_newsletter().startswith("250")

    def read_recipients() -> list[str]:
        copies = [
            received.recipients
            for received in drill_setup.internet.read_messages()
            if received.message["Subject"] == "newsletter"
        ]
        return sorted(recipient for recipients in copies for recipient in recipients)

    poll(lambda: read_recipients() == sorted(readers), 30, "not all arrived")


def test_a_live_server_is_drilled_with_a_throwaway_account(drill_setup: DrillSetup) -> None:
    drill_setup.prepare()
    password = drill_setup.site.passphrases[STOLEN]
    [outcome] = production.run_live_drill(drill_setup.site.inventory, "D", STOLEN, "friend@outside.test", password)
    assert outcome.misses == []
    assert (outcome.taken, outcome.frozen) == (0, True)


def test_a_patient_thief_is_held_after_few_strangers_and_told_the_same_day(drill_setup: DrillSetup) -> None:
    """Drill E: the owner's habits first, by a moved clock; each message goes through Postfix."""
    result = run_drill(drill_setup, "E")
    assert isinstance(result, SimulatedDaysResult)
    print(result)
    assert result.misses == []
    assert not result.frozen
    assert 10 <= result.recipients[0] <= MAX_REACHED
    assert result.first_warning is not None
    assert result.first_warning <= DAY
