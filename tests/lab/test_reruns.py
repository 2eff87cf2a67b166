"""A rerun changes nothing, and a small change stays small. A broken configuration reaches no service.

A deploy that is killed anywhere is finished by the next one.
"""

import base64
import difflib
import json
import os
import random
import re
import shutil
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
from mailkeep.parts import alerts, logs, mail_server
from mailkeep.parts.model import File, Part

Boot = Callable[..., Server]
Copy = Callable[[str], Site]

MAX_COMMANDS = 12
ANNA = "anna@example.test"
BROKEN_DEPLOY = str(Path(__file__).with_name("broken_deploy.py"))

# Mailboxes, and files that differ with each installation. postfix's postinst creates aliases and aliases.db only if it
# was never interrupted; no service here reads them.
UNCOMPARED_PATHS = """/etc/ssl /etc/aliases /etc/aliases.db /etc/hosts /etc/.pwd.lock /etc/passwd* /etc/group*
/etc/shadow* /etc/gshadow* /etc/subuid* /etc/subgid* /etc/machine-id /var/vmail/*
/etc/ssh/ssh_host_* /etc/unbound/unbound.conf.d/lab.conf"""
STATE = f"""
prune="$(printf -- '-path %s -o ' {" ".join(f"'{path}'" for path in UNCOMPARED_PATHS.split())}) -false"
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


def change_settings(on: Site, **changes: Any) -> None:
    """Replace top-level settings in the site's mail.yml."""
    on.settings_file.write_text(yaml.safe_dump(yaml.safe_load(on.settings_file.read_text()) | changes, sort_keys=False))


def change_account(on: Site, address: str, **changes: Any) -> None:
    accounts = yaml.safe_load(on.settings_file.read_text())["accounts"]
    change_settings(
        on, accounts=[account | changes if account["address"] == address else account for account in accounts]
    )


def assert_success(result: DeployResult) -> DeployResult:
    assert result.code == 0, result.output
    assert result.report["results"]["totals"]["error"] == 0
    return result


def server_parts(on: Site) -> tuple[Part, ...]:
    return mail_server.build_parts(on.settings, on.secrets)


def unit_names(on: Site) -> list[str]:
    """Without those that end when idle, and start at any time."""
    return [unit.name for part in server_parts(on) for unit in part.units if not unit.socket]


def read_state(on: Site) -> list[str]:
    """The state of all that a deploy changes, and the remains that an interrupted deploy would leave."""
    output = on.server.run(STATE + UNITS + " ".join(unit_names(on)))
    return output.stdout.splitlines()


def diff_states(actual: list[str], expected: list[str]) -> list[str]:
    """The lines that differ, as diff(1) shows them without context."""
    return [line for line in difflib.unified_diff(actual, expected, n=0, lineterm="") if not line.startswith("@@")]


def list_touched_since(on: Site, stamp: str) -> set[str]:
    """Mailkeep's files whose content, access or path changed after the file `stamp` was created."""
    return set(on.server.run(f"find /etc /usr/sbin /var/vmail -xdev -newercc {stamp} ! -type d").stdout.split())


def read_service_states(on: Site) -> dict[str, str]:
    """The invocation, process and time of the last state change (which a reload updates) of each running service.

    Timers are left out, because they elapse by themselves; inactive services too, because systemd retries some of them.
    """
    services = [name for name in unit_names(on) if name.endswith(".service")]
    show = "systemctl show --property=ActiveState,InvocationID,ExecMainPID,StateChangeTimestampMonotonic -- "
    blocks = on.server.run(show + " ".join(services)).stdout.split("\n\n")
    by_service = zip(services, blocks, strict=True)
    return {service: block for service, block in by_service if "ActiveState=inactive" not in block}


@pytest.fixture(scope="module")
def rerun_site(lab: Lab, built_site: Site, built_image: str) -> Iterator[Site]:
    """A copy of the built server for this module's tests, each of which leaves it whole."""
    server = lab.boot_server("rerun", hostname="mail.example.test", image=built_image)
    yield built_site.copy_for(server)
    server.remove()


@pytest.fixture
def settled_site(rerun_site: Site) -> Site:
    """The module's server after a successful deploy."""
    assert_success(rerun_site.deploy())
    return rerun_site


# --- no changes -----------------------------------------------------------------------------------------------------


