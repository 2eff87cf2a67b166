"""A rerun changes nothing; a small change stays small; a broken configuration reaches no service; and what was killed
anywhere is finished by the next run."""

import base64
import difflib
import json
import os
import random
import re
import signal
import smtplib
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailkeep.inventory import passwords
from mailkeep.inventory.credentials import save_relay_password
from mailkeep.lab import Lab, Server, poll, sessions
from mailkeep.lab.podman import podman
from mailkeep.lab.site import DeployResult, Site
from mailkeep.parts import alerts, mail_server
from mailkeep.parts.model import File, Part

Boot = Callable[..., Server]
Copy = Callable[[str], Site]

MOST_COMMANDS = 12
ANNA = "anna@example.test"
BROKEN_DEPLOY = str(Path(__file__).with_name("broken_deploy.py"))

# What each installation makes for itself; aliases and aliases.db only when postfix's postinst was never interrupted
# (nothing here reads them); and mailboxes.
OWN = """/etc/ssl /etc/aliases /etc/aliases.db /etc/hosts /etc/.pwd.lock /etc/passwd* /etc/group* /etc/shadow*
/etc/gshadow* /etc/subuid* /etc/subgid* /etc/machine-id /var/vmail/*
/etc/ssh/ssh_host_* /etc/unbound/unbound.conf.d/lab.conf"""
STATE = f"""
prune="$(printf -- '-path %s -o ' {" ".join(f"'{path}'" for path in OWN.split())}) -false"
set -f
find /etc /usr/sbin/policy-rc.d /var/vmail -xdev '(' $prune ')' -prune -o -printf '%p %y %u:%g %m %l\\n' 2>&1 | sort
find /etc -xdev '(' $prune ')' -prune -o -type f -exec sha256sum '{{}}' + | sort
set +f
find /etc /usr /var/vmail -xdev -name '*.mailkeep-new'
find /run/mailkeep/pending /run/mailkeep/stage /var/lib/dpkg/updates -mindepth 1
dpkg-query -W -f='${{db:Status-Abbrev}} ${{Package}} ${{Version}}\\n'
dpkg --audit
apt-get check -qq
getent passwd | cut -d: -f1,6,7 | sort
getent group | cut -d: -f1,4 | sort
systemctl list-unit-files --no-legend --plain
systemctl list-units --failed --no-legend --plain
"""
UNITS = "systemctl show --property=Id,ActiveState,NeedDaemonReload -- "


def declare(on: Site, **changes: Any) -> None:
    """Other top-level settings in the site's mail.yml."""
    on.settings_file.write_text(yaml.safe_dump(yaml.safe_load(on.settings_file.read_text()) | changes, sort_keys=False))


def account(on: Site, address: str, **changes: Any) -> None:
    declared = yaml.safe_load(on.settings_file.read_text())["accounts"]
    declare(on, accounts=[one | changes if one["address"] == address else one for one in declared])


def succeeded(said: DeployResult) -> DeployResult:
    assert said.code == 0, said.output
    assert said.report["results"]["totals"]["error"] == 0
    return said


def server_parts(on: Site) -> tuple[Part, ...]:
    return mail_server.build_parts(on.settings, on.secrets)


def unit_names(on: Site) -> list[str]:
    return [unit.name for part in server_parts(on) for unit in part.units]


def state(on: Site) -> list[str]:
    """Everything on the machine that a deploy has a hand in, and what would be left of an interrupted one."""
    said = on.server.run(STATE + UNITS + " ".join(unit_names(on)))
    return said.stdout.splitlines()


def differences(one: list[str], other: list[str]) -> list[str]:
    """As diff(1) shows them, without context."""
    return [line for line in difflib.unified_diff(one, other, n=0, lineterm="") if not line.startswith("@@")]


def touched_since(on: Site, stamp: str) -> set[str]:
    """Files below the places that are ours whose content, access or place changed after `stamp` was made."""
    return set(on.server.run(f"find /etc /usr/sbin /var/vmail -xdev -newercc {stamp} ! -type d").stdout.split())


