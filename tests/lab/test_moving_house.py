"""A server moves to another machine. Until the DNS has followed, the old machine forwards its ports, and the new server
still sees who is there."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import pytest
import yaml
from clients import (
    IMAP,
    IMAPS,
    SMTP,
    STRANGER,
    SUBMISSION,
    SUBMISSIONS,
    await_greeting,
    compose_message,
    deliver_message,
    find_open_ports,
    idle_for_message,
    is_accepted,
    list_subjects,
    log_in,
    run_on,
    send_after_proxy_header,
)

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost
from mailkeep.inventory.hosts import read_hosts
from mailkeep.lab import Attacker, Lab, Server, poll
from mailkeep.lab.site import Site
from mailkeep.moving_house import forwarding
from mailkeep.settings.numbers import PROXY_PORTS
from mailkeep.verify.verification import verify_inventory

ANNA, BEN = "anna@example.test", "ben@example-two.test"
VICTIM = "203.0.113.200"
"""Whom a stranger pretends to be."""

# --- the old machine forwards its ports


@dataclass(frozen=True)
class Move:
    """The old machine, whose services are stopped, and the server that it forwards to."""

    old: Site
    new: Site

    @property
    def old_remote(self) -> RemoteHost:
        return RemoteHost(self.old.server.name, read_hosts(self.old.inventory)[self.old.server.name])

    def read_journal(self, unit: str) -> str:
        return self.new.server.run(f"journalctl --quiet --unit {unit} --output cat").stdout


@pytest.fixture(scope="module")
def move(lab: Lab, built_site: Site, built_image: str) -> Iterator[Move]:
    """Prepared while the old server serves, and started when its services have stopped."""
    old, new = (
        built_site.copy_for(lab.boot_server(name, hostname="mail.example.test", image=built_image))
        for name in ("old", "new")
    )
    move = Move(old, new)
    declared = yaml.safe_load(new.settings_file.read_text())
    declared["host"]["forwarded_from"] = [str(address) for address in old.settings.host.addresses]
    new.settings_file.write_text(yaml.safe_dump(declared, sort_keys=False))
    with ThreadPoolExecutor(2) as pool:
        addresses = new.settings.host.addresses
        prepared = pool.submit(forwarding.prepare_forwarding, move.old_remote, old.settings, addresses)
        deployed = new.deploy()
        assert deployed.code == 0, deployed.output
        prepared.result()
    assert await_greeting(str(old.server.ip), SMTP, 5) == "OK", "the old server serves until it is stopped"
    assert forwarding.find_unreachable_ports(move.old_remote) == []
    with pytest.raises(UserError, match=r" 25 \(master\b.* 993 \(dovecot\b.*\. Stop and disable these"):
        forwarding.start_forwarding(move.old_remote)
    old.server.run("systemctl disable --quiet --now mailkeep-watch postfix dovecot")
    for _ in range(2):
        forwarding.start_forwarding(move.old_remote)
    yield move
    for site in (old, new):
        site.server.remove()


def address_of(server: Server, version: int) -> str:
    return str(server.ip if version == 4 else server.ip6)


def source_of(attacker: Attacker, version: int) -> IPv4Address | IPv6Address:
    return attacker.sources[4] if version == 4 else attacker.sources6[4]


@pytest.mark.parametrize("version", [4, 6])
def test_a_stranger_at_the_old_address_is_served_and_known_by_his_own(
    move: Move, attacker: Attacker, version: int
) -> None:
    old, source = address_of(move.old.server, version), source_of(attacker, version)
    at = partial(run_on, attacker, source=source)
    subject = f"forwarded over IPv{version}"
    message = compose_message(STRANGER, ANNA, f"{subject} from outside")
    assert is_accepted(at(deliver_message, old, SMTP, STRANGER, [ANNA], message))
    login = (ANNA, move.new.passphrases[ANNA])
    for port in (SUBMISSIONS, SUBMISSION):
        message = compose_message(ANNA, BEN, f"{subject} at port {port}")
        assert is_accepted(at(deliver_message, old, port, ANNA, [BEN], message, login=login))
    assert at(log_in, old, IMAP, *login) == "OK"
    ben = (BEN, move.new.passphrases[BEN])
    expected = {f"{subject} from outside", f"{subject} at port 465", f"{subject} at port 587"}
    poll(lambda: expected <= {*at(list_subjects, old, *login), *at(list_subjects, old, *ben)}, 15, "mail is missing")
    clients = re.findall(r"client=\S+\[(\S+)\]", move.read_journal("postfix"))
    logins = re.findall(r"Logged in: .* rip=(\S+), lip=(\S+),", move.read_journal("dovecot"))
    assert clients.count(str(source)) == 3, "on ports 25, 465 and 587"
    assert (str(source), old) in logins
    assert old not in {*clients, *(address for address, _ in logins)}


def test_idle_stays_open_through_the_old_machine(move: Move, attacker: Attacker) -> None:
    answer = run_on(attacker, idle_for_message, str(move.old.server.ip), ANNA, move.new.passphrases[ANNA], 4.0)
    assert answer.startswith("OK")


def test_guesses_are_counted_for_the_guesser_and_never_for_the_old_machine(move: Move, attacker: Attacker) -> None:
    guesser = attacker.sources[7]
    assert not is_accepted(run_on(attacker, log_in, str(move.old.server.ip), IMAPS, ANNA, "wrong", source=guesser))
    found = "journalctl --quiet --unit fail2ban --output cat --grep Found"
    poll(lambda: f"Found {guesser} " in move.new.server.run(found, check=False).stdout, 10, "no failure was counted")
    assert f"Found {move.old.server.ip} " not in move.new.server.run(found).stdout


def test_only_the_old_machine_reaches_the_ports_for_forwarded_connections(move: Move, attacker: Attacker) -> None:
    new, ports = move.new.server, sorted(PROXY_PORTS.values())
    for version in (4, 6):
        opened = run_on(attacker, find_open_ports, address_of(new, version), ports, 2)
        assert opened == []
        for address in ("127.0.0.1" if version == 4 else "::1", address_of(new, version)):
            knocks = [
                f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}' 2>/dev/null && echo {port}" for port in ports
            ]
            assert new.run(f"{'; '.join(knocks)}; true").stdout == "", "programs of the server itself"


def test_the_firewall_alone_keeps_forged_addresses_from_postfix_and_dovecot_refuses_them_too(
    move: Move, attacker: Attacker
) -> None:
    new = move.new.server
    forged = partial(run_on, attacker, send_after_proxy_header, str(new.ip), claimed=VICTIM)
    assert forged(PROXY_PORTS["smtp"]).startswith("dropped")
    new.run("nft insert rule inet mailkeep input tcp dport '{ 10025, 10993, 10143 }' accept")
    try:
        assert forged(PROXY_PORTS["imap"]).startswith("dropped")
        assert forged(PROXY_PORTS["smtp"]).startswith("220 "), "Postfix believes whoever connects"
        assert f"[{VICTIM}]" in move.read_journal("postfix")
        assert VICTIM not in move.read_journal("dovecot")
    finally:
        new.run("systemctl reload nftables")


def test_the_new_server_is_verified_with_its_further_ports(move: Move) -> None:
    failed = {outcome.check: outcome for outcome in verify_inventory(move.new.inventory) if outcome.status == "failed"}
    assert not failed


def test_forwarding_survives_a_reboot_and_goes_away_without_a_trace(move: Move) -> None:
    old, address = move.old.server, str(move.old.server.ip)
    old.restart()
    assert await_greeting(address, SMTP, 5) == "OK"
    assert old.run("systemctl is-enabled haproxy.service", check=False).stdout == "masked\n"
    assert forwarding.find_unreachable_ports(move.old_remote) == []
    for _ in range(2):
        forwarding.stop_forwarding(move.old_remote)
    assert await_greeting(address, SMTP).startswith("dropped")
    for _ in range(2):
        forwarding.remove_forwarding(move.old_remote)
    units = "systemctl list-unit-files haproxy.service mailkeep-forward.service"
    assert "0 unit files" in old.run(units, check=False).stdout
    assert old.run(f"test -e {forwarding.DIRECTORY} || test -e {forwarding.PROGRAM}", check=False).returncode
    declared = yaml.safe_load(move.new.settings_file.read_text())
    del declared["host"]["forwarded_from"]
    move.new.settings_file.write_text(yaml.safe_dump(declared, sort_keys=False))
    deployed = move.new.deploy()
    assert deployed.code == 0, deployed.output
    assert not {f":{port} " for port in PROXY_PORTS.values() if f":{port} " in move.new.server.run("ss -Hltn").stdout}