def test_a_run_without_changes_says_so_and_needs_few_remote_commands(settled_site: Site) -> None:
    sessions.log_commands(settled_site.server)
    before = sessions.count_commands(settled_site.server)
    result = assert_success(settled_site.deploy())
    used = sessions.count_commands(settled_site.server) - before
    assert result.report["results"]["totals"]["success"] == 0, result.changed
    assert 0 < used <= MAX_COMMANDS


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


def test_an_operators_own_packages_and_disks_cause_no_change(settled_site: Site) -> None:
    """A package that was removed but not purged; mail on another disk behind a symbolic link."""
    settled_site.server.run(REMOVED_PACKAGE)
    settled_site.server.run("mkdir /srv/disk && mv /var/vmail /srv/disk/ && ln -s /srv/disk/vmail /var/vmail")
    assert assert_success(settled_site.deploy()).changed == []


# --- a single change ------------------------------------------------------------------------------------------------


def test_another_quota_touches_the_accounts_files_and_nothing_else(settled_site: Site) -> None:
    server = settled_site.server
    before = read_service_states(settled_site)
    server.run("touch /run/stamp")
    change_account(settled_site, ANNA, quota="321M")
    result = assert_success(settled_site.deploy())
    assert list_touched_since(settled_site, "/run/stamp") == {"/etc/dovecot/users", "/etc/dovecot/aliases"}
    assert read_service_states(settled_site) == before  # Dovecot reads them by itself
    assert len(result.changed) == 1
    wait_for_quota(settled_site, 321)


def wait_for_quota(site: Site, megabytes: int) -> None:
    """Dovecot looks at the time of its file of accounts once in a second at most."""
    show = f"doveadm quota get -u {ANNA}"
    poll(lambda: str(megabytes * 1024) in site.server.run(show).stdout.split(), 5, f"the quota is not {megabytes}M")


def test_another_password_counts_at_once_though_its_hash_is_as_long(settled_site: Site) -> None:
    def try_login(passphrase: str) -> int:
        return settled_site.server.run(f"doveadm auth test {ANNA} '{passphrase}'", check=False).returncode

    new = passwords.generate_password()
    assert try_login(settled_site.passphrases[ANNA]) == 0
    change_account(settled_site, ANNA, password=passwords.hash_password(new))
    assert_success(settled_site.deploy())
    assert (try_login(settled_site.passphrases[ANNA]), try_login(new)) == (77, 0)


def test_another_message_size_concerns_only_services_that_know_it(settled_site: Site) -> None:
    server, lines = settled_site.server, "systemctl show --property=ActiveState,InvocationID mailkeep-lines"
    server.run("systemctl start mailkeep-lines.service")
    before, old_milter = read_service_states(settled_site), server.run(lines).stdout
    change_settings(settled_site, message_size="23M")
    assert_success(settled_site.deploy())
    after = read_service_states(settled_site)
    assert after.keys() == before.keys()
    changed = {service for service in after if after[service] != before[service]}
    assert changed == {"postfix.service", "dovecot.service"}  # the second: room in Trash
    assert server.run(lines).stdout != old_milter
    assert read_offered_size(settled_site) == 23 * 2**20


def read_offered_size(on: Site) -> int:
    """The SIZE that the server offers in its EHLO response, in bytes (RFC 1870)."""
    with smtplib.SMTP(str(on.server.ip), 25, timeout=20) as client:
        client.ehlo()
        return int(client.esmtp_features["size"])


# --- broken files ---------------------------------------------------------------------------------------------------

