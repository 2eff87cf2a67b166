"""Drills in the lab: on the demonstration's server, or on any other server that is built there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mailkeep.drills import simulated_days
from mailkeep.drills.attacks import ATTACKS
from mailkeep.drills.replay import DrillSetup, replay_attack
from mailkeep.drills.result import DrillResult
from mailkeep.drills.simulated_days import SimulatedDaysResult
from mailkeep.errors import UserError
from mailkeep.lab.internet import Internet
from mailkeep.lab.lab import Lab, Server
from mailkeep.lab.postfix_reload import RELOAD_POSTFIX
from mailkeep.lab.site import Site

STOLEN, INNOCENT = "ben@example-two.test", "anna@example.test"
NAMES = (*ATTACKS, "E", "week")
MAIN_CF_WITHOUT_GUARD = (
    "submission_recipient_restrictions=reject_non_fqdn_recipient, reject_unlisted_recipient",
    "submission_end_of_data_restrictions=",
    "submission_milters=$signing_milter",
)


def select_drills(names: Iterable[str]) -> list[str]:
    """The drills of these names, in any case; `all` selects all. Raises UserError."""
    known = {name.lower(): name for name in NAMES}
    selected = [name.lower() for name in names]
    if unknown := [name for name in selected if name not in known and name != "all"]:
        raise UserError(f"There is no drill {', '.join(unknown)}. There are: {', '.join(sorted(NAMES))}, and all.")
    return sorted(NAMES) if "all" in selected else [known[name] for name in selected]


def create_setup(lab: Lab, site: Site, internet: Internet) -> DrillSetup:
    """A built server of this lab, with an attacker, an account whose password is stolen, and an innocent one."""
    return DrillSetup(site, internet, lab.boot_attacker(fresh=False), STOLEN, INNOCENT)


def run_drill(setup: DrillSetup, name: str) -> DrillResult | SimulatedDaysResult:
    if name == "E":
        return simulated_days.run_patient_thief(setup)
    if name == "week":
        with allow_newsletter(setup.site):
            return simulated_days.run_honest_week(setup)
    return replay_attack(setup, ATTACKS[name])


@contextmanager
def allow_newsletter(site: Site) -> Iterator[None]:
    """Raise the limits of the stolen account, the last in mail.yml, so that it may send a newsletter."""
    before = site.settings_file.read_bytes()
    try:
        limits = json.dumps(simulated_days.NEWSLETTER_LIMITS)
        site.settings_file.write_bytes(before + f"  limits: {limits}\n".encode())
        _deploy(site)
        yield
    finally:
        site.settings_file.write_bytes(before)
        _deploy(site)


def _deploy(site: Site) -> None:
    if (done := site.deploy()).code:
        raise UserError(f"The deploy failed:\n{done.output}")


LIFT_FIREWALL_BOUND = r"""
nft -a list chain inet mailkeep output | sed -nE 's/.* comment "leaving" # handle ([0-9]+)$/\1/p' |
  xargs nft delete rule inet mailkeep output handle"""


@contextmanager
def bypass_guard(server: Server) -> Iterator[None]:
    """Let Postfix not ask the guard, nor the firewall bound what leaves. A drill then shows from what they protect."""
    server.run(LIFT_FIREWALL_BOUND)
    server.run("cp --preserve=all /etc/postfix/main.cf /etc/postfix/main.cf.guarded")
    try:
        options = " ".join(f"'{option}'" for option in MAIN_CF_WITHOUT_GUARD)
        server.run(f"postconf -e {options} && {RELOAD_POSTFIX}")
        yield
    finally:
        server.run(
            f"mv /etc/postfix/main.cf.guarded /etc/postfix/main.cf && {RELOAD_POSTFIX} nft -f /etc/nftables.conf"
        )
