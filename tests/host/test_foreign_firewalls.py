"""The preflight names other firewalls that drop what mail.yml opens, and settings of jails that meet Mailkeep's."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_preflight_rules import FRESH, ROOT, make_settings

from mailkeep.host import preflight_facts
from mailkeep.host.foreign_firewalls import describe_jails
from mailkeep.host.preflight_facts import parse_facts
from mailkeep.host.preflight_rules import judge_host


def build_nft(table: str, policy: str, *rules: list[dict[str, Any]]) -> str:
    place = {"family": "inet", "table": table}
    chain = place | {"name": "input", "hook": "input", "type": "filter", "policy": policy}
    items = [{"chain": chain}, *({"rule": place | {"chain": "input", "expr": expr}} for expr in rules)]
    return json.dumps({"nftables": items})


SSH_ONLY = [
    {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}},
    {"accept": None},
]


def warn(**facts: object) -> tuple[str, ...]:
    verdict = judge_host(make_settings(), ROOT, replace(FRESH, **facts))  # type: ignore[arg-type]
    assert verdict.problems == ()
    return verdict.warnings


def test_an_input_chain_of_somebody_elses_is_named_with_the_ports_that_it_closes() -> None:
    [text] = warn(nft_ruleset=build_nft("filter", "drop", SSH_ONLY))
    assert "the chain input in the table inet filter, packets to TCP 25, 143, 465, 587, 993, 4190." in text
    assert text.startswith("Another firewall drops what Mailkeep's lets in")


def test_mailkeeps_own_firewall_and_one_that_drops_nothing_of_ours_are_not_named() -> None:
    assert warn(nft_ruleset=build_nft("mailkeep", "drop", SSH_ONLY)) == ()
    assert warn(nft_ruleset=build_nft("filter", "accept")) == ()


@pytest.mark.parametrize("program", ["iptables-nft-save", "iptables-legacy-save"])
def test_rules_of_iptables_are_named(program: str) -> None:
    lines = ("*filter", ":INPUT DROP [0:0]", "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT", "COMMIT")
    [text] = warn(iptables_rules={program: lines})
    assert "the chain INPUT in the table ip filter" in text
    assert ("iptables-legacy" in text) == (program == "iptables-legacy-save")


def test_a_firewall_program_that_runs_is_named_once_with_its_own_remedy() -> None:
    lines = ("*filter", ":INPUT DROP [0:0]", ":ufw-user-input - [0:0]", "-A INPUT -j ufw-user-input", "COMMIT")
    [by_rules] = warn(iptables_rules={"iptables-nft-save": lines}, running_firewalls=("ufw",))
    assert "Run `ufw disable`, or `ufw allow 22,25,143,465,587,993,4190/tcp`." in by_rules
    [by_service] = warn(running_firewalls=("firewalld",))
    assert by_service.startswith("firewalld runs.")


def test_a_firewall_program_whose_rules_open_our_ports_is_not_named() -> None:
    opened = "-A ufw-user-input -p tcp -m multiport --dports 22,25,143,465,587,993,4190 -j ACCEPT"
    lines = ("*filter", ":INPUT DROP [0:0]", ":ufw-user-input - [0:0]", "-A INPUT -j ufw-user-input", opened, "COMMIT")
    assert warn(iptables_rules={"iptables-nft-save": lines}, running_firewalls=("ufw",)) == ()
    [other] = warn(iptables_rules={"iptables-nft-save": lines}, running_firewalls=("ufw", "firewalld"))
    assert other.startswith("firewalld runs.")


def test_only_files_that_fail2ban_reads_are_read(tmp_path: Path) -> None:
    """jail.conf(5): *.conf and *.local. Others are backups, or dpkg's."""
    for name in ("mine.conf", "mine.local", "mine.local.bak", "mine.conf.dpkg-dist", "README", "mailkeep.local"):
        (tmp_path / name).write_text("[sshd]\n")
    loop = preflight_facts._READ_STATE.partition("for file in /etc/fail2ban")[2].partition("done\n")[0]
    script = f"for file in /etc/fail2ban{loop}done".replace("/etc/fail2ban/jail.d", str(tmp_path))
    output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [path for path, _ in parse_facts(output, 0, 1).jail_files if path.startswith(str(tmp_path))] == [
        f"{tmp_path}/mine.conf",
        f"{tmp_path}/mine.local",
    ]


def test_the_facts_are_read_from_the_hosts_lines() -> None:
    lines = [
        "nft {}",
        "iptables-nft-save *filter",
        "iptables-nft-save :INPUT DROP [0:0]",
        "firewall ufw",
        "interface ens3",
        "jailfile /etc/fail2ban/jail.local",
        "jailline =[sshd]",
        "jailline =maxretry = 3",
        "jailfile /etc/fail2ban/jail.d/mine.conf",
        "jailline =",
    ]
    facts = parse_facts(lines, 0, 1)
    assert (facts.nft_ruleset, facts.running_firewalls, facts.interface) == ("{}", ("ufw",), "ens3")
    assert facts.iptables_rules == {"iptables-nft-save": ("*filter", ":INPUT DROP [0:0]")}
    assert facts.jail_files == (
        ("/etc/fail2ban/jail.local", "[sshd]\nmaxretry = 3"),
        ("/etc/fail2ban/jail.d/mine.conf", ""),
    )


def test_settings_of_a_jail_that_is_ours_are_said_with_the_one_that_wins() -> None:
    text = "[DEFAULT]\nbantime = 1h\n[sshd]\nmaxretry = 3\nport = 22\n[nginx]\nenabled = true\n"
    [loses] = describe_jails([("/etc/fail2ban/jail.local", text)])
    assert loses.startswith("/etc/fail2ban/jail.local sets maxretry, port of the jail sshd: Mailkeep's own settings")
    [wins] = describe_jails([("/etc/fail2ban/jail.d/zz.local", text)])
    assert "overrides Mailkeep's jail" in wins
    assert list(describe_jails([("/etc/fail2ban/jail.d/mine.conf", "[nginx]\nenabled = true\n")])) == []
    [broken] = describe_jails([("/etc/fail2ban/jail.local", "maxretry = 3\n")])
    assert "cannot be read" in broken


MASQUERADE = ("*nat", "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", "COMMIT")


@pytest.mark.parametrize(
    ("facts", "firewall", "is_told"),
    [
        ({"nft_ruleset": build_nft("docker", "accept", [{"masquerade": None}])}, {}, True),
        ({"iptables_rules": {"iptables-legacy-save": MASQUERADE}}, {}, True),
        ({"iptables_rules": {"iptables-legacy-save": MASQUERADE}}, {"may_send": ["172.17.0.0/16"]}, False),
        ({"iptables_rules": {"iptables-legacy-save": MASQUERADE}, "is_built": True}, {}, False),
        ({"iptables_rules": {"iptables-legacy-save": ("*nat", "COMMIT")}}, {}, False),
    ],
)
def test_containers_that_will_no_longer_send_are_told(
    facts: dict[str, Any], firewall: dict[str, object], is_told: bool
) -> None:
    verdict = judge_host(make_settings(firewall=firewall), ROOT, replace(FRESH, **facts))
    assert any("no longer connect to port 25 of other mail servers" in text for text in verdict.warnings) == is_told