# No checker reads these files, and none could stop a service: their readers skip lines that they do not understand.
HARMLESS = {
    "/etc/systemd/journald.conf.d/mailkeep.conf",
    "/etc/resolv.conf",
    "/etc/mailname",
    "/etc/dovecot/users",
    "/etc/dovecot/aliases",
    "/usr/local/share/man/man8/mailkeepctl.8",
}
# How each file is spoilt, and the words of its checker. Several rounds, because a service's first fault hides others.
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
        "/usr/local/sbin/mailkeep-limit-sessions": (lambda text: text + "if (\n", "Syntax error"),
        "/etc/dovecot/repeated_passwords.lua": (lambda text: text + "end\n", "<eof> expected near 'end'"),
        **{
            f"/etc/systemd/system/mailkeep-{name}.{kind}": (lambda text: text + "Nonsense=1\n", "Unknown key")
            for name in ("guard", "lines", "inbound")
            for kind in ("service", "socket")
        },
        "/etc/mailkeep/dns.json": (lambda text: text + "nonsense\n", "Extra data"),
        "/etc/systemd/system/mailkeep-reports.service": (lambda text: text + "Nonsense=1\n", "Unknown key"),
        "/etc/systemd/system/mailkeep-history.service": (lambda text: text + "Nonsense=1\n", "Unknown key"),
    },
    {
        "/etc/mailkeep/tls/server.pem": (
            lambda text: create_other_key() + text.partition("-----END PRIVATE KEY-----\n")[2],
            "its key is not the key of its certificate",
        ),
        "/etc/mailkeep/reports.json": (lambda text: text + "nonsense\n", "Extra data"),
        "/etc/mailkeep/inbound.json": (lambda text: text.replace('"domains"', '"domain"'), "KeyError: 'domains'"),
        **{
            f"/etc/dovecot/sieve/{name}.sieve": (lambda text: text + "nonsense\n", f"{name}: line")
            for name in ("junk", "bulk")
        },
        "/etc/opendkim/key.table": (lambda text: text.replace(".pem", ".pen"), "from example.test is not signed"),
        "/etc/postfix/master.cf": (lambda text: text + "smtp inet n\n", "bad field count"),
        "/etc/mailkeep/watch.json": (lambda text: text.replace(":", "=", 1), "(no JSON)"),
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
        **{
            f"/etc/postfix/{table}": (lambda text: text + "/(/ IGNORE\n", "Unmatched (")
            for table in ("submission_headers", "alias_patterns", "list_patterns", "refused_recipients")
        },
        "/usr/lib/mailkeep/__main__.py": (lambda text: text + "def\n", "SyntaxError"),
        **{
            f"/etc/postfix/{table}": (lambda text: text + "nonsense\n", "expected format: key whitespace value")
            for table in (
                "mailboxes",
                "aliases",
                "lists",
                "sender_login",
                "own_domains",
                "alert_recipients",
                "report_copies",
                "members_only",
            )
        },
        "/etc/postfix/own_senders": (lambda text: text + "nonsense\n", "skipping this rule"),
        **{
            f"/etc/fail2ban/filter.d/mailkeep-{name}.conf": (
                lambda text: text.replace("failregex = ^", "failregex = ^nonsense"),
                "0 matched",
            )
            for name in ("postfix", "managesieve", "recidive", "sshd")
        },
        **{
            f"/etc/systemd/system/{unit}.service.d/mailkeep.conf": (lambda text: text + "Nonsense=1\n", "Unknown key")
            for unit in ("nftables", "ssh", "unbound", "opendkim", "dovecot", "postfix", "fail2ban")
        },
        **{
            f"/etc/systemd/system/{unit}": (lambda text: text.replace("[Unit]", "[Unit]\nNonsense=1"), "Unknown key")
            for unit in (*alerts.UNIT_FILES, *alerts.WEEKLY_FILES, logs.SERVICE)
        },
        "/etc/systemd/system/mailkeep-dns.timer": (lambda text: text + "Nonsense=1\n", "Unknown key"),
        "/etc/systemd/system/mailkeep-reports.timer": (lambda text: text + "Nonsense=1\n", "Unknown key"),
        "/etc/systemd/system/mailkeep-history.timer": (lambda text: text + "Nonsense=1\n", "Unknown key"),
    },
    {
        "/etc/fail2ban/fail2ban.d/mailkeep.local": (lambda text: text + "[Definition\n", "parsing errors"),
        "/etc/fail2ban/action.d/mailkeep-nftables.conf": (lambda text: text + "[Definition\n", "parsing errors"),
        "/usr/lib/mailkeep/mailkeep_server": (lambda text: text + "def\n", "SyntaxError"),
        "/etc/systemd/system/mailkeep-dns.service": (lambda text: text + "Nonsense=1\n", "Unknown key"),
        **{
            f"/etc/opendkim/keys/{domain}": (lambda _: "nonsense\n", f"from {domain} is not signed")
            for domain in ("example.test", "example-two.test", "mail.example.test")
        },
    },
)


def create_other_key() -> str:
    return subprocess.run(
        ["openssl", "genpkey", "-algorithm", "RSA"], capture_output=True, text=True, check=True
    ).stdout


