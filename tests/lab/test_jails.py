"""The firewall cuts off addresses that guess passwords or abuse SMTP, by each jail, over IPv4 and IPv6."""

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from clients import (
    IMAP,
    SIEVE,
    SMTP,
    STRANGER,
    SUBMISSION,
    await_greeting,
    besiege_port,
    envelope_commands,
    is_accepted,
    log_in,
    run_on,
    send_raw,
    talk_smtp,
    try_again,
    try_once,
)

from mailkeep.lab import Attacker, Lab, Server, poll
from mailkeep.lab.site import Site
from mailkeep.parts.fail2ban import MAXRETRY
from mailkeep_server.common.networks import ban_target

ANNA, BEN = "anna@example.test", "ben@example-two.test"
SSH = 22
BAN_TIMEOUT = 20.0  # seconds after MAXRETRY failures
DOORS = {"ssh": SSH, "imap": IMAP, "submission": SUBMISSION, "sieve": SIEVE, "early": SMTP}
JAILS_BY_DOOR = {
    "ssh": {"sshd"},
    "imap": {"dovecot"},
    "submission": {"dovecot"},
    "sieve": {"managesieve"},
    "early": {"postfix"},
}
JAILS = {"sshd", "dovecot", "managesieve", "postfix", "recidive"}

READ_BANS = """
import sqlite3, sys
bans = sqlite3.connect("file:/var/lib/fail2ban/fail2ban.sqlite3?mode=ro", uri=True)
for ban in bans.execute("SELECT jail, bantime FROM bans WHERE ip = ? ORDER BY rowid", sys.argv[1:]):
    print(*ban)
"""

# journald takes these lines for Dovecot's, because a process of Dovecot's unit writes them.
DROP_IN = "/etc/systemd/system/dovecot.service.d"
FLOOD_PROGRAM = "/usr/local/lib/flood.py"  # Dovecot's sandbox has no /root
FLOOD = """
import socket
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.connect("/dev/log")
for number in range(70_000):
    journal.send(b"<22>dovecot: imap-login: Disconnected: Connection closed (no auth attempts): rip=192.0.2.1")
"""
FLOOD_TIMEOUT = 120.0  # seconds; fail2ban reads some three thousand lines in one


@dataclass(frozen=True)
class BesiegedServer:
    server: Server
    attacker: Attacker
    passphrases: Mapping[str, str]

    def address_of(self, version: int) -> str:
        return str(self.server.ip if version == 4 else self.server.ip6)

    def source_for(self, version: int, door: str, *, patient: bool = False) -> str:
        """The attacker's address that fails MAXRETRY times at this door; the `patient` one fails once less."""
        number = [*DOORS, "all"].index(door) + (len(DOORS) + 1 if patient else 0)
        return str(self.attacker.sources[number] if version == 4 else self.attacker.distant_address(number))

    def besiege_door(self, door: str, version: int) -> dict[str, Any]:
        host, source = self.address_of(version), self.source_for(version, door)
        return run_on(
            self.attacker, besiege_port, host, DOORS[door], door, source, MAXRETRY, BAN_TIMEOUT, source=source
        )

    def try_patiently(self, door: str, version: int) -> list[str]:
        host, source = self.address_of(version), self.source_for(version, door, patient=True)
        return run_on(self.attacker, try_again, host, door, source, MAXRETRY - 1, source=source)

    def guess_passwords(self, source: str) -> None:
        host = self.address_of(6 if ":" in source else 4)
        run_on(self.attacker, try_again, host, "imap", source, MAXRETRY, source=source)

    def list_banned(self, jail: str) -> set[str]:
        """The addresses in the firewall's sets of this jail."""
        return {address for family in ("addr", "addr6") for address in self.list_set(f"{family}-set-{jail}")}

    def list_banned_anywhere(self) -> set[str]:
        return {address for jail in JAILS for address in self.list_banned(jail)}

    def read_bans(self, address: str) -> list[tuple[str, int]]:
        """The bans of this address in their order, from fail2ban's database: jail and seconds."""
        lines = self.server.run(f"python3 - {address}", stdin=READ_BANS).stdout.splitlines()
        return [(jail, int(seconds)) for jail, seconds in map(str.split, lines)]

    def list_noticed(self) -> set[str]:
        """The addresses for which fail2ban has logged a failure."""
        journal = self.server.run("journalctl -u fail2ban -o cat -g ' Found '").stdout
        return set(re.findall(r" Found (\S+)", journal))

    def list_set(self, name: str) -> list[str]:
        objects = json.loads(self.server.run(f"nft -j list set inet f2b-table {name}").stdout)["nftables"]
        elements = [element for entry in objects if "set" in entry for element in entry["set"].get("elem", [])]
        return [
            element if isinstance(element, str) else f"{element['prefix']['addr']}/{element['prefix']['len']}"
            for element in elements
        ]