def lives(on: Site) -> dict[str, str]:
    """By service that runs: since when, and since when it is in its state, which a reload changes. Not looked at are
    timers, which elapse by themselves, and what is not meant to run here, which systemd tries again now and then."""
    services = [name for name in unit_names(on) if name.endswith(".service")]
    show = "systemctl show --property=ActiveState,InvocationID,ExecMainPID,StateChangeTimestampMonotonic -- "
    blocks = on.server.run(show + " ".join(services)).stdout.split("\n\n")
    named = zip(services, blocks, strict=True)
    return {service: block for service, block in named if "ActiveState=inactive" not in block}


@pytest.fixture(scope="module")
def machine(lab: Lab, built_site: Site, built_image: str) -> Iterator[Site]:
    """A copy of the built server for this module's tests, each of which leaves it whole."""
    server = lab.boot_server("rerun", hostname="mail.example.test", image=built_image)
    yield built_site.copy_for(server)
    server.remove()


@pytest.fixture
def settled(machine: Site) -> Site:
    """The module's server, with nothing left to do on it."""
    succeeded(machine.deploy())
    return machine


# --- nothing to do --------------------------------------------------------------------------------------------------


def test_a_run_without_changes_says_so_and_needs_few_remote_commands(settled: Site) -> None:
    sessions.log_commands(settled.server)
    before = sessions.count_commands(settled.server)
    said = succeeded(settled.deploy())
    used = sessions.count_commands(settled.server) - before
    assert said.report["results"]["totals"]["success"] == 0, said.changed
    assert 0 < used <= MOST_COMMANDS


REMOVED_PACKAGE = """
set -e
mkdir -p /tmp/gone/DEBIAN /tmp/gone/etc
cd /tmp/gone
printf '%s: gone\\n' Package Version Architecture Maintainer Description > DEBIAN/control
sed -i -e 's/^Version: .*/Version: 1/' -e 's/^Architecture: .*/Architecture: all/' DEBIAN/control
echo /etc/gone.conf > DEBIAN/conffiles
touch etc/gone.conf
dpkg-deb --build . /tmp/gone.deb
dpkg --install /tmp/gone.deb
dpkg --remove gone
dpkg-query -W -f='${db:Status-Abbrev}' gone | grep '^rc'
"""


def test_what_an_operator_may_have_made_of_a_server_is_no_change(settled: Site) -> None:
    """A removed package whose configuration is still there; mail on another disk, behind a symbolic link."""
    settled.server.run(REMOVED_PACKAGE)
    settled.server.run("mkdir /srv/disk && mv /var/vmail /srv/disk/ && ln -s /srv/disk/vmail /var/vmail")
    assert succeeded(settled.deploy()).changed == []


# --- one thing to do ------------------------------------------------------------------------------------------------


def test_another_quota_touches_the_accounts_files_and_nothing_else(settled: Site) -> None:
    server = settled.server
    before = lives(settled)
    server.run("touch /run/stamp")
    account(settled, ANNA, quota="321M")
    said = succeeded(settled.deploy())
    assert touched_since(settled, "/run/stamp") == {"/etc/dovecot/users", "/etc/dovecot/aliases"}
    assert lives(settled) == before  # Dovecot reads them by itself
    assert len(said.changed) == 1
    assert str(321 * 1024) in server.run(f"doveadm quota get -u {ANNA}").stdout.split()


def test_another_password_counts_from_now_on_though_its_hash_is_as_long(settled: Site) -> None:
    def login(passphrase: str) -> int:
        return settled.server.run(f"doveadm auth test {ANNA} '{passphrase}'", check=False).returncode

    new = passwords.generate_password()
    assert login(settled.passphrases[ANNA]) == 0
    account(settled, ANNA, password=passwords.hash_password(new))
    succeeded(settled.deploy())
    assert (login(settled.passphrases[ANNA]), login(new)) == (77, 0)


def test_another_message_size_reloads_postfix_alone(settled: Site) -> None:
    before = lives(settled)
    declare(settled, message_size="23M")
    succeeded(settled.deploy())
    after = lives(settled)
    assert after.keys() == before.keys()
    assert [service for service in after if after[service] != before[service]] == ["postfix.service"]
    assert offered_size(settled) == 23 * 2**20


def offered_size(on: Site) -> int:
    """SIZE, as a client hears it (RFC 1870)."""
    with smtplib.SMTP(str(on.server.ip), 25, timeout=20) as client:
        client.ehlo()
        return int(client.esmtp_features["size"])


# --- something broken -----------------------------------------------------------------------------------------------