def declared_files(on: Site) -> dict[str, File]:
    """The declared files by path.

    DKIM keys have a path without their dated selector, and all files of the server package share a single path.
    """
    files = (file for part in server_parts(on) for file in part.files)
    return {re.sub(r"\.s\d{8}\.pem$|(?<=/mailkeep/mailkeep_server)/.*", "", file.path): file for file in files}


def deploy_with_contents(on: Site, contents: dict[str, str]) -> DeployResult:
    """Deploy with other contents for these files, as if their templates were wrong."""
    file = on.inventory / "spoilt.json"
    file.write_text(json.dumps(contents))
    command = on.deploy_command(BROKEN_DEPLOY)
    process = subprocess.run(
        [*command, "--data", f"broken={file}"], capture_output=True, text=True, check=False, timeout=300
    )
    report = json.loads(process.stdout) if process.stdout.startswith("{") else {}
    return DeployResult(process.returncode, report, process.stdout + process.stderr)


def test_every_file_that_could_break_a_service_is_broken_below(built_site: Site) -> None:
    broken = {path for breakages in ROUNDS for path in breakages}
    assert broken | HARMLESS == set(declared_files(built_site))


@pytest.mark.parametrize("breakages", ROUNDS)
def test_a_broken_configuration_reaches_no_service_and_a_good_run_heals(
    rerun_site: Site, breakages: dict[str, tuple[Callable[[str], str], str]]
) -> None:
    files = declared_files(rerun_site)
    before, running = read_state(rerun_site), read_service_states(rerun_site)
    contents = {files[path].path: spoil(files[path].content.decode()) for path, (spoil, _) in breakages.items()}
    assert all(contents[files[path].path] != files[path].content.decode() for path in breakages)

    result = deploy_with_contents(rerun_site, contents)

    assert result.code != 0
    for path, (_, checker) in breakages.items():
        assert files[path].path in result.output
        assert checker in result.output, path
    assert diff_states(read_state(rerun_site), before) == []
    assert read_service_states(rerun_site) == running
    assert assert_success(rerun_site.deploy()).changed == []


def test_a_full_disk_is_named_and_nothing_has_changed(settled_site: Site) -> None:
    """A small file system below /etc, which is full when the last of several files is staged there."""
    hooks = "/etc/dhcp/dhclient-enter-hooks.d"
    settled_site.server.run(f"mount -t tmpfs -o size=64k,mode=755 tmpfs {hooks}")
    try:
        assert_success(settled_site.deploy())
        before, running = read_state(settled_site), read_service_states(settled_site)
        files = declared_files(settled_site)
        grown = {path: files[path].content.decode() + "# more\n" for path in ("/etc/nftables.conf", "/etc/mailname")}
        result = deploy_with_contents(settled_site, {**grown, f"{hooks}/mailkeep": "# more\n" * 20_000})
        assert result.code != 0
        assert f"{hooks}/mailkeep.mailkeep-new': No space left on device" in result.output
        assert diff_states(read_state(settled_site), before) == []
        assert read_service_states(settled_site) == running
    finally:
        settled_site.server.run(f"umount {hooks}")


def test_a_directory_where_a_file_belongs_is_named_and_nothing_has_changed(settled_site: Site) -> None:
    settled_site.server.run("rm /etc/mailname && mkdir /etc/mailname")
    before = read_state(settled_site)
    change_settings(settled_site, message_size="24M")
    result = settled_site.deploy()
    assert result.code != 0
    assert "/etc/mailname is a directory, but must be a file." in result.output
    assert diff_states(read_state(settled_site), before) == []
    settled_site.server.run("rmdir /etc/mailname")
    assert_success(settled_site.deploy())
    assert read_offered_size(settled_site) == 24 * 2**20