@pytest.fixture(scope="module")
def besieged(lab: Lab, attacker: Attacker, built_site: Site, built_image: str) -> Iterator[BesiegedServer]:
    server = lab.boot_server("besieged", hostname="mail.example.test", image=built_image)
    result = built_site.copy_for(server).deploy()
    assert result.code == 0, result.output
    # sshd would delay or turn away clients before the fifth failure; here only the firewall is to cut them off.
    sshd_options = "PerSourcePenalties no\nLoginGraceTime 600\nMaxStartups 200\n"
    server.write("/etc/ssh/sshd_config.d/00-patient.conf", sshd_options)
    server.run("systemctl reload ssh")
    attacker.add_distant_addresses(server)
    yield BesiegedServer(server, attacker, built_site.passphrases)
    server.remove()


CASES = [(door, version) for door in DOORS for version in (4, 6)]


@pytest.fixture(scope="module")
def sieges(besieged: BesiegedServer, lab: Lab) -> Mapping[tuple[str, int], dict[str, Any]]:
    """The result of each siege by door and IP version.

    At the same time, other addresses fail once less, and the administrator's address fails too often.
    """
    with ThreadPoolExecutor(len(CASES) * 2 + len(DOORS)) as pool:
        patient = [pool.submit(besieged.try_patiently, *case) for case in CASES]
        administrator = [
            pool.submit(try_again, besieged.address_of(4), door, str(lab.ipv4_address(1)), MAXRETRY + 1)
            for door in DOORS
        ]
        results = [pool.submit(besieged.besiege_door, *case) for case in CASES]
        for future in (*patient, *administrator):
            assert not any(map(is_accepted, future.result()))
        return dict(zip(CASES, [siege.result() for siege in results], strict=True))


@pytest.mark.parametrize(("door", "version"), CASES)
def test_an_address_that_fails_too_often_gets_no_answer_any_more(
    sieges: Mapping[tuple[str, int], dict[str, Any]], door: str, version: int
) -> None:
    siege = sieges[door, version]
    assert not any(map(is_accepted, siege["tries"]))
    assert "timed out" in siege["after"]
    assert "timed out" in siege["before"], "a connection that was open still is"


@pytest.mark.usefixtures("sieges")
@pytest.mark.parametrize(("door", "version"), CASES)
def test_exactly_the_doors_jails_ban_the_address_in_the_firewall(
    besieged: BesiegedServer, door: str, version: int
) -> None:
    source = ban_target(besieged.source_for(version, door))
    poll(
        lambda: {jail for jail in JAILS if source in besieged.list_banned(jail)} == JAILS_BY_DOOR[door],
        BAN_TIMEOUT,
        "not these",
    )


@pytest.mark.usefixtures("sieges")
def test_an_address_that_fails_once_less_is_not_banned(besieged: BesiegedServer) -> None:
    patient = {ban_target(besieged.source_for(version, door, patient=True)) for door, version in CASES}
    poll(lambda: patient <= besieged.list_noticed(), BAN_TIMEOUT, "not noticed")
    assert not patient & besieged.list_banned_anywhere()


@pytest.mark.usefixtures("sieges")
def test_the_administrators_network_is_never_banned(besieged: BesiegedServer, lab: Lab) -> None:
    ignored = f"journalctl -u fail2ban -g 'Ignore {lab.ipv4_address(1)} by ip'"
    poll(lambda: besieged.server.run(ignored, check=False).stdout, BAN_TIMEOUT, "not noticed")
    assert str(lab.ipv4_address(1)) not in besieged.list_banned_anywhere()


@pytest.mark.usefixtures("sieges")
def test_without_the_firewalls_rules_banned_addresses_get_answers(besieged: BesiegedServer) -> None:
    rules = besieged.server.run("nft list chain inet f2b-table f2b-chain").stdout
    besieged.server.run("nft flush chain inet f2b-table f2b-chain")
    banned = besieged.list_banned_anywhere()
    for door, version in CASES:
        source = besieged.source_for(version, door)
        assert ban_target(source) in banned
        answer = run_on(besieged.attacker, await_greeting, besieged.address_of(version), DOORS[door], 5, source=source)
        assert answer == "OK"
    besieged.server.run("nft -f -", stdin=rules)


