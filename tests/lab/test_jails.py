"""Whoever guesses passwords, or tries to abuse SMTP, is cut off by the firewall: in every jail, over IPv4 and IPv6."""

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from clients import (
    IMAP,
    SMTP,
    SUBMISSION,
    await_greeting,
    besiege_port,
    envelope_commands,
    is_accepted,
    log_in,
    run_on,
    talk_smtp,
    try_again,
)

from mailkeep.lab import Attacker, Lab, Server, poll
from mailkeep.lab.site import Site
from mailkeep.parts.fail2ban import MAXRETRY

ANNA, BEN = "anna@example.test", "ben@example-two.test"
SSH = 22
PATIENCE = 20.0  # seconds until who has failed MAXRETRY times must be cut off
DOORS = {"ssh": SSH, "imap": IMAP, "submission": SUBMISSION, "relay": SMTP}
SEEN_BY = {"ssh": {"sshd"}, "imap": {"dovecot"}, "submission": {"dovecot"}, "relay": {"postfix"}}
JAILS = {"sshd", "dovecot", "postfix", "recidive"}

_SENTENCES = """
import sqlite3, sys
bans = sqlite3.connect("file:/var/lib/fail2ban/fail2ban.sqlite3?mode=ro", uri=True)
for ban in bans.execute("SELECT jail, bantime FROM bans WHERE ip = ? ORDER BY rowid", sys.argv[1:]):
    print(*ban)
"""


# Lines of Dovecot's, as it were: journald knows the unit of who writes.
_DROP_IN = "/etc/systemd/system/dovecot.service.d"
_JOURNAL = "/etc/systemd/journald.conf.d/mailkeep.conf"
_FLOOD = """
import socket
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.connect("/dev/log")
for number in range(70_000):
    journal.send(b"<22>dovecot: imap-login: Disconnected: Connection closed (no auth attempts): rip=192.0.2.1")
"""
FLOOD_PATIENCE = 120.0  # seconds; fail2ban reads some three thousand lines in one


@dataclass(frozen=True)
class Fortress:
    server: Server
    attacker: Attacker
    passphrases: Mapping[str, str]

    def address(self, version: int) -> str:
        return str(self.server.ip if version == 4 else self.server.ip6)

    def source(self, version: int, door: str, *, patient: bool = False) -> str:
        """The address that fails at this door; the `patient` one fails once less."""
        number = [*DOORS, "all"].index(door) + (len(DOORS) + 1 if patient else 0)
        return str((self.attacker.sources if version == 4 else self.attacker.sources6)[number])

    def besieged(self, door: str, version: int) -> dict[str, Any]:
        host, source = self.address(version), self.source(version, door)
        return run_on(self.attacker, besiege_port, host, DOORS[door], door, source, MAXRETRY, PATIENCE, source=source)

    def patiently(self, door: str, version: int) -> list[str]:
        host, source = self.address(version), self.source(version, door, patient=True)
        return run_on(self.attacker, try_again, host, door, source, MAXRETRY - 1, source=source)

    def guess(self, source: str) -> None:
        run_on(self.attacker, try_again, self.address(4), "imap", source, MAXRETRY, source=source)

    def banned(self, jail: str) -> set[str]:
        """The addresses in the jail's sets, as the firewall has them."""
        return {address for family in ("addr", "addr6") for address in self._set(f"{family}-set-{jail}")}

    def banned_anywhere(self) -> set[str]:
        return {address for jail in JAILS for address in self.banned(jail)}

    def sentences(self, address: str) -> list[tuple[str, int]]:
        """The jails and the seconds of its bans, in their order, as fail2ban remembers them."""
        found = self.server.run(f"python3 - {address}", stdin=_SENTENCES).stdout.splitlines()
        return [(jail, int(seconds)) for jail, seconds in map(str.split, found)]

    def noticed(self) -> set[str]:
        """The addresses of which fail2ban has seen a failure."""
        said = self.server.run("journalctl -u fail2ban -o cat -g ' Found '").stdout
        return set(re.findall(r" Found (\S+)", said))

    def _set(self, name: str) -> list[str]:
        listed = json.loads(self.server.run(f"nft -j list set inet f2b-table {name}").stdout)["nftables"]
        return [element for entry in listed if "set" in entry for element in entry["set"].get("elem", [])]