def test_a_removed_setting_removes_its_files_and_units(settled_site: Site) -> None:
    before, password = settled_site.settings_file.read_text(), "/etc/postfix/relay_password"
    retired = "/etc/opendkim/keys/former.test.s20200101.pem"
    save_relay_password(settled_site.inventory, "password")
    change_settings(settled_site, relay={"host": "relay.outside.test", "user": "mailkeep"})
    settled_site.server.write(retired, "a key")
    assert_success(settled_site.deploy())
    assert list_existing(settled_site, password, retired) == [password]

    settled_site.settings_file.write_text(before)
    change_settings(settled_site, resolver="system")
    assert "nameserver" in settled_site.deploy().output  # the former content of /etc/resolv.conf is not known
    assert list_existing(settled_site, password) == [password], "and nothing has changed"
    settled_site.server.run("sed -i '/Written by Mailkeep/d' /etc/resolv.conf; systemctl disable --now --quiet unbound")
    assert_success(settled_site.deploy())
    ours = ("/etc/unbound/unbound.conf.d/mailkeep.conf", "/etc/systemd/system/mailkeep-dns.timer")
    assert list_existing(settled_site, password, *ours) == []
    assert settled_site.server.run("systemctl is-active mailkeep-dns.timer", check=False).stdout != "active\n"
    assert assert_success(settled_site.deploy()).changed == []

    settled_site.settings_file.write_text(before)
    assert_success(settled_site.deploy())
    assert {*list_existing(settled_site, *ours)} == {*ours}


def list_existing(on: Site, *paths: str) -> list[str]:
    return on.server.run(f"ls -d {' '.join(paths)}", check=False).stdout.split()


def test_a_unit_that_does_not_start_shows_its_journal_and_is_started_by_the_next_run(settled_site: Site) -> None:
    drop_in = "/etc/systemd/system/unbound.service.d/zz-operator.conf"
    settled_site.server.write(drop_in, "[Service]\nExecStartPre=/bin/sh -c 'echo out of cheese; exit 3'\n")
    settled_site.server.run("systemctl daemon-reload; systemctl stop unbound")
    result = settled_site.deploy()
    assert result.code != 0
    assert "unbound.service" in result.output
    assert "out of cheese" in result.output

    # systemd tries again for ever, and a run need not wait for it.
    is_active = "systemctl is-active unbound"
    poll(lambda: settled_site.server.run(is_active, check=False).stdout == "activating\n", 20, "it is not tried again")
    settled_site.server.run(f"rm {drop_in}")
    assert_success(settled_site.deploy())
    assert settled_site.server.run("systemctl is-active unbound").stdout == "active\n"
    assert assert_success(settled_site.deploy()).changed == []


# --- killed deploys -------------------------------------------------------------------------------------------------

KILLS = random.Random(20260721)  # noqa: S311 - a seed makes the points the same in every run


KILL_SESSION = """
for connection in $(pgrep -x sshd-session); do
  [ $connection = $PPID ] || for shell in $(pgrep -P $connection -x sh); do pkill -KILL -s $shell && echo killed; done
done; true"""