# No checker looks into these, and none could stop a service: their readers pass over what they do not understand.
HARMLESS = {
    "/etc/systemd/journald.conf.d/mailkeep.conf",
    "/etc/resolv.conf",
    "/etc/mailname",
    "/etc/dovecot/users",
    "/etc/dovecot/aliases",
}
# What is spoilt, and what its checker says of it. One breakage hides another of the same service, hence the rounds.
ROUNDS: tuple[dict[str, tuple[Callable[[str], str], str]], ...] = (
    {
        "/etc/apt/apt.conf.d/52mailkeep": (lambda text: text.replace('Enable "1";', "Enable"), "Syntax error"),
        "/etc/sysctl.d/60-mailkeep.conf": (lambda text: text + "nonsense\n", "invalid syntax"),
        "/etc/needrestart/conf.d/mailkeep.conf": (lambda text: text + "$nrconf{ = 1;\n", "syntax error at"),
        "/etc/ssh/sshd_config.d/10-mailkeep.conf": (lambda text: text + "Nonsense yes\n", "Bad configuration option"),
        "/etc/nftables.conf": (lambda text: text + "table inet {\n", "syntax error, unexpected"),
        "/etc/unbound/unbound.conf.d/mailkeep.conf": (lambda text: text + "nonsense: yes\n", "unknown keyword"),
        "/etc/dhcp/dhclient-enter-hooks.d/mailkeep": (lambda text: text + "if (\n", "Syntax error"),
        "/etc/dhcpcd.enter-hook": (lambda text: text + "if (\n", "Syntax error"),
        "/etc/mailkeep/tls/server.pem": (lambda _: "nonsense\n", "Could not find certificate"),
        "/etc/opendkim.conf": (lambda text: text + "Nonsense yes\n", "unrecognized parameter"),
        "/etc/dovecot/dovecot.conf": (lambda text: text.replace("ssl_min", "ssl_mim"), "Unknown setting: ssl_mim"),
        "/etc/postfix/main.cf": (lambda text: text + "smtpd_bannner = x\n", "unused parameter: smtpd_bannner"),
        "/etc/fail2ban/jail.d/mailkeep.local": (lambda text: text + "[sshd\n", "parsing errors"),
        "/etc/mailkeep/guard.json": (lambda text: text.replace('"enforce"', '"enforced"'), "not one of enforce, learn"),
        "/usr/local/sbin/mailkeepctl": (lambda text: text + "if (\n", "Syntax error"),
        **{
            f"/etc/systemd/system/mailkeep-guard.{kind}": (lambda text: text + "Nonsense=1\n", "Unknown key")
            for kind in ("service", "socket")
        },
        "/etc/mailkeep/dns.json": (lambda text: text + "nonsense\n", "Extra data"),
    },
    {
        "/etc/mailkeep/tls/server.pem": (
            lambda text: other_key() + text.partition("-----END PRIVATE KEY-----\n")[2],
            "its key is not the key of its certificate",
        ),
        "/etc/opendkim/key.table": (lambda text: text.replace(".pem", ".pen"), "from example.test is not signed"),
        "/etc/postfix/master.cf": (lambda text: text + "smtp inet n\n", "bad field count"),
        "/etc/mailkeep/watch.json": (lambda text: text.replace(":", "=", 1), "JSONDecodeError"),
        "/etc/fail2ban/filter.d/mailkeep-dovecot.conf": (
            lambda text: text.replace("failregex = ^", "failregex = ^("),
            "Unable to compile regular expression",
        ),
    },
    {
        "/etc/opendkim/signing.table": (
            lambda text: text.replace("*@example-two.test", "*@example-too.test"),
            "from example-two.test is not signed",
        ),
        "/etc/postfix/submission_headers": (lambda text: text + "/(/ IGNORE\n", "Unmatched ("),
        "/usr/lib/mailkeep/__main__.py": (lambda text: text + "def\n", "SyntaxError"),
        **{
            f"/etc/postfix/{table}": (lambda text: text + "nonsense\n", "expected format: key whitespace value")
            for table in ("mailboxes", "aliases", "sender_login", "own_domains", "alert_recipients")
        },
        "/etc/fail2ban/filter.d/mailkeep-postfix.conf": (
            lambda text: text.replace("mdpr-normal = ", "mdpr-normal = nonsense"),
            "0 matched",
        ),
        **{
            f"/etc/systemd/system/{unit}.service.d/mailkeep.conf": (lambda text: text + "Nonsense=1\n", "Unknown key")
            for unit in ("nftables", "unbound", "opendkim", "dovecot", "postfix", "fail2ban")
        },
        **{
            f"/etc/systemd/system/{unit}": (lambda text: text.replace("[Unit]", "[Unit]\nNonsense=1"), "Unknown key")
            for unit in alerts.UNIT_FILES
        },
        "/etc/systemd/system/mailkeep-dns.timer": (lambda text: text + "Nonsense=1\n", "Unknown key"),
    },
    {
        "/etc/fail2ban/fail2ban.d/mailkeep.local": (lambda text: text + "[Definition\n", "parsing errors"),
        "/usr/lib/mailkeep/mailkeep_server": (lambda text: text + "def\n", "SyntaxError"),
        "/etc/systemd/system/mailkeep-dns.service": (lambda text: text + "Nonsense=1\n", "Unknown key"),
        **{
            f"/etc/opendkim/keys/{domain}": (lambda _: "nonsense\n", f"from {domain} is not signed")
            for domain in ("example.test", "example-two.test", "mail.example.test")
        },
    },
)


