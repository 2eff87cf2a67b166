"""A machine with exim4 is taken over, by a deploy that fails first; then all ways into it, and a lost identity."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailkeep.lab import Internet, Lab, poll
from mailkeep.lab.podman import podman
from mailkeep.lab.site import DeployResult, Site, create_site
from mailkeep_server.common.paths import STOPPED_UNITS

FROZEN_SECONDS = 90.0  # ssh gives up after 60
NO_DOWNLOADS = 'Acquire::http::Proxy "http://127.0.0.1:9";\nAcquire::https::Proxy "http://127.0.0.1:9";\n'
EXIM = (
    "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y exim4-daemon-light 2>&1 && "
    "systemctl start exim4-base.timer"
)
READ_EXIM = "systemctl is-active exim4 exim4-base.timer; systemctl is-enabled exim4"


@dataclass
class Adoption:
    """What deploys to a machine with exim4 said: one whose download failed, a plain one, one that went through."""

    site: Site
    failed: DeployResult
    exim_after_failure: str
    refused: DeployResult
    killed_plan: str
    refused_after_kill: DeployResult
    exim_after_kill: str
    adopted: DeployResult


@pytest.fixture(scope="module")
def adoption(lab: Lab, internet: Internet, built_site: Site) -> Iterator[Adoption]:
    server = lab.boot_server("exim", hostname="mail.example.test")
    server.run(EXIM)
    internet.resolve_for(server)
    site = create_site(lab, server)
    site.publish(internet)
    server.write("/etc/apt/apt.conf.d/99-no-downloads", NO_DOWNLOADS)
    failed = site.deploy("--data", "adopt=true")
    exim_after_failure = server.run(READ_EXIM, check=False).stdout
    refused = site.deploy()
    server.run("rm /etc/apt/apt.conf.d/99-no-downloads")
    # As a deploy leaves it that was killed right after it stopped exim4.
    server.run(f"printf 'unit exim4.service\\npackage exim4-base\\n' > {STOPPED_UNITS}; systemctl stop exim4")
    server.run("mail=/var/mail/bob; echo 'From bob' >$mail; echo 'sales: bob' >>/etc/aliases")
    killed_plan = run_mailkeep("plan", site.inventory, "--adopt")[1]
    refused_after_kill = site.deploy()
    exim_after_kill = server.run(READ_EXIM, check=False).stdout
    adopted = site.deploy("--data", "adopt=true")
    yield Adoption(site, failed, exim_after_failure, refused, killed_plan, refused_after_kill, exim_after_kill, adopted)
    built_site.publish(internet)  # for the tests of other files


def run_mailkeep(*arguments: str | Path, **environment: str) -> tuple[int, str]:
    process = start_mailkeep(*arguments, **environment)
    output, _ = process.communicate(timeout=600)
    assert "Traceback" not in output, output
    return process.returncode, output


def start_mailkeep(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mailkeep", *map(str, arguments)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_plan_of_a_takeover_begins_with_what_will_be_gone(adoption: Adoption) -> None:
    lines = [line for line in adoption.killed_plan.splitlines() if "warning: " not in line]
    assert lines[0] == "exim: after this deploy, these are gone, since mail.yml does not declare them:"
    summary = "\n".join(lines[1:5])
    assert "accounts and mailboxes: bob" in summary
    assert re.search("aliases: .*sales", summary)
    assert "services: exim4-daemon-light, removed" in summary


def test_a_download_that_fails_leaves_the_other_mail_server_as_it_was(adoption: Adoption) -> None:
    assert adoption.failed.code == 1
    assert adoption.exim_after_failure == "active\nactive\nenabled\n"
    assert "nothing was changed" in adoption.refused.output
    assert "exim4-daemon-light, another mail server, is installed" in adoption.refused.output


def test_after_a_killed_run_the_next_one_knows_what_was_stopped(adoption: Adoption) -> None:
    assert "An earlier deploy stopped exim4.service" in adoption.killed_plan
    assert "only what an earlier deploy had stopped is started again" in adoption.refused_after_kill.output
    assert "exim4.service had been stopped, and runs again." in adoption.refused_after_kill.output
    assert adoption.exim_after_kill == "active\nactive\nenabled\n"


def test_an_adopted_machine_has_no_failed_unit_and_nothing_left_to_do(adoption: Adoption) -> None:
    server = adoption.site.server
    assert adoption.adopted.code == 0, adoption.adopted.output
    assert server.run("systemctl list-units --failed --plain --no-legend").stdout == ""
    assert "master" in server.run("ss -Hlntp sport = 25").stdout
    assert server.run(f"test -e {STOPPED_UNITS}", check=False).returncode == 1
    assert adoption.site.deploy().changed == []


def test_an_older_inventory_is_refused_before_it_removes_anything(adoption: Adoption, tmp_path: Path) -> None:
    site, newer, zoe = adoption.site, tmp_path / "newer", "zoe@example.test"
    shutil.copytree(site.inventory, newer)
    assert run_mailkeep("account", "add", newer, zoe, "--generate")[0] == 0
    code, output = run_mailkeep("deploy", newer, "--no-verify")
    assert code == 0, output

    _, output = run_mailkeep("plan", site.inventory)
    assert "A deploy would refuse. This inventory is older than the last one" in output
    code, output = run_mailkeep("deploy", site.inventory, "--no-verify")
    assert (code, f"It would undo: remove the account {zoe}." in output) == (1, True), output
    assert zoe in site.server.run("cat /etc/dovecot/users").stdout

    assert run_mailkeep("deploy", site.inventory, "--no-verify", "--allow-older")[0] == 0
    assert zoe not in site.server.run("cat /etc/dovecot/users").stdout
    assert site.deploy().changed == []


def declare_way_in(site: Site, directory: Path, **data: Any) -> Path:
    """A copy of the inventory whose host is reached without the lab's SSH configuration."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(site.inventory, directory)
    [port] = re.findall(r"Port (\d+)", site.server.ssh_config.read_text())
    host = {
        "mailkeep": str(directory / "mail.yml"),
        "ssh_hostname": "127.0.0.1",
        "ssh_port": int(port),
        "ssh_user": "root",
        "ssh_key": str(site.server.state / "id"),
        "ssh_known_hosts_file": str(directory / "known_hosts"),
        **data,
    }
    (directory / "inventory.py").write_text(f"hosts = {[('mail', host)]!r}\n")
    return directory


