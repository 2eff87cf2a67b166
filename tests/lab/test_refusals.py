"""The preflight on real machines: the facts it reads, the hosts it refuses, and that it changes nothing on those."""

import json
import re
import subprocess
import time
from collections.abc import Callable

import dns.resolver
import pytest

from mailkeep.host.adoption import BACKUPS
from mailkeep.host.preflight_facts import (
    PASSED_MARK,
    ConnectFact,
    HostFacts,
    OutboundPeer,
    PreflightFact,
    outbound_peer,
)
from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.site import DeployResult, Site, create_site

Boot = Callable[..., Server]
Copy = Callable[[str], Site]

PREFLIGHT_ALONE = """\
from pathlib import Path

from pyinfra import host

from mailkeep.host.preflight import run_preflight
from mailkeep.inventory import secrets
from mailkeep.parts import mail_server
from mailkeep.settings.load import load_settings

file = Path(host.data.mailkeep)
declared = load_settings(file)
run_preflight(declared, mail_server.build_parts(declared, secrets.load_secrets(declared, file.parent)))
"""
STATE = "find /etc /usr/local /var/lib/dpkg /var/lib/mailkeep /var/backups -printf '%p %m %u %s %T@ %C@\\n' 2>&1 | sort"
DEBIANS_MAIN_CF = "compatibility_level = 3.10\nmyhostname = mail.example.test\nmydestination = localhost\n"


def read_facts(server: Server) -> HostFacts:
    fact = PreflightFact()
    return fact.process(server.run(fact.command(user="root")).stdout.splitlines())


def can_reach(server: Server, address: str, port: int) -> bool:
    fact = ConnectFact()
    return fact.process(server.run(fact.command(address=address, port=port)).stdout.splitlines())


def run_preflight_alone(on: Site, *options: str) -> DeployResult:
    """Run the preflight with pyinfra, and no other operation."""
    alone = on.inventory / "preflight.py"
    alone.write_text(PREFLIGHT_ALONE)
    command = on.deploy_command(str(alone))
    process = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=120)
    report = json.loads(process.stdout) if process.stdout.startswith("{") else {}
    return DeployResult(process.returncode, report, process.stdout + process.stderr)


def start_listener(server: Server, port: int) -> None:
    """Let a program that is no mail server listen on the port."""
    take = f"import socket,time; s=socket.create_server(('', {port})); time.sleep(600)"
    server.run(f'systemd-run --quiet --unit=taker-{port} python3 -c "{take}"')
    poll(lambda: f":{port} " in server.run("ss -Hlnt").stdout, 10, f"nothing listens on {port}")


def test_the_facts_of_a_fresh_machine_are_right(base_server: Boot) -> None:
    server = base_server("fresh", hostname="mail.example.test")
    facts = read_facts(server)
    assert (facts.is_supported, facts.hostname, facts.has_systemd, facts.can_overlay, facts.has_key) == (
        True,
        server.hostname,
        True,
        True,
        True,
    )
    assert (facts.passed_before, facts.is_built, facts.foreign_files, facts.other_mtas) == (False, False, (), ())
    assert abs(facts.clock_offset) < 2
    kib = int(server.run("awk '/^MemTotal/ {print $2}' /proc/meminfo").stdout)
    assert facts.memory == kib // 1024
    free = int(server.run("stat -f -c '%a * %S / 1048576' / | xargs expr").stdout)
    assert [disk.mount for disk in facts.disks] == ["/"]
    assert facts.disks[0].free == pytest.approx(free, rel=0.05)
    assert facts.listeners is not None
    assert ("sshd",) in [listener.programs for listener in facts.listeners if listener.port == 22]


def test_a_machine_without_overlay_mounts_is_noticed(base_server: Boot) -> None:
    server = base_server("fresh")
    fact = PreflightFact()
    unprivileged = "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin sh"
    facts = fact.process(server.run(unprivileged, stdin=fact.command(user="root")).stdout.splitlines())
    assert facts.has_systemd
    assert not facts.can_overlay