def other_key() -> str:
    return subprocess.run(
        ["openssl", "genpkey", "-algorithm", "RSA"], capture_output=True, text=True, check=True
    ).stdout


def declared_files(on: Site) -> dict[str, File]:
    """The files by path; the path of a DKIM key without its dated selector, and one for all of the guard's program."""
    files = (file for part in server_parts(on) for file in part.files)
    return {re.sub(r"\.s\d{8}\.pem$|(?<=/mailkeep/mailkeep_server)/.*", "", file.path): file for file in files}


def deploy_spoilt(on: Site, contents: dict[str, str]) -> DeployResult:
    """A deploy whose templates give these files other contents."""
    spoilt = on.inventory / "spoilt.json"
    spoilt.write_text(json.dumps(contents))
    command = on.deploy_command(BROKEN_DEPLOY)
    done = subprocess.run(
        [*command, "--data", f"broken={spoilt}"], capture_output=True, text=True, check=False, timeout=300
    )
    report = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    return DeployResult(done.returncode, report, done.stdout + done.stderr)


def test_every_file_that_could_break_a_service_is_broken_below(built_site: Site) -> None:
    broken = {path for spoilt in ROUNDS for path in spoilt}
    assert broken | HARMLESS == set(declared_files(built_site))


@pytest.mark.parametrize("spoilt", ROUNDS)
def test_a_broken_configuration_reaches_no_service_and_a_good_run_heals(
    machine: Site, spoilt: dict[str, tuple[Callable[[str], str], str]]
) -> None:
    files = declared_files(machine)
    before, running = state(machine), lives(machine)
    contents = {files[path].path: spoil(files[path].content.decode()) for path, (spoil, _) in spoilt.items()}
    assert all(contents[files[path].path] != files[path].content.decode() for path in spoilt)

    said = deploy_spoilt(machine, contents)

    assert said.code != 0
    for path, (_, checker) in spoilt.items():
        assert files[path].path in said.output
        assert checker in said.output, path
    assert differences(state(machine), before) == []
    assert lives(machine) == running
    assert succeeded(machine.deploy()).changed == []


def test_a_full_disk_is_named_and_nothing_has_changed(settled: Site) -> None:
    """A small one of its own below /etc, full when the last of several files comes to it."""
    hooks = "/etc/dhcp/dhclient-enter-hooks.d"
    settled.server.run(f"mount -t tmpfs -o size=64k,mode=755 tmpfs {hooks}")
    try:
        succeeded(settled.deploy())
        before, running = state(settled), lives(settled)
        files = declared_files(settled)
        grown = {path: files[path].content.decode() + "# more\n" for path in ("/etc/nftables.conf", "/etc/mailname")}
        said = deploy_spoilt(settled, {**grown, f"{hooks}/mailkeep": "# more\n" * 20_000})
        assert said.code != 0
        assert f"{hooks}/mailkeep.mailkeep-new': No space left on device" in said.output
        assert differences(state(settled), before) == []
        assert lives(settled) == running
    finally:
        settled.server.run(f"umount {hooks}")