COMMANDS: list[tuple[str, Callable[[Path], tuple[str | Path, ...]]]] = [
    ("plan", lambda inventory: ("plan", inventory)),
    ("deploy", lambda inventory: ("deploy", inventory, "--no-verify")),
    ("verify", lambda inventory: ("verify", inventory)),
    ("freeze", lambda inventory: ("account", "freeze", inventory, "anna@example.test")),
]


def test_no_command_gets_in_where_ssh_would_ask_and_all_say_the_same(adoption: Adoption, tmp_path: Path) -> None:
    inventory = declare_way_in(adoption.site, tmp_path / "unknown")
    other = tmp_path / "other-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    for _, command in COMMANDS:
        code, output = run_mailkeep(*command(inventory))
        assert (code, "Host key verification failed" in output) == (1, True), output
        assert "Its host key is not in your known_hosts" in output
    assert not (inventory / "known_hosts").exists()

    wrong = declare_way_in(adoption.site, tmp_path / "wrong", ssh_key=str(other), ssh_strict_host_key_checking="no")
    for _, command in COMMANDS:
        code, output = run_mailkeep(*command(wrong), SSH_AUTH_SOCK="")
        assert (code, "Permission denied" in output) == (1, True), output

    known = declare_way_in(adoption.site, tmp_path / "known", ssh_strict_host_key_checking="accept-new")
    assert run_mailkeep("plan", known)[0] == 0
    assert (known / "known_hosts").exists()


def test_a_host_that_freezes_ends_every_command_with_a_message(adoption: Adoption) -> None:
    site = adoption.site
    # A deploy that has begun waits for the lock.
    site.server.run("systemd-run --quiet --unit=holder flock /run/mailkeep/lock sleep 300")
    site.server.run("rm /etc/fail2ban/fail2ban.d/mailkeep.local")
    try:
        commands = [start_mailkeep("deploy", site.inventory, "--no-verify"), start_mailkeep("verify", site.inventory)]
        waits = "pgrep -fc 'flock -w 60[0] 9'"
        poll(lambda: site.server.run(waits, check=False).stdout.strip() not in ("0", ""), 60, "no deploy waits")
        start = time.monotonic()
        podman("pause", site.server.id)
        try:
            outputs = [command.communicate(timeout=FROZEN_SECONDS + 30)[0] for command in commands]
            seconds = time.monotonic() - start
        finally:
            podman("unpause", site.server.id)
    finally:
        site.server.run("systemctl stop holder", check=False)
    assert seconds < FROZEN_SECONDS
    for command, output in zip(commands, outputs, strict=True):
        assert command.returncode == 1, output
        assert "not responding" in output, output
    assert site.deploy().code == 0


def test_a_lost_identity_is_refused_and_the_keys_come_back_from_the_server(adoption: Adoption, tmp_path: Path) -> None:
    inventory, identity = adoption.site.inventory, tmp_path / "new-identity"
    environment = {"MAILKEEP_IDENTITY": str(identity)}
    (inventory / "age-identity").unlink()
    code, output = run_mailkeep("keys", inventory, **environment)
    assert (code, "mailkeep vault recover NAME" in output) == (1, True), output

    code, output = run_mailkeep("vault", "recover", inventory, **environment)
    assert code == 0, output
    assert identity.exists()
    code, output = run_mailkeep("deploy", inventory, "--json", **environment)
    assert code == 0, output
    report = json.loads(output[output.index("{") :])
    assert report["results"]["totals"]["success"] == 0, output
    code, output = run_mailkeep("plan", inventory, **environment)
    assert (code, "nothing to do" in output) == (0, True), output
    shutil.copy(identity, inventory / "age-identity")  # for the next test


def test_exim_comes_back_with_its_package_after_a_run_without_downloads(adoption: Adoption) -> None:
    """The last test: the machine is no Mailkeep server afterwards."""
    server, inventory = adoption.site.server, adoption.site.inventory
    server.write("/etc/apt/apt.conf.d/99-no-downloads", NO_DOWNLOADS)
    server.run("apt-get clean")
    code, output = run_mailkeep("un-adopt", inventory, "--yes")
    assert (code, "Nothing was changed" in output) == (1, True), output
    assert "master" in server.run("ss -Hlntp sport = 25").stdout
    server.run("rm /etc/apt/apt.conf.d/99-no-downloads")

    code, output = run_mailkeep("un-adopt", inventory, "--yes")
    assert code == 0, output
    assert server.run(READ_EXIM).stdout == "active\nactive\nenabled\n"
    poll(lambda: "exim4" in server.run("ss -Hlntp sport = 25").stdout, 20, "exim4 does not listen")
    assert "sales: bob" in server.run("cat /etc/aliases").stdout
    assert server.run("systemctl list-units --failed --plain --no-legend").stdout == ""