def test_a_machine_with_everything_wrong_is_refused_in_one_message_and_left_alone(lab: Lab, base_server: Boot) -> None:
    server = base_server("wrong", hostname="vps")
    server.run(
        'sed -i \'s/^VERSION_ID=.*/VERSION_ID="12"/; s/^PRETTY_NAME=.*/PRETTY_NAME="Debian 12"/\' /etc/os-release'
    )
    server.write("/usr/local/bin/date", "#!/bin/sh\nexec /bin/date -d '10 minutes' \"$@\"\n", 0o755)
    server.run("mkdir /etc/postfix")
    server.write("/etc/postfix/main.cf", DEBIANS_MAIN_CF)
    start_listener(server, 25)
    start_listener(server, 993)
    wrong = create_site(lab, server)
    wrong.settings_file.write_text(wrong.settings_file.read_text() + "ssh:\n  port: 2222\n")
    before = server.run(STATE).stdout
    refused = wrong.deploy()
    assert refused.code == 1
    assert refused.changed == []
    problems = "\n".join(re.findall(r"- (.*)", refused.output))
    for problem in (
        "It runs Debian 12\\.",
        "(59[5-9]|600) s ahead",  # minus the time that the facts take
        "'vps'",
        "/etc/postfix/main.cf exists",
        "Port 25 is taken by python3",
        "Port 993 is taken by python3",
        "port 22, but mail.yml says ssh.port: 2222",
    ):
        assert re.search(problem, problems)
    assert len(problems.splitlines()) == 7
    assert "Traceback" not in refused.output
    assert server.run(STATE).stdout == before


def test_another_mail_server_is_refused_and_saved_when_adopted(lab: Lab, base_server: Boot) -> None:
    server = base_server("exim", hostname="mail.example.test")
    server.run("apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y exim4-daemon-light 2>&1")
    poll(lambda: "exim4" in server.run("ss -Hlntp sport = 25").stdout, 20, "exim4 does not listen")
    server.run("echo '# mine' >> /etc/exim4/update-exim4.conf.conf")
    other = create_site(lab, server)
    refused = run_preflight_alone(other)
    assert refused.code == 1
    assert "exim4-daemon-light, another mail server, is installed" in refused.output
    assert "exim4" in server.run("ss -Hlntp sport = 25").stdout

    adopted = run_preflight_alone(other, "--data", "adopt=true")
    assert adopted.code == 0, adopted.output
    saved = server.run(f"cat {BACKUPS}/*/files/etc/exim4/update-exim4.conf.conf").stdout
    assert saved.endswith("# mine\n")
    assert server.run(f"stat -c %a {BACKUPS}/*").stdout == "700\n"


def test_a_foreign_postfix_is_refused_but_not_the_postfix_of_an_interrupted_deploy(boot_copy: Copy) -> None:
    site = boot_copy("foreign")
    site.server.write("/etc/postfix/main.cf", DEBIANS_MAIN_CF)
    assert run_preflight_alone(site).code == 0

    site.server.run(f"rm -r {PASSED_MARK}")  # as if Mailkeep had never run here
    refused = site.deploy()
    assert refused.code == 1
    assert "/etc/postfix/main.cf exists and Mailkeep did not write it" in refused.output
    assert site.server.run("cat /etc/postfix/main.cf").stdout == DEBIANS_MAIN_CF

    adopted = site.deploy("--data", "adopt=true")
    assert adopted.code == 0, adopted.output
    assert site.server.run(f"cat {BACKUPS}/*/files/etc/postfix/main.cf").stdout == DEBIANS_MAIN_CF
    assert "Written by Mailkeep" in site.server.run("head -1 /etc/postfix/main.cf").stdout
    assert site.deploy().changed == []


def test_a_blocked_port_25_to_the_outside_is_noticed(internet: Internet, base_server: Boot) -> None:
    server = base_server("fresh")
    assert can_reach(server, str(internet.ip), 25)
    assert not can_reach(server, str(internet.ip), 26)
    server.run(f"ip route add blackhole {internet.ip}")
    assert not can_reach(server, str(internet.ip), 25)


def test_the_outbound_peer_is_the_mail_exchanger_of_an_administrator_elsewhere(
    internet: Internet, built_site: Site
) -> None:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [str(internet.ip)]
    ours = built_site.settings
    theirs = ours.model_copy(update={"admin": ours.admin.model_copy(update={"addresses": ("ann@outside.test",)})})
    assert outbound_peer(theirs, resolver) == OutboundPeer("mx.outside.test", str(internet.ip), 25, is_relay=False)
    unknown = ours.model_copy(update={"admin": ours.admin.model_copy(update={"addresses": ("ann@nowhere.test",)})})
    assert outbound_peer(unknown, resolver) is None


def test_the_facts_of_a_built_server_take_less_than_a_fifth_of_a_second(built_site: Site) -> None:
    command = PreflightFact().command(user="root")

    def time_facts() -> float:
        start = time.monotonic()
        built_site.server.run(command)
        return time.monotonic() - start

    poll(lambda: time_facts() < 0.2, 30, "no reading was as fast")
    assert read_facts(built_site.server).is_built


def test_a_rerun_reads_the_facts_with_one_command(built_site: Site) -> None:
    result = run_preflight_alone(built_site, "-vv")
    assert result.code == 0, result.output
    assert result.changed == []
    loaded = re.findall(r"Loaded fact (\S+)", result.output)
    assert loaded == ["mailkeep.host.preflight_facts.LoginFact", "mailkeep.host.preflight_facts.PreflightFact"]
