import subprocess
from pathlib import Path

import pytest

from mailkeep.parts import firewall
from mailkeep.settings.models import Settings


def render_rules(settings: Settings) -> str:
    return next(file.content.decode() for file in firewall.build_part(settings).files if file.path == firewall.RULES)


def test_ssh_mail_and_the_operators_ports_are_open(declared: dict[str, object]) -> None:
    settings = Settings.model_validate(declared | {"ssh": {"port": 2222}, "firewall": {"open": [8080]}})
    assert "tcp dport { 25, 143, 465, 587, 993, 2222, 4190, 8080 } ct state new accept" in render_rules(settings)


def test_loading_the_rules_leaves_other_tables_alone(settings: Settings) -> None:
    commands = [line for line in render_rules(settings).splitlines() if not line.lstrip().startswith("#")]
    assert not any("flush" in line for line in commands)


def test_each_blocked_network_is_in_the_set_of_its_family(declared: dict[str, object]) -> None:
    block = {"firewall": {"block": ["203.0.113.0/24", "2001:db8:6::/48"]}}
    text = render_rules(Settings.model_validate(declared | block))
    four, six = text.split("set blocked4")[1].split("set blocked6")
    assert "elements = { 203.0.113.0/24 }" in four
    assert "elements = { 2001:db8:6::/48 }" in six


@pytest.mark.parametrize(("port", "senders"), [(None, "postfix"), (587, "postfix"), (25, "{ root, postfix }")])
def test_root_may_send_to_a_relay_host_on_port_25_only(
    declared: dict[str, object], port: int | None, senders: str
) -> None:
    relay = {"relay": {"host": "smtp.example.net", "port": port}} if port else {}
    rules = render_rules(Settings.model_validate(declared | relay))
    assert f"oif != lo tcp dport 25 meta skuid != {senders} counter reject" in rules


def test_a_port_is_opened_for_udp_and_for_certain_networks(declared: dict[str, object]) -> None:
    monitoring = {"port": 9100, "networks": ["203.0.113.77", "203.0.113.76/31", "2001:db8:7::/48"]}
    openings = ["domain/udp", "51820/udp", 8080, "8443/tcp", monitoring, {"port": "123", "protocol": "udp"}]
    settings = Settings.model_validate(declared | {"firewall": {"open": openings}})
    text = render_rules(settings)
    assert "tcp dport { 22, 25, 143, 465, 587, 993, 4190, 8080, 8443 } ct state new accept" in text
    assert "udp dport { 53, 123, 51820 } ct state new accept" in text
    assert "ip saddr { 203.0.113.76/31 } tcp dport 9100 ct state new accept" in text
    assert "ip6 saddr { 2001:db8:7::/48 } tcp dport 9100 ct state new accept" in text
    assert 9100 not in firewall.open_ports(settings)
    assert firewall.describe_doors(firewall.list_doors(settings)) == (
        "TCP 22, 25, 143, 465, 587, 993, 4190, 8080, 8443; UDP 53, 123, 51820; "
        "TCP 9100 from 2001:db8:7::/48; TCP 9100 from 203.0.113.76/31"
    )


def test_forwarded_connections_come_from_the_old_machine_alone(declared: dict[str, object]) -> None:
    """Who reaches these ports may name any address as his own: no stranger does, and no local program."""
    ports = "10025, 10143, 10465, 10587, 10993, 14190"
    assert "10025" not in render_rules(Settings.model_validate(declared))
    host = {"name": "mail.example.org", "addresses": ["192.0.2.1"], "forwarded_from": ["192.0.2.8", "2001:db8::8"]}
    settings = Settings.model_validate(declared | {"host": host})
    rules = [line.strip() for line in render_rules(settings).splitlines()]
    assert rules.index(f"iif lo tcp dport {{ {ports} }} counter reject with tcp reset") < rules.index("iif lo accept")
    assert [rule for rule in rules if "10025" in rule and "accept" in rule] == [
        f"ip saddr {{ 192.0.2.8/32 }} tcp dport {{ {ports} }} ct state new accept",
        f"ip6 saddr {{ 2001:db8::8/128 }} tcp dport {{ {ports} }} ct state new accept",
    ]
    assert 10025 in firewall.owned_ports(settings)
    assert 10025 not in firewall.open_ports(settings)
    assert {network for _, port, network in firewall.list_doors(settings) if port == 10993} == {
        "192.0.2.8/32",
        "2001:db8::8/128",
    }


@pytest.mark.parametrize(("sshd_output", "status"), [("port 22", 0), ("port 2222", 1), ("port 2222\nport 22", 0)])
def test_rules_that_would_lock_out_ssh_users_are_refused(
    settings: Settings, tmp_path: Path, sshd_output: str, status: int
) -> None:
    sshd = tmp_path / "sshd"
    sshd.write_text(f"#!/bin/sh\nprintf '{sshd_output}\\npermitrootlogin no\\n'\n")
    sshd.chmod(0o755)
    check = firewall.build_part(settings).checks[-1].command
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    process = subprocess.run(["sh", "-c", check], env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == status
    assert ("sshd listens on port 2222" in process.stderr) == bool(status)