def test_a_directory_where_a_file_belongs_is_named_and_nothing_has_changed(settled: Site) -> None:
    settled.server.run("rm /etc/mailname && mkdir /etc/mailname")
    before = state(settled)
    declare(settled, message_size="24M")
    said = settled.deploy()
    assert said.code != 0
    assert "/etc/mailname is a directory, but must be a file." in said.output
    assert differences(state(settled), before) == []
    settled.server.run("rmdir /etc/mailname")
    succeeded(settled.deploy())
    assert offered_size(settled) == 24 * 2**20


def test_what_a_setting_brought_goes_with_it(settled: Site) -> None:
    before, password = settled.settings_file.read_text(), "/etc/postfix/relay_password"
    retired = "/etc/opendkim/keys/former.test.s20200101.pem"
    save_relay_password(settled.inventory, "password")
    declare(settled, relay={"host": "relay.outside.test", "user": "mailkeep"})
    settled.server.write(retired, "a key")
    succeeded(settled.deploy())
    assert there(settled, password, retired) == [password]

    settled.settings_file.write_text(before)
    declare(settled, resolver="system")
    assert "nameserver" in settled.deploy().output  # nobody knows what /etc/resolv.conf was before
    assert there(settled, password) == [password], "and nothing has changed"
    settled.server.run("sed -i '/Written by Mailkeep/d' /etc/resolv.conf; systemctl disable --now --quiet unbound")
    succeeded(settled.deploy())
    ours = ("/etc/unbound/unbound.conf.d/mailkeep.conf", "/etc/systemd/system/mailkeep-dns.timer")
    assert there(settled, password, *ours) == []
    assert settled.server.run("systemctl is-active mailkeep-dns.timer", check=False).stdout != "active\n"
    assert succeeded(settled.deploy()).changed == []

    settled.settings_file.write_text(before)
    succeeded(settled.deploy())
    assert {*there(settled, *ours)} == {*ours}


def there(on: Site, *paths: str) -> list[str]:
    return on.server.run(f"ls -d {' '.join(paths)}", check=False).stdout.split()


def test_a_unit_that_does_not_start_shows_its_journal_and_is_started_by_the_next_run(settled: Site) -> None:
    drop_in = "/etc/systemd/system/unbound.service.d/zz-operator.conf"
    settled.server.write(drop_in, "[Service]\nExecStartPre=/bin/sh -c 'echo out of cheese; exit 3'\n")
    settled.server.run("systemctl daemon-reload; systemctl stop unbound")
    said = settled.deploy()
    assert said.code != 0
    assert "unbound.service" in said.output
    assert "out of cheese" in said.output

    def given_up() -> bool:
        return settled.server.run("systemctl is-failed unbound", check=False).stdout == "failed\n"

    poll(given_up, 30, "systemd tries again for ever")
    settled.server.run(f"rm {drop_in}")
    succeeded(settled.deploy())
    assert settled.server.run("systemctl is-active unbound").stdout == "active\n"
    assert succeeded(settled.deploy()).changed == []


# --- something killed -----------------------------------------------------------------------------------------------

KILLS = random.Random(20260721)  # noqa: S311 - a seed makes the points the same in every run


KILL_SESSION = """
for connection in $(pgrep -x sshd-session); do
  [ $connection = $PPID ] || for shell in $(pgrep -P $connection -x sh); do pkill -KILL -s $shell && echo killed; done
done; true"""


