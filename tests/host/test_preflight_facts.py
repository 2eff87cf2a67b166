"""The preflight's facts are read right, whatever the host prints."""

import subprocess

from mailkeep.host.preflight_facts import Login, LoginFact, OutboundPeer, PreflightFact, outbound_peer, parse_facts
from mailkeep.inventory.passwords import hash_password
from mailkeep.settings.models import Settings

DECLARED = {
    "host": {"name": "mail.example.org", "addresses": ["192.0.2.1"]},
    "domains": ["example.org"],
    "admin": {"addresses": ["ann@example.org"]},
    "aliases": {"ann@example.org": "ben@example.org"},
    "accounts": [{"address": "ben@example.org", "password": hash_password("correct horse battery staple")}],
}


def test_the_duration_of_the_command_does_not_count_as_a_wrong_clock() -> None:
    assert parse_facts(["time 1100"], start=1000.0, end=1200.0).clock_offset == 0
    assert parse_facts(["time 1300"], start=1000.0, end=1200.0).clock_offset == 100
    assert parse_facts(["time 900"], start=1000.0, end=1200.0).clock_offset == -100


def test_the_command_is_text_for_a_shell_as_it_was_written() -> None:
    """An octal escape in its place has hidden the interface of the default route, and firewalls that name it."""
    command = PreflightFact().command(user="root")
    assert all(line.isprintable() for line in command.splitlines())
    line = next(line for line in command.splitlines() if line.startswith('echo "interface'))
    route = "ip() { echo 'default via 192.0.2.254 dev ens3 proto dhcp metric 100'; }"
    done = subprocess.run(["sh", "-c", f"{route}\n{line}"], capture_output=True, text=True, check=True)
    assert done.stdout == "interface ens3\n"


def test_a_kernel_without_ipv6_is_a_fact() -> None:
    assert parse_facts([], start=0, end=1).has_ipv6
    assert not parse_facts(["has no-ipv6"], start=0, end=1).has_ipv6


def test_the_output_of_a_login_script_does_no_harm() -> None:
    assert LoginFact().process(["Welcome!", "uid 1000", "user ann", "port 22"]) == Login(1000, "ann", "", 22)


def test_the_complaint_of_sudo_is_kept() -> None:
    lines = ["uid 1000", "user ann", "port 22", "sudo sudo: a password is required"]
    assert LoginFact().process(lines) == Login(1000, "ann", "sudo: a password is required", 22)


def test_the_relay_host_is_the_outbound_peer_where_there_is_one() -> None:
    settings = Settings.model_validate(DECLARED | {"relay": {"host": "smtp.example.net", "port": 465}})
    assert outbound_peer(settings) == OutboundPeer("smtp.example.net", "smtp.example.net", 465, is_relay=True)


def test_without_outside_addresses_there_is_no_outbound_peer() -> None:
    assert outbound_peer(Settings.model_validate(DECLARED)) is None