@pytest.fixture(scope="module")
def fortress(lab: Lab, attacker: Attacker, built_site: Site, built_image: str) -> Iterator[Fortress]:
    server = lab.boot_server("besieged", hostname="mail.example.test", image=built_image)
    deployed = built_site.copy_for(server).deploy()
    assert deployed.code == 0, deployed.output
    # sshd's own delays come before the fifth failure, if the tries are not all at once.
    # Nor does it turn away, or hang up on, whom the firewall shall cut off.
    patient = "PerSourcePenalties no\nLoginGraceTime 600\nMaxStartups 200\n"
    server.write("/etc/ssh/sshd_config.d/00-patient.conf", patient)
    server.run("systemctl reload ssh")
    yield Fortress(server, attacker, built_site.passphrases)
    server.remove()


CASES = [(door, version) for door in DOORS for version in (4, 6)]


@pytest.fixture(scope="module")
def outcome(fortress: Fortress, lab: Lab) -> Mapping[tuple[str, int], dict[str, Any]]:
    """All sieges at once: of addresses that fail often enough, of others that fail once less, of the administrator."""
    with ThreadPoolExecutor(len(CASES) * 2 + len(DOORS)) as pool:
        few = [pool.submit(fortress.patiently, *case) for case in CASES]
        own = [
            pool.submit(try_again, fortress.address(4), door, str(lab.ipv4_address(1)), MAXRETRY + 1) for door in DOORS
        ]
        sieges = [pool.submit(fortress.besieged, *case) for case in CASES]
        for done in (*few, *own):
            assert not any(map(is_accepted, done.result()))
        return dict(zip(CASES, [siege.result() for siege in sieges], strict=True))


@pytest.mark.parametrize(("door", "version"), CASES)
def test_who_fails_too_often_is_no_longer_spoken_to(
    outcome: Mapping[tuple[str, int], dict[str, Any]], door: str, version: int
) -> None:
    siege = outcome[door, version]
    assert not any(map(is_accepted, siege["tries"]))
    assert "timed out" in siege["after"]
    assert "timed out" in siege["before"], "a connection that was open still is"


@pytest.mark.usefixtures("outcome")
@pytest.mark.parametrize(("door", "version"), CASES)
def test_the_jails_that_see_it_ban_the_address_in_the_firewall(fortress: Fortress, door: str, version: int) -> None:
    source = fortress.source(version, door)
    poll(lambda: {one for one in JAILS if source in fortress.banned(one)} == SEEN_BY[door], PATIENCE, "not these")


@pytest.mark.usefixtures("outcome")
def test_who_fails_once_less_is_not_banned(fortress: Fortress) -> None:
    patient = {fortress.source(version, door, patient=True) for door, version in CASES}
    poll(lambda: patient <= fortress.noticed(), PATIENCE, "not noticed")
    assert not patient & fortress.banned_anywhere()


@pytest.mark.usefixtures("outcome")
def test_the_administrators_network_is_never_banned(fortress: Fortress, lab: Lab) -> None:
    ignored = f"journalctl -u fail2ban -g 'Ignore {lab.ipv4_address(1)} by ip'"
    poll(lambda: fortress.server.run(ignored, check=False).stdout, PATIENCE, "not noticed")
    assert str(lab.ipv4_address(1)) not in fortress.banned_anywhere()


@pytest.mark.usefixtures("outcome")
def test_without_the_firewalls_rules_who_is_banned_is_spoken_to(fortress: Fortress) -> None:
    rules = fortress.server.run("nft list chain inet f2b-table f2b-chain").stdout
    fortress.server.run("nft flush chain inet f2b-table f2b-chain")
    banned = fortress.banned_anywhere()
    for door, version in CASES:
        source = fortress.source(version, door)
        assert source in banned
        said = run_on(fortress.attacker, await_greeting, fortress.address(version), DOORS[door], 5, source=source)
        assert said == "OK"
    fortress.server.run("nft -f -", stdin=rules)


def test_who_is_frozen_or_refused_too_much_is_no_attacker(fortress: Fortress) -> None:
    """Mail programs try again and again, with the right password; whoever else is behind that address would suffer."""
    frozen, refused, guesser = map(str, fortress.attacker.sources[-5:-2])
    ben, anna = ((user, fortress.passphrases[user]) for user in (BEN, ANNA))
    host = fortress.address(4)
    fortress.server.run(f"mailkeepctl freeze {BEN}")
    many = envelope_commands(ANNA, *["nobody@example.test"] * 8)
    attacker, times = fortress.attacker, MAXRETRY + 1
    with ThreadPoolExecutor() as pool:  # each server lets them wait for a while
        logins = [
            pool.submit(run_on, attacker, log_in, host, door, *ben, source=frozen)
            for door in (SUBMISSION, IMAP)
            for _ in range(times)
        ]
        talks = [
            pool.submit(run_on, attacker, talk_smtp, host, SUBMISSION, many, source=refused, login=anna, insist=True)
            for _ in range(times)
        ]
    assert not any(is_accepted(login.result()) for login in logins)
    assert all("dropped" in answer.result() for answer in talks)
    fortress.server.run(f"mailkeepctl thaw {BEN}")
    fortress.guess(guesser)  # what comes after them is noticed: so would they have been
    poll(lambda: guesser in fortress.banned_anywhere(), PATIENCE, "not banned")
    assert not {frozen, refused} & fortress.noticed()


