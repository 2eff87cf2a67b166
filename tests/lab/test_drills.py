"""The incidents, replayed: a thief with the right password gets few messages out, and no other account is affected.

After drills A and B the commands of the first hour have the right numbers.
"""

import json
import subprocess
import sys
import time
from ast import literal_eval
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

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
COMMAND_SECONDS = 60.0
"""For each command of the first hour; these machines are slow."""
SOMETHING_IS_WRONG = 3
"""The exit code of `mailkeep status`."""


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


def ask(setup: DrillSetup, *words: str, code: int = 0) -> Any:
    done = setup.server.run(f"mailkeepctl {' '.join(words)} --json", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def count_row(setup: DrillSetup, *words: str) -> dict[str, int]:
    """The stolen account's row of `mailkeepctl report`."""
    rows = ask(setup, "report", "--by", "account", *words)["rows"]
    return next(row for row in rows if row["key"] == STOLEN)


def read_lines(setup: DrillSetup, words: str, since: float = 0) -> list[str]:
    """Postfix's own lines of the stolen account, by the plainest way to read them."""
    lines = setup.server.run(f"grep -h '{words}.* sasl_username={STOLEN}' /var/log/mailkeep/postfix*.log").stdout
    begin = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
    return [line for line in lines.splitlines() if line[: len(begin)] >= begin]


def count_failures(setup: DrillSetup) -> int:
    """The tries of a frozen account's thief go on for a while."""
    return sum(login["failed"] for login in ask(setup, "logins", STOLEN)["logins"])


def check_what_the_commands_say(setup: DrillSetup, result: DrillResult, since: float) -> None:
    """Who sent, how many, what was refused and what is frozen, beside what the drill saw from outside."""
    attacker, bound = str(setup.attacker.sources[0]), ("--since", f"@{int(since)}")
    queue = ask(setup, "queue", "--account", STOLEN)
    assert queue["by_queue"] == {"hold": result.on_hold}
    row, refusals = count_row(setup, *bound), read_lines(setup, "reject: ", since)
    assert (row["messages"], row["held"], row["rejected"]) == (result.taken, result.on_hold, len(refusals))
    assert (row["delivered"], row["people"]) == (result.recipients, result.recipients + queue["recipients"])
    assert row["rejected"] > 0

    trace = ask(setup, "trace", STOLEN, *bound)
    messages = [message for message in trace["messages"] if message["login"] == STOLEN]
    refused = [*trace["refusals"], *(refusal for message in messages for refusal in message["refusals"])]
    taken = [message for message in messages if message["size"]]
    assert (len(taken), {message["address"] for message in messages}) == (result.taken, {attacker})
    assert len([message for message in taken if message["hold"]]) == result.on_hold
    assert (len(refused), {refusal["address"] for refusal in refused}) == (row["rejected"], {attacker})

    logins = ask(setup, "logins", STOLEN)["logins"]
    [smtp] = [login for login in logins if login["service"] == "smtp"]
    assert (smtp["address"], smtp["good"]) == (attacker, len(read_lines(setup, "client=")))
    poll(lambda: count_failures(setup) == count_row(setup)["failed_logins"], 20, "logins and report do not agree")

    banned = literal_eval(setup.server.run("fail2ban-client banned").stdout)
    assert sorted(ban["address"] for ban in ask(setup, "bans")) == sorted(
        address for jails in banned for addresses in jails.values() for address in addresses
    )
    worst = ask(setup, "status", code=SOMETHING_IS_WRONG)["wrong"][0]
    assert worst["key"] == f"frozen:{STOLEN}"
    assert attacker in worst["text"]


def test_after_incident_a_the_commands_have_the_right_numbers(drill_setup: DrillSetup, incident_a: DrillResult) -> None:
    check_what_the_commands_say(drill_setup, incident_a, since=0)


def test_the_first_hour_is_a_matter_of_minutes(drill_setup: DrillSetup, incident_a: DrillResult) -> None:
    """The commands of docs/after-a-break-in.md, on the operator's machine; `pytest -s` shows the seconds of each."""
    since = ("--since", "1 days ago")
    for words, code in (
        (("status",), SOMETHING_IS_WRONG),
        (("account", "freeze", STOLEN, "--why", "sends spam"), 0),
        (("logins", STOLEN), 0),
        (("report", "--account", STOLEN, "--by", "result", *since), 0),
        (("queue", "--account", STOLEN), 0),
        (("queue", "delete", "--account", STOLEN, "--yes"), 0),
    ):
        verbs = 2 if words[0] == "account" else 1
        command = [*words[:verbs], str(drill_setup.site.inventory), *words[verbs:]]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "mailkeep", *command], capture_output=True, text=True, timeout=300, check=False
        )
        seconds = time.monotonic() - began
        assert done.returncode == code, done.stdout + done.stderr
        assert seconds < COMMAND_SECONDS
        print(f"{seconds:6.1f} s  mailkeep {' '.join(words)}")
    row = count_row(drill_setup)
    assert (row["deleted"], row["deferred"]) == (incident_a.on_hold, 0)
    trace = ask(drill_setup, "trace", STOLEN)
    fates = [person["fate"] for message in trace["messages"] for person in message["recipients"]]
    assert fates.count("deleted") == incident_a.on_hold


def test_after_incident_b_the_commands_have_the_right_numbers(drill_setup: DrillSetup) -> None:
    # What was deleted in this second is of the drill before.
    since = 1 + float(drill_setup.server.run("date +%s").stdout)
    poll(lambda: float(drill_setup.server.run("date +%s").stdout) >= since, 5, "the clock stands still")
    result = replay_attack(drill_setup, ATTACKS["B"])
    assert result.misses == []
    check_what_the_commands_say(drill_setup, result, since)


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