def test_a_guesser_with_a_network_of_ipv6_is_banned_as_one(besieged: BesiegedServer) -> None:
    """A new address for each password: none fails twice."""
    first, host = besieged.attacker.distant_address(100), besieged.address_of(6)
    sources = [str(first + number) for number in range(1, MAXRETRY + 2)]
    besieged.attacker.run("; ".join(f"ip addr replace {source}/128 dev eth0 nodad" for source in sources))
    for door in ("ssh", "imap"):
        for source in sources[:MAXRETRY]:
            run_on(besieged.attacker, try_once, host, door, source, source=source)
        [jail] = JAILS_BY_DOOR[door]
        poll(lambda jail=jail: ban_target(str(first)) in besieged.list_banned(jail), BAN_TIMEOUT, "not banned")
        answer = run_on(besieged.attacker, await_greeting, host, DOORS[door], 5, source=sources[-1])
        assert "timed out" in answer, "an address that has not failed itself"


def test_a_ban_by_hand_closes_the_network_of_an_ipv6_address(besieged: BesiegedServer) -> None:
    first, host = besieged.attacker.distant_address(120), besieged.address_of(6)
    neighbour = str(first + 2)
    besieged.attacker.run(f"ip addr replace {neighbour}/128 dev eth0 nodad")
    besieged.server.run(f"fail2ban-client set sshd banip {first + 1}")
    poll(lambda: ban_target(str(first)) in besieged.list_banned("sshd"), BAN_TIMEOUT, "not banned")
    assert "timed out" in run_on(besieged.attacker, await_greeting, host, SSH, 5, source=neighbour)
    besieged.server.run(f"fail2ban-client set sshd unbanip {ban_target(str(first))}")
    assert run_on(besieged.attacker, await_greeting, host, SSH, 5, source=neighbour) == "OK"


def test_the_mail_of_an_honest_server_cannot_be_made_to_ban_it(besieged: BesiegedServer) -> None:
    """Its users choose the recipients, and the MX of their own domains; so do those of its webmail the passwords."""
    provider, guesser = (str(besieged.attacker.distant_address(number)) for number in (110, 111))
    host, attacker = besieged.address_of(6), besieged.attacker
    unknown = [f"nobody-{number}@example.test" for number in range(8)]
    hosted = [f"x{number}@attacker.example" for number in range(8)]
    for sender, recipients in ((STRANGER, hosted), (STRANGER, unknown), ("x@gone.invalid", [ANNA, BEN])):
        for _ in range(MAXRETRY + 1):
            commands = envelope_commands(sender, *recipients)
            run_on(attacker, talk_smtp, host, SMTP, commands, source=provider, insist=True)
    run_on(attacker, send_raw, host, SMTP, "GET / HTTP/1.1\r\n", times=MAXRETRY + 1, source=provider)
    run_on(attacker, await_greeting, host, SSH, times=MAXRETRY + 1, source=provider)
    besieged.guess_passwords(provider)
    besieged.guess_passwords(guesser)  # fail2ban reads in order: after this ban it has read all before
    poll(lambda: ban_target(guesser) in besieged.list_banned("dovecot"), BAN_TIMEOUT, "not banned")
    assert ban_target(provider) in besieged.list_banned("dovecot"), "a webmail from which somebody guesses"
    assert not {jail for jail in JAILS - {"dovecot"} if ban_target(provider) in besieged.list_banned(jail)}
    assert run_on(attacker, await_greeting, host, SMTP, 5, source=provider) == "OK", "its mail arrives"


def test_an_old_device_with_an_old_password_is_not_banned_and_a_guesser_beside_it_is(besieged: BesiegedServer) -> None:
    office, guesser = (str(besieged.attacker.distant_address(number)) for number in (120, 121))
    host, attacker = besieged.address_of(6), besieged.attacker
    with ThreadPoolExecutor() as pool:
        logins = [
            pool.submit(run_on, attacker, log_in, host, door, ANNA, "last year's", source=office)
            for door in (IMAP, SUBMISSION)
            for _ in range(MAXRETRY + 1)
        ]
    assert not any(is_accepted(login.result()) for login in logins)
    besieged.guess_passwords(guesser)  # fail2ban reads in order: after this ban it has read all before
    poll(lambda: ban_target(guesser) in besieged.list_banned("dovecot"), BAN_TIMEOUT, "not banned")
    assert ban_target(office) not in besieged.list_banned_anywhere()
    assert not besieged.server.run('journalctl -u dovecot -o cat -g "last year\'s"', check=False).stdout
    besieged.guess_passwords(office)
    poll(lambda: ban_target(office) in besieged.list_banned("dovecot"), BAN_TIMEOUT, "not banned")


def test_clients_of_frozen_or_limited_accounts_are_not_banned(besieged: BesiegedServer) -> None:
    """Mail programs retry with the right password; a ban would also hit other users behind the same address."""
    frozen, refused, guesser = (str(besieged.attacker.distant_address(number)) for number in (130, 131, 132))
    ben, anna = ((user, besieged.passphrases[user]) for user in (BEN, ANNA))
    host = besieged.address_of(6)
    besieged.server.run(f"mailkeepctl freeze {BEN}")
    many = envelope_commands(ANNA, *["nobody@example.test"] * 24)
    attacker, times = besieged.attacker, MAXRETRY + 1
    with ThreadPoolExecutor() as pool:  # each service delays its answers
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
    besieged.server.run(f"mailkeepctl thaw {BEN}")
    besieged.guess_passwords(guesser)  # fail2ban reads in order: after this ban it has read all before
    poll(lambda: ban_target(guesser) in besieged.list_banned_anywhere(), BAN_TIMEOUT, "not banned")
    assert not {frozen, refused} & besieged.list_noticed()