class RunningDeploy:
    """A deploy that runs in its own process group."""

    def __init__(self, on: Site) -> None:
        self.on = on
        self.process = subprocess.Popen(
            on.deploy_command(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def has_ended_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill_locally(self) -> bool:
        """Kill the process group here; the commands on the server go on for a while."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return True

    def kill_session(self) -> bool:
        """Kill all processes of its SSH session at once; wait for some if it is between two commands."""
        while not (killed := bool(self.on.server.run(KILL_SESSION).stdout)) and not self.has_ended_within(0.1):
            pass
        self.process.wait(60)
        return killed

    def kill_machine(self) -> bool:
        """Cut the server's power, and start it again."""
        podman("kill", "--signal", "KILL", self.on.server.id)
        self.kill_locally()
        self.on.server.start()
        return True


def kill_deploy(on: Site, after: float, how: Callable[[RunningDeploy], bool]) -> bool:
    """Kill a deploy after so many seconds; false if it had already ended."""
    deploy = RunningDeploy(on)
    return not deploy.has_ended_within(after) and how(deploy)


def test_a_build_killed_five_times_ends_like_one_left_alone(base_server: Boot, built_site: Site) -> None:
    """Most kills hit the download, unpacking or configuration of packages, which take the most time.

    The machine does not use the lab's DNS, as a real one does not.
    """
    site = built_site.copy_for(base_server("killed", hostname="mail.example.test"))
    shutil.copy(built_site.settings_file, site.settings_file)  # the same addresses make the same files
    for how in (
        RunningDeploy.kill_session,
        RunningDeploy.kill_session,
        RunningDeploy.kill_session,
        RunningDeploy.kill_session,
        RunningDeploy.kill_locally,
    ):
        assert kill_deploy(site, KILLS.uniform(2, 6), how), "had ended by itself"
    assert_success(site.deploy())
    assert diff_states(read_state(site), read_state(built_site)) == []
    assert assert_success(site.deploy()).changed == []


OTHER_SETTINGS: dict[str, Any] = {
    "message_size": "17M",
    "firewall": {"open": [8443]},
    "retention": {"trash_days": 17, "journal": "77M"},
    "host": {"name": "mail.example.test", "addresses": ["192.0.2.77"]},
}


def read_effective(on: Site) -> list[str]:
    """The settings that the running services report."""
    output = on.server.run(
        "for n in $(seq 100); do fail2ban-client get sshd ignoreip > /dev/null 2>&1 && break; sleep 0.2; done; "
        "nft list chain inet mailkeep input | grep -o 8443; fail2ban-client get sshd ignoreip | tr -d '`|-'; "
        "doveconf -n | grep autoexpunge; "
        "journalctl --sync; journalctl --output=cat --unit=systemd-journald --grep='^System' | tail -n 1 "
        "| grep -o ' max [^,]*'"
    )
    return sorted([*output.stdout.splitlines(), f"SIZE {read_offered_size(on)}"])


@pytest.fixture(scope="module")
def two_states(rerun_site: Site) -> dict[str, tuple[list[str], list[str]]]:
    """Two versions of mail.yml, each with the server's state and effective settings after an undisturbed deploy."""
    assert_success(rerun_site.deploy())
    first = rerun_site.settings_file.read_text()
    states = {first: (read_state(rerun_site), read_effective(rerun_site))}
    change_settings(rerun_site, **OTHER_SETTINGS)
    assert_success(rerun_site.deploy())
    states[rerun_site.settings_file.read_text()] = (read_state(rerun_site), read_effective(rerun_site))
    assert len({str(states[text]) for text in states}) == 2
    return states


def switch_settings(on: Site, states: dict[str, tuple[list[str], list[str]]]) -> tuple[list[str], list[str]]:
    """Write the other version of mail.yml; the state and effective settings that a deploy must reach."""
    (other,) = (text for text in states if text != on.settings_file.read_text())
    on.settings_file.write_text(other)
    return states[other]


@pytest.mark.parametrize("after", [round(KILLS.uniform(0.8, 3.5), 2) for _ in range(5)])
def test_an_update_killed_at_a_random_point_is_finished_by_the_next_run(
    rerun_site: Site, two_states: dict[str, tuple[list[str], list[str]]], after: float
) -> None:
    goal = switch_settings(rerun_site, two_states)
    kill_deploy(
        rerun_site,
        after,
        KILLS.choice((RunningDeploy.kill_locally, RunningDeploy.kill_session, RunningDeploy.kill_machine)),
    )
    assert_success(rerun_site.deploy())
    assert diff_states(read_state(rerun_site), goal[0]) == []
    assert read_effective(rerun_site) == goal[1]


@pytest.mark.parametrize(("program", "call"), [("cp", 2), ("mv", 2), ("systemctl", 2)])
def test_an_update_killed_between_two_of_its_steps_is_finished_by_the_next_run(
    rerun_site: Site, two_states: dict[str, tuple[list[str], list[str]]], program: str, call: int
) -> None:
    """A wrapper, earlier in PATH than the program, kills its caller at this call.

    It counts the calls of shell scripts alone, because the watch calls systemctl too.
    """
    goal = switch_settings(rerun_site, two_states)
    wrapper = f"/usr/local/bin/{program}"
    rerun_site.server.write(
        wrapper,
        f'#!/bin/sh\n/usr/bin/{program} "$@"; done=$?\n[ "$(cat /proc/$PPID/comm)" = sh ] || exit $done\n'
        f"echo >> /run/calls; [ $(wc -l < /run/calls) -lt {call} ] || kill -KILL $PPID\nexit $done\n",
        mode=0o755,
    )
    result = rerun_site.deploy()
    rerun_site.server.run(f"/usr/bin/rm {wrapper} /run/calls")  # rm would fail if the wrapper had not been called
    assert result.code != 0
    assert read_state(rerun_site) != goal[0]
    assert_success(rerun_site.deploy())
    assert diff_states(read_state(rerun_site), goal[0]) == []
    assert read_effective(rerun_site) == goal[1]
    assert assert_success(rerun_site.deploy()).changed == []


# --- users and hosts ------------------------------------------------------------------------------------------------


def test_a_user_with_sudo_can_deploy(settled_site: Site) -> None:
    settled_site.server.run(
        "useradd --create-home --shell /bin/bash deployer && cp -r /root/.ssh /home/deployer/ && "
        "chown -R deployer: /home/deployer/.ssh && echo 'deployer ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/deployer"
    )
    inventory = settled_site.inventory / "inventory.py"
    as_root = inventory.read_text()
    inventory.write_text(as_root.replace('"ssh_config_file"', '"ssh_user": "deployer", "ssh_config_file"'))
    try:
        change_account(settled_site, ANNA, quota="123M")
        assert len(assert_success(settled_site.deploy()).changed) == 1
        wait_for_quota(settled_site, 123)
        assert assert_success(settled_site.deploy()).changed == []
        logins = "journalctl --sync; journalctl --quiet --output=cat --unit=ssh.service --grep='^Accepted'"
        accepted_logins = settled_site.server.run(logins).stdout
        assert "for deployer" in accepted_logins.splitlines()[-1]
    finally:
        inventory.write_text(as_root)


COLLECT_ARGUMENTS = """
import glob, os, time
texts = set()
while not os.path.exists("/run/spied"):
    for process in glob.glob("/proc/[0-9]*"):
        for file in ("cmdline", "environ"):
            try:
                texts.add(open(process + "/" + file, "rb").read().replace(bytes(1), b" "))
            except OSError:  # the process has ended
                pass
print(*(text.decode(errors="replace") for text in texts), sep=chr(10))
"""


@contextmanager
def spy_on(server: Server) -> Iterator[list[str]]:
    """Collects the argument lists and environments of all processes on the machine, in a busy loop."""
    collected: list[str] = []
    server.run("rm -f /run/spied")
    collector = threading.Thread(
        target=lambda: collected.append(server.run("python3 -", stdin=COLLECT_ARGUMENTS).stdout)
    )
    collector.start()
    try:
        yield collected
    finally:
        server.run("touch /run/spied")
        collector.join()


def test_no_secret_is_in_any_output_or_argument_list(settled_site: Site) -> None:
    secret = [file for part in server_parts(settled_site) for file in part.files if file.secret]
    lines = {line for file in secret for line in file.content.decode().splitlines() if len(line) > 30}
    settled_site.server.run(f"rm {' '.join(file.path for file in secret)}")
    with spy_on(settled_site.server) as collected:
        result = assert_success(settled_site.deploy("--debug", "-vvv", "--diff"))
    assert "Files" in " ".join(result.changed)
    assert f"{secret[0].path}" in result.output
    assert "/run/mailkeep/stage" in collected[0], "the spy has seen nothing of the deploy"
    encoded = {base64.b64encode(line.encode())[:-4].decode() for line in lines}
    for text in (result.output, collected[0]):
        assert not [line for line in lines | encoded if line in text]


def test_hosts_of_one_inventory_are_deployed_to_in_parallel(settled_site: Site, boot_copy: Copy) -> None:
    sites = [settled_site, boot_copy("twin")]
    for site in sites:
        sessions.log_commands(site.server)
        change_settings(site, message_size="19M")
    rows = [
        f'("{site.server.name}", {{"mailkeep": "{site.settings_file}", "ssh_config_file": "{site.server.ssh_config}"}})'
        for site in sites
    ]
    (sites[0].inventory / "inventory.py").write_text(f"hosts = [{', '.join(rows)}]\n")

    result = assert_success(sites[0].deploy())

    names = {site.server.name for site in sites}
    assert {name for operation in result.report["results"]["operations"] for name in operation["success"]} == names
    assert [read_offered_size(site) for site in sites] == [19 * 2**20] * 2
    (first_starts, first_ends), (second_starts, second_ends) = (read_busy_period(site.server) for site in sites)
    assert first_starts < second_ends
    assert second_starts < first_ends


def read_busy_period(server: Server) -> tuple[float, float]:
    """The start of a deploy's first and last remote command, in seconds since the epoch."""
    journal = server.run("journalctl --sync; journalctl --quiet --output=short-unix --unit=ssh.service").stdout
    own_port = server.run('echo "$SSH_CONNECTION"').stdout.split()[1]
    times = [
        float(line.split()[0])
        for line in journal.splitlines()
        if "Starting session: " in line and f" port {own_port} " not in line
    ]
    return times[0], times[-1]