@pytest.fixture
def flood(fortress: Fortress) -> Iterator[str]:
    """A command that has Dovecot write more lines, at once, than journald takes of a service by default."""
    fortress.server.write("/root/flood.py", _FLOOD)
    fortress.server.write(f"{_DROP_IN}/flood.conf", "[Service]\nExecStartPost=python3 /root/flood.py\n")
    fortress.server.run("systemctl daemon-reload")
    yield "systemctl restart dovecot"
    fortress.server.run(f"rm {_DROP_IN}/flood.conf; systemctl daemon-reload")


def test_in_a_flood_of_other_lines_the_jail_sees_each_failure(fortress: Fortress, flood: str) -> None:
    """But under the limit that journald has by itself, which is some ten thousand lines, more on a larger disk."""
    guesser, unseen = map(str, fortress.attacker.sources[-2:])
    fortress.server.run(flood)
    fortress.guess(guesser)
    poll(lambda: fortress.sentences(guesser), FLOOD_PATIENCE, "not banned")

    fortress.server.run(f"mv {_JOURNAL} /root/; systemctl restart systemd-journald; {flood}")
    fortress.guess(unseen)
    fortress.server.run(f"mv /root/mailkeep.conf {_JOURNAL}; systemctl restart systemd-journald")
    # What comes after them is noticed: so would they have been.
    another = fortress.source(4, "all", patient=True)
    fortress.guess(another)
    poll(lambda: fortress.sentences(another), FLOOD_PATIENCE, "not banned")
    logged = {source: f"journalctl -u dovecot -o cat -g '{source},sasl:.*mismatch'" for source in (guesser, unseen)}
    assert len(fortress.server.run(logged[guesser]).stdout.splitlines()) == MAXRETRY
    assert fortress.server.run(logged[unseen], check=False).stdout == ""
    assert fortress.sentences(unseen) == []


def test_a_ban_lasts_longer_each_time_and_who_is_banned_again_and_again_loses_every_port(fortress: Fortress) -> None:
    """With bans of seconds in place of minutes; how they grow, and what recidive counts, is as configured."""
    offender = fortress.source(4, "all")
    first = 5  # fail2ban bans nobody whose time would be over when it comes to it
    fortress.server.run(f"fail2ban-client set dovecot bantime {first}; fail2ban-client set postfix bantime {first}")
    for bans, door in enumerate(("imap", "relay", "relay"), start=1):
        poll(lambda: offender not in fortress.banned_anywhere(), PATIENCE, "not let go")
        run_on(fortress.attacker, try_again, fortress.address(4), door, offender, MAXRETRY, source=offender)
        poll(lambda bans=bans: len(fortress.sentences(offender)) >= bans, PATIENCE, "not banned")
    poll(lambda: offender in fortress.banned("recidive"), PATIENCE, "not banned for good")
    week = 7 * 24 * 3600
    sentences = [("dovecot", first), ("postfix", first), ("postfix", 2 * first)]
    assert fortress.sentences(offender) == [*sentences, ("recidive", week)]
    for port in DOORS.values():
        assert "timed out" in run_on(fortress.attacker, await_greeting, fortress.address(4), port, source=offender)


@pytest.mark.usefixtures("outcome")
def test_without_fail2ban_nobody_is_stopped(fortress: Fortress) -> None:
    fortress.server.run("systemctl stop fail2ban")
    with ThreadPoolExecutor() as pool:
        assert all(pool.map(fortress.patiently, DOORS, [4] * len(DOORS)))  # with those before, more than enough
    assert not fortress.server.run("nft list tables | grep f2b", check=False).stdout
    for door, port in DOORS.items():
        source = fortress.source(4, door, patient=True)
        assert run_on(fortress.attacker, await_greeting, fortress.address(4), port, 5, source=source) == "OK"