class Run:
    """A deploy at work in a process group of its own."""

    def __init__(self, on: Site) -> None:
        self.on = on
        self.process = subprocess.Popen(
            on.deploy_command(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def ended_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill_here(self) -> bool:
        """What it has started over there goes on for a while."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return True

    def kill_there(self) -> bool:
        """All processes of its SSH session at once, as soon as there are some: it may be between two commands."""
        while not (killed := bool(self.on.server.run(KILL_SESSION).stdout)) and not self.ended_within(0.1):
            pass
        self.process.wait(60)
        return killed

    def kill_machine(self) -> bool:
        """The power goes, and comes back."""
        podman("kill", "--signal", "KILL", self.on.server.id)
        self.kill_here()
        self.on.server.start()
        return True


def kill(on: Site, after: float, how: Callable[[Run], bool]) -> bool:
    """Whether a deploy was still at work after so many seconds, when it was killed."""
    run = Run(on)
    return not run.ended_within(after) and how(run)


def test_a_build_killed_five_times_ends_like_one_left_alone(base_server: Boot, built_site: Site) -> None:
    """Most of them while packages are downloaded, unpacked or configured: that is what takes the time. This machine
    knows nothing of the lab's DNS, as a real one."""
    site = built_site.copy_for(base_server("killed", hostname="mail.example.test"))
    for how in (Run.kill_there, Run.kill_there, Run.kill_there, Run.kill_there, Run.kill_here):
        assert kill(site, KILLS.uniform(2, 6), how), "had ended by itself"
    succeeded(site.deploy())
    assert differences(state(site), state(built_site)) == []
    assert succeeded(site.deploy()).changed == []


OTHERWISE: dict[str, Any] = {
    "message_size": "17M",
    "firewall": {"open": [8443]},
    "retention": {"trash_days": 17, "journal": "77M"},
    "host": {"name": "mail.example.test", "addresses": ["192.0.2.77"]},
}


def effective(on: Site) -> list[str]:
    """What the running services go by, as they say themselves."""
    said = on.server.run(
        "for n in $(seq 100); do fail2ban-client get sshd ignoreip > /dev/null 2>&1 && break; sleep 0.2; done; "
        "nft list chain inet mailkeep input | grep -o 8443; fail2ban-client get sshd ignoreip | tr -d '`|-'; "
        "doveconf -n | grep autoexpunge; "
        "journalctl --sync; journalctl --output=cat --unit=systemd-journald --grep='^System' | tail -n 1 "
        "| grep -o ' max [^,]*'"
    )
    return sorted([*said.stdout.splitlines(), f"SIZE {offered_size(on)}"])


@pytest.fixture(scope="module")
def two_ways(machine: Site) -> dict[str, tuple[list[str], list[str]]]:
    """The two declarations between which the tests below go, and how the machine is after undisturbed runs."""
    succeeded(machine.deploy())
    here = machine.settings_file.read_text()
    found = {here: (state(machine), effective(machine))}
    declare(machine, **OTHERWISE)
    succeeded(machine.deploy())
    found[machine.settings_file.read_text()] = (state(machine), effective(machine))
    assert len({str(found[text]) for text in found}) == 2
    return found


def turn(on: Site, ways: dict[str, tuple[list[str], list[str]]]) -> tuple[list[str], list[str]]:
    """Declare the other way; returns how the machine should be then."""
    (other,) = (text for text in ways if text != on.settings_file.read_text())
    on.settings_file.write_text(other)
    return ways[other]


@pytest.mark.parametrize("after", [round(KILLS.uniform(0.8, 3.5), 2) for _ in range(5)])
def test_an_update_killed_at_a_random_point_is_finished_by_the_next_run(
    machine: Site, two_ways: dict[str, tuple[list[str], list[str]]], after: float
) -> None:
    goal = turn(machine, two_ways)
    kill(machine, after, KILLS.choice((Run.kill_here, Run.kill_there, Run.kill_machine)))
    succeeded(machine.deploy())
    assert differences(state(machine), goal[0]) == []
    assert effective(machine) == goal[1]


@pytest.mark.parametrize(("program", "call"), [("cp", 2), ("mv", 2), ("systemctl", 2)])
def test_an_update_killed_between_two_of_its_steps_is_finished_by_the_next_run(
    machine: Site, two_ways: dict[str, tuple[list[str], list[str]]], program: str, call: int
) -> None:
    """A wrapper before the program in PATH kills what called it, after so many calls of the deploy's scripts: the
    watch, too, calls systemctl."""
    goal = turn(machine, two_ways)
    wrapper = f"/usr/local/bin/{program}"
    machine.server.write(
        wrapper,
        f'#!/bin/sh\n/usr/bin/{program} "$@"; done=$?\n[ "$(cat /proc/$PPID/comm)" = sh ] || exit $done\n'
        f"echo >> /run/calls; [ $(wc -l < /run/calls) -lt {call} ] || kill -KILL $PPID\nexit $done\n",
        mode=0o755,
    )
    said = machine.deploy()
    machine.server.run(f"/usr/bin/rm {wrapper} /run/calls")  # the file is there: the wrapper was called
    assert said.code != 0
    assert state(machine) != goal[0]
    succeeded(machine.deploy())
    assert differences(state(machine), goal[0]) == []
    assert effective(machine) == goal[1]
    assert succeeded(machine.deploy()).changed == []


# --- who deploys, and to how many -----------------------------------------------------------------------------------


def test_a_user_with_sudo_does(settled: Site) -> None:
    settled.server.run(
        "useradd --create-home --shell /bin/bash deployer && cp -r /root/.ssh /home/deployer/ && "
        "chown -R deployer: /home/deployer/.ssh && echo 'deployer ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/deployer"
    )
    inventory = settled.inventory / "inventory.py"
    as_root = inventory.read_text()
    inventory.write_text(as_root.replace('"ssh_config_file"', '"ssh_user": "deployer", "ssh_config_file"'))
    try:
        account(settled, ANNA, quota="123M")
        assert len(succeeded(settled.deploy()).changed) == 1
        assert str(123 * 1024) in settled.server.run(f"doveadm quota get -u {ANNA}").stdout.split()
        assert succeeded(settled.deploy()).changed == []
        logins = "journalctl --sync; journalctl --quiet --output=cat --unit=ssh.service --grep='^Accepted'"
        who = settled.server.run(logins).stdout
        assert "for deployer" in who.splitlines()[-1]
    finally:
        inventory.write_text(as_root)


SPY = """
import glob, os, time
seen = set()
while not os.path.exists("/run/spied"):
    for process in glob.glob("/proc/[0-9]*"):
        for what in ("cmdline", "environ"):
            try:
                seen.add(open(process + "/" + what, "rb").read().replace(bytes(1), b" "))
            except OSError:  # it has ended
                pass
print(*(text.decode(errors="replace") for text in seen), sep=chr(10))
"""


@contextmanager
def spying(server: Server) -> Iterator[list[str]]:
    """Collects every argument list and environment on the machine, as far as a busy look around sees them."""
    seen: list[str] = []
    server.run("rm -f /run/spied")
    spy = threading.Thread(target=lambda: seen.append(server.run("python3 -", stdin=SPY).stdout))
    spy.start()
    try:
        yield seen
    finally:
        server.run("touch /run/spied")
        spy.join()


def test_no_secret_is_in_any_output_or_argument_list(settled: Site) -> None:
    secret = [file for part in server_parts(settled) for file in part.files if file.secret]
    lines = {line for file in secret for line in file.content.decode().splitlines() if len(line) > 30}
    settled.server.run(f"rm {' '.join(file.path for file in secret)}")
    with spying(settled.server) as seen:
        said = succeeded(settled.deploy("--debug", "-vvv", "--diff"))
    assert "Files" in " ".join(said.changed)
    assert f"{secret[0].path}" in said.output
    assert "/run/mailkeep/stage" in seen[0], "the spy has seen nothing of the deploy"
    encoded = {base64.b64encode(line.encode())[:-4].decode() for line in lines}
    for text in (said.output, seen[0]):
        assert not [line for line in lines | encoded if line in text]


def test_hosts_of_one_inventory_are_deployed_to_in_parallel(settled: Site, boot_copy: Copy) -> None:
    sites = [settled, boot_copy("twin")]
    for site in sites:
        sessions.log_commands(site.server)
        declare(site, message_size="19M")
    rows = [
        f'("{site.server.name}", {{"mailkeep": "{site.settings_file}", "ssh_config_file": "{site.server.ssh_config}"}})'
        for site in sites
    ]
    (sites[0].inventory / "inventory.py").write_text(f"hosts = [{', '.join(rows)}]\n")

    said = succeeded(sites[0].deploy())

    names = {site.server.name for site in sites}
    assert {name for one in said.report["results"]["operations"] for name in one["success"]} == names
    assert [offered_size(site) for site in sites] == [19 * 2**20] * 2
    (one_starts, one_ends), (two_starts, two_ends) = (busy(site.server) for site in sites)
    assert one_starts < two_ends
    assert two_starts < one_ends


def busy(server: Server) -> tuple[float, float]:
    """When the first remote command of a deploy began, and when the last one did (seconds since the epoch)."""
    said = server.run("journalctl --sync; journalctl --quiet --output=short-unix --unit=ssh.service").stdout
    own = server.run('echo "$SSH_CONNECTION"').stdout.split()[1]
    times = [
        float(line.split()[0])
        for line in said.splitlines()
        if "Starting session: " in line and f" port {own} " not in line
    ]
    return times[0], times[-1]
