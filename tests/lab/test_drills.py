"""The incidents, replayed: who has the right password sends a few messages, and nobody else notices."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from clients import SUBMISSION, deliver, message

from mailkeep.drills import picture, production
from mailkeep.drills.attacks import ATTACKS
from mailkeep.drills.in_lab import STOLEN, around, newsletter, without_guard
from mailkeep.drills.replay import Range, replay
from mailkeep.drills.result import MOST_OUT, Result
from mailkeep.lab import Internet, Lab, poll
from mailkeep.lab.site import Site

QUICK_A = replace(ATTACKS["A"], pace=8.0)
"""Three times as fast as it happened."""


@pytest.fixture(scope="module")
def where(lab: Lab, internet: Internet, built: Site, baked: str) -> Iterator[Range]:
    server = lab.boot_server("drilled", hostname="mail.example.test", image=baked)
    copied = built.copy_for(server)
    text = copied.settings_file.read_text().replace(str(built.server.ip), str(server.ip))
    copied.settings_file.write_text(text.replace(str(built.server.ip6), str(server.ip6)))
    assert copied.deploy().code == 0  # also its resolver: a copy boots with that of this machine
    yield around(lab, copied, internet)
    server.remove()


@pytest.fixture(scope="module")
def incident_a(where: Range) -> Result:
    return replay(where, QUICK_A)


def test_incident_a_ends_after_its_limit_with_a_freeze_and_an_alert(incident_a: Result) -> None:
    assert incident_a.misses == []
    assert incident_a.tries > incident_a.taken == 20
    assert incident_a.on_hold > 0


def test_a_drill_can_be_looked_at(incident_a: Result, tmp_path: Path) -> None:
    svg, png = picture.draw([incident_a], tmp_path / "a")
    assert "<svg" in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_botnet_of_200_networks_gets_no_further(where: Range) -> None:
    result = replay(where, ATTACKS["F"])
    assert result.misses == []
    assert result.taken <= where.site.settings.effective_limits(where.site.settings.guard.limits)["networks_per_hour"]


def test_without_the_guard_incident_a_goes_on(where: Range) -> None:
    with without_guard(where.server):
        result = replay(where, replace(QUICK_A, tries=60))
    assert result.messages > MOST_OUT
    assert result.freeze is None
    assert any("messages out" in miss for miss in result.misses)


def test_a_newsletter_to_200_is_one_message_where_mail_yml_allows_it(where: Range) -> None:
    where.prepare()
    readers = [f"reader-{one}@outside.test" for one in range(200)]
    mail = message(STOLEN, readers[0], "newsletter")

    def send() -> str:
        login = (STOLEN, where.site.passphrases[STOLEN])
        return deliver(str(where.server.ip), SUBMISSION, STOLEN, readers, mail, login=login)

    assert send().startswith("450 4.7.1 <reader-60@outside.test>")
    with newsletter(where.site):
        assert send().startswith("250")

    def reached() -> list[str]:
        parts = [one.recipients for one in where.internet.read_messages() if one.message["Subject"] == "newsletter"]
        return sorted(reader for part in parts for reader in part)

    poll(lambda: reached() == sorted(readers), 30, "not all arrived")


def test_a_live_server_is_drilled_with_an_account_to_throw_away(where: Range) -> None:
    where.prepare()
    password = where.site.passphrases[STOLEN]
    [outcome] = production.drill(where.site.inventory, "D", STOLEN, "friend@outside.test", password)
    assert outcome.misses == []
    assert (outcome.taken, outcome.frozen) == (0, True)