@pytest.fixture
def flood_command(besieged: BesiegedServer) -> Iterator[str]:
    """A command that makes Dovecot log more lines at once than journald accepts from a service by default."""
    besieged.server.write(FLOOD_PROGRAM, FLOOD)
    besieged.server.write(f"{DROP_IN}/flood.conf", f"[Service]\nExecStartPost=python3 {FLOOD_PROGRAM}\n")
    besieged.server.run("systemctl daemon-reload")
    yield "systemctl restart dovecot"
    besieged.server.run(f"rm {DROP_IN}/flood.conf; systemctl daemon-reload")


def test_in_a_flood_of_other_lines_the_jail_sees_each_failure(besieged: BesiegedServer, flood_command: str) -> None:
    """Under journald's default limit (some ten thousand lines, more on a larger disk) the jail misses the failures.
    Dovecot's drop-in lifts it."""
    guesser, unnoticed = map(str, besieged.attacker.sources[-2:])
    besieged.server.run(flood_command)
    besieged.guess_passwords(guesser)
    poll(lambda: besieged.read_bans(guesser), FLOOD_TIMEOUT, "not banned")

    drop_in = f"{DROP_IN}/mailkeep.conf"
    besieged.server.run(f"sed -i.kept /LogRateLimit/d {drop_in}; systemctl daemon-reload; {flood_command}")
    besieged.guess_passwords(unnoticed)
    besieged.server.run(f"mv {drop_in}.kept {drop_in}; systemctl daemon-reload; systemctl restart dovecot")
    # fail2ban reads lines in order: once it bans this address, it has read the earlier lines.
    another = besieged.source_for(4, "all", patient=True)
    besieged.guess_passwords(another)
    poll(lambda: besieged.read_bans(another), FLOOD_TIMEOUT, "not banned")
    logged = {
        source: f"journalctl -u dovecot -o cat -g '{source},sasl:.*another wrong password'"
        for source in (guesser, unnoticed)
    }
    assert len(besieged.server.run(logged[guesser]).stdout.splitlines()) == MAXRETRY
    assert besieged.server.run(logged[unnoticed], check=False).stdout == ""
    assert besieged.read_bans(unnoticed) == []


def test_a_ban_lasts_longer_each_time_and_repeated_bans_close_every_port_but_25(besieged: BesiegedServer) -> None:
    """The first bans last seconds instead of minutes; their growth, and the jail recidive, are as configured."""
    offender = besieged.source_for(4, "all")
    first = 5  # seconds; fail2ban skips a ban that would be over before it is carried out
    besieged.server.run(f"fail2ban-client set dovecot bantime {first}; fail2ban-client set postfix bantime {first}")
    for bans, door in enumerate(("imap", "early", "early"), start=1):
        poll(lambda: offender not in besieged.list_banned_anywhere(), BAN_TIMEOUT, "not let go")
        run_on(besieged.attacker, try_again, besieged.address_of(4), door, offender, MAXRETRY, source=offender)
        poll(lambda bans=bans: len(besieged.read_bans(offender)) >= bans, BAN_TIMEOUT, "not banned")
    poll(lambda: offender in besieged.list_banned("recidive"), BAN_TIMEOUT, "not banned for good")
    week = 7 * 24 * 3600
    expected = [("dovecot", first), ("postfix", first), ("postfix", 2 * first)]
    assert besieged.read_bans(offender) == [*expected, ("recidive", week)]
    for port in set(DOORS.values()) - {SMTP}:
        assert "timed out" in run_on(besieged.attacker, await_greeting, besieged.address_of(4), port, source=offender)


@pytest.mark.usefixtures("sieges")
def test_without_fail2ban_no_address_is_cut_off(besieged: BesiegedServer) -> None:
    besieged.server.run("systemctl stop fail2ban")
    with ThreadPoolExecutor() as pool:
        assert all(pool.map(besieged.try_patiently, DOORS, [4] * len(DOORS)))  # enough, with the earlier tries
    assert not besieged.server.run("nft list tables | grep f2b", check=False).stdout
    for door, port in DOORS.items():
        source = besieged.source_for(4, door, patient=True)
        assert run_on(besieged.attacker, await_greeting, besieged.address_of(4), port, 5, source=source) == "OK"
