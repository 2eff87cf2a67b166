"""Drills in the lab: on the demonstration's server, or on any other that is built there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from mailkeep.drills import simulated_days
from mailkeep.drills.attacks import ATTACKS
from mailkeep.drills.replay import Range, replay
from mailkeep.drills.result import Result
from mailkeep.drills.simulated_days import Days
from mailkeep.errors import UserError
from mailkeep.lab.internet import Internet
from mailkeep.lab.lab import Lab, Server
from mailkeep.lab.site import Site

STOLEN, INNOCENT = "ben@example-two.test", "anna@example.test"
NAMES = (*ATTACKS, "E", "week")
WITHOUT_GUARD = (
    "submission_recipient_restrictions=reject_non_fqdn_recipient, reject_unlisted_recipient",
    "submission_end_of_data_restrictions=",
    "submission_milters=$signing_milter",
)


def chosen(names: Iterable[str]) -> list[str]:
    """The drills that are meant. Raises UserError."""
    known = {name.lower(): name for name in NAMES}
    wanted = [name.lower() for name in names]
    if unknown := [name for name in wanted if name not in known and name != "all"]:
        raise UserError(f"There is no drill {', '.join(unknown)}. There are: {', '.join(sorted(NAMES))}, and all.")
    return sorted(NAMES) if "all" in wanted else [known[name] for name in wanted]


def around(lab: Lab, site: Site, internet: Internet) -> Range:
    """The range around a built server of this lab."""
    return Range(site, internet, lab.boot_attacker(fresh=False), STOLEN, INNOCENT)


def drill(where: Range, name: str) -> Result | Days:
    if name == "E":
        return simulated_days.patience(where)
    if name == "week":
        with newsletter(where.site):
            return simulated_days.week(where)
    return replay(where, ATTACKS[name])


@contextmanager
def newsletter(site: Site) -> Iterator[None]:
    """The stolen account, which is the last in mail.yml, may send one."""
    before = site.settings_file.read_bytes()
    try:
        site.settings_file.write_bytes(before + f"  limits: {json.dumps(simulated_days.NEWSLETTER)}\n".encode())
        _deploy(site)
        yield
    finally:
        site.settings_file.write_bytes(before)
        _deploy(site)


def _deploy(site: Site) -> None:
    if (done := site.deploy()).code:
        raise UserError(f"The deploy failed:\n{done.output}")


@contextmanager
def without_guard(server: Server) -> Iterator[None]:
    """Postfix asks the guard nothing, as if it had never been built: what the drills find then is what it is for."""
    server.run("cp --preserve=all /etc/postfix/main.cf /etc/postfix/main.cf.guarded")
    try:
        server.run("postconf -e " + " ".join(f"'{setting}'" for setting in WITHOUT_GUARD) + " && postfix reload")
        yield
    finally:
        server.run("mv /etc/postfix/main.cf.guarded /etc/postfix/main.cf && postfix reload")
