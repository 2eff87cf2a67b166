"""A plan says exactly what a deploy then does, shows no secrets, and touches nothing."""

import json
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailkeep.host.plan import Change, list_changes, print_plan
from mailkeep.host.snapshot import PathState, Snapshot
from mailkeep.lab import Internet, Lab, Server
from mailkeep.lab.site import DeployResult, Site, create_site
from mailkeep.parts import mail_server
from mailkeep.parts.model import File, Part

Boot = Callable[..., Server]
Copy = Callable[[str], Site]
Capture = pytest.CaptureFixture[str]

POWERLESS = "ann is not root, and sudo says: sudo: a password is required"
# The files on the disk and the state of each unit with its time; left out are files that daemons write at any time, and
# milters that end when idle.
FINGERPRINT = """
find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/log \
  -o -path /var/lib/fail2ban -o -path /var/lib/unbound -o -path /var/lib/systemd -o -path /var/spool/postfix \
  -o -path /var/lib/dovecot -o -path /var/lib/postfix \\) -prune -o -printf '%p %y %m %U %G %s %T@ %C@ %l\\n' | sort
ls -lR --full-time /run/mailkeep 2>&1
systemctl show --property=Id,ActiveState,StateChangeTimestampMonotonic,InvocationID '*.service' |
  grep -v -e session -e user@ -e ssh -e mailkeep-inbound -e mailkeep-lines"""
DRIFT = """
set -e
# The watch and the proof of the jails write files when they see the drift; here only the plan may touch the server.
systemctl stop mailkeep-watch mailkeep-jails.timer mailkeep-jails
sed -i 's/^smtpd_banner = .*/smtpd_banner = drifted/' /etc/postfix/main.cf
chmod 640 /etc/postfix/master.cf
rm /etc/mailname
echo x >> /etc/mailkeep/tls/server.pem
for key in /etc/opendkim/keys/example.test.*; do sed -i 's/A/B/g' "$key"; done
chmod 700 /etc/mailkeep
systemctl -q stop unbound
systemctl -q disable logrotate.timer
gpasswd --delete postfix opendkim
apt-get -qq remove -y fail2ban > /dev/null 2>&1"""


def run_plan(on: Site, capture: Capture) -> tuple[int, dict[str, Any]]:
    """The exit code of the plan, and its JSON for the inventory's only host."""
    capture.readouterr()
    code = print_plan(on.inventory, json=True)
    (host,) = json.loads(capture.readouterr().out)["hosts"].values()
    return code, host


def list_operations(host: dict[str, Any]) -> set[str]:
    return {change["operation"] for change in host["changes"]}


def list_files(host: dict[str, Any]) -> set[str]:
    actions = (change["action"] for change in host["changes"] if change["operation"].startswith("Files"))
    return {action.split(":")[0] for action in actions if not action.startswith("make ") and "/:" not in action}


def list_deployed_files(result: DeployResult) -> set[str]:
    return set(re.findall(r"(?:new|content|access) +(/\S+)", result.output))


def secret_lines(on: Site) -> list[str]:
    """The lines of every secret file that the host gets."""
    secret = (file for part in mail_server.build_parts(on.settings, on.secrets) for file in part.files if file.secret)
    lines = (line for file in secret for line in file.content.decode().splitlines())
    return [line for line in lines if len(line) >= 16 and "PRIVATE KEY" not in line]


def test_on_a_bare_machine_everything_is_new_and_nothing_is_touched(
    lab: Lab, internet: Internet, base_server: Boot, first_deploy: DeployResult, capsys: Capture
) -> None:
    server = base_server("bare", hostname="mail.example.test")
    internet.resolve_for(server)
    bare = create_site(lab, server)
    before = server.run(FINGERPRINT).stdout
    code, host = run_plan(bare, capsys)
    assert {*server.run(FINGERPRINT).stdout.splitlines()} ^ {*before.splitlines()} == set()
    assert (code, host["problems"]) == (2, [])
    assert list_operations(host) == set(first_deploy.changed)
    # Debian's package writes /etc/mailname at installation, with the declared content.
    assert list_files(host) - {"/etc/mailname"} == list_deployed_files(first_deploy) - {"/etc/mailname"}
    actions = {change["action"] for change in host["changes"]}
    assert {"install postfix", "install dovecot-imapd", "add the user vmail"} <= actions
    assert not [line for line in secret_lines(bare) if line in json.dumps(host)]


def test_after_a_deploy_there_is_nothing_to_do(built_site: Site, capsys: Capture) -> None:
    assert run_plan(built_site, capsys) == (
        0,
        {"error": "", "problems": [], "warnings": [], "changes": [], "losses": [], "kept": []},
    )
    assert print_plan(built_site.inventory) == 0
    assert capsys.readouterr().out == "mail: nothing to do\n"


def test_the_plan_for_a_drifted_server_is_what_a_deploy_then_does(boot_copy: Copy, capsys: Capture) -> None:
    drifted = boot_copy("drifted")
    drifted.server.run(DRIFT)
    text = drifted.settings_file.read_text()
    drifted.settings_file.write_text(
        text.replace("- address: anna@example.test\n", "- address: anna@example.test\n  quota: 3G\n")
    )
    before = drifted.server.run(FINGERPRINT).stdout
    code, host = run_plan(drifted, capsys)
    print_plan(drifted.inventory)
    shown = capsys.readouterr().out
    assert drifted.server.run(FINGERPRINT).stdout == before
    assert code == 2
    actions = {change["action"] for change in host["changes"]}
    assert {
        "install fail2ban",
        "add postfix to the group opendkim",
        "/etc/mailkeep/: root:root 0700 becomes root:root 0755",
        "/etc/postfix/main.cf: content differs",
        "/etc/postfix/master.cf: root:root 0640 becomes root:root 0644",
        "/etc/dovecot/users: content differs (secret)",
        "/etc/mailkeep/tls/server.pem: content differs (secret)",
        "start unbound.service",
        "enable logrotate.timer",
        "start fail2ban.service",
        "reload postfix.service",
    } <= actions
    diffs = {change["action"].split(":")[0]: change["diff"] for change in host["changes"] if change["diff"]}
    assert set(diffs) == {"/etc/postfix/main.cf"}
    assert "-smtpd_banner = drifted\n+smtpd_banner = $myhostname ESMTP\n" in diffs["/etc/postfix/main.cf"]
    assert "-smtpd_banner = drifted" in shown
    assert "\x1b" not in shown  # not a terminal
    key = drifted.server.run("cat /etc/opendkim/keys/example.test.*").stdout
    for line in [*secret_lines(drifted), *key.splitlines()[1:-1]]:
        assert line not in shown
        assert line not in json.dumps(host)
    assert "argon2" not in shown + json.dumps(host)

    result = drifted.deploy()
    assert result.code == 0, result.output
    assert list_operations(host) == set(result.changed)
    assert list_files(host) == list_deployed_files(result)
    assert run_plan(drifted, capsys)[0] == 0


def test_a_host_that_a_deploy_would_refuse_is_an_error_with_its_reasons(
    lab: Lab, base_server: Boot, capsys: Capture
) -> None:
    refused = create_site(lab, base_server("refused", hostname="vps"))
    refused.settings_file.write_text(
        refused.settings_file.read_text() + "ssh:\n  port: 2222\nrelay:\n  host: relay.outside.test\n  port: 587\n"
    )
    code, host = run_plan(refused, capsys)
    assert (code, len(host["problems"]), host["changes"]) == (1, 2, [])
    assert print_plan(refused.inventory) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "hostnamectl set-hostname mail.example.test" in printed.err
    assert "relay.outside.test does not answer" in printed.err


def test_hosts_that_cannot_be_read_are_named_with_a_remedy(boot_copy: Copy, tmp_path: Path, capsys: Capture) -> None:
    several = boot_copy("several")
    for name in ("key", "ann"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    several.server.run(
        "useradd --create-home --shell /bin/bash ann && echo ann:correct-horse | chpasswd && usermod -aG sudo ann;"
        " rm /etc/ssh/sshd_config.d/10-mailkeep.conf; systemctl reload ssh;"
        " install -d -o ann -m 700 /home/ann/.ssh; cat >/home/ann/.ssh/authorized_keys",
        stdin=(tmp_path / "ann.pub").read_text(),
    )
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    config, ann = several.server.ssh_config, {"ssh_user": "ann", "ssh_key": str(tmp_path / "ann")}
    known = {"mailkeep": str(several.settings_file), "ssh_config_file": str(config)}
    ssh_port = re.search(r"Port (\d+)", config.read_text())
    assert ssh_port
    scan = ["ssh-keyscan", "-p", ssh_port[1], "127.0.0.1"]
    (tmp_path / "known").write_bytes(subprocess.run(scan, capture_output=True, check=True).stdout)
    direct = {
        "mailkeep": str(several.settings_file),
        "ssh_config_file": "/dev/null",
        "ssh_known_hosts_file": str(tmp_path / "known"),
    }
    localhost = direct | {"ssh_hostname": "127.0.0.1", "ssh_port": int(ssh_port[1]), "ssh_look_for_keys": False}
    hosts = [
        (several.server.name, known),
        ("unreachable", direct | {"ssh_hostname": "127.0.0.1", "ssh_port": port}),
        ("unknown", direct | {"ssh_hostname": "nowhere.invalid"}),
        ("wrong-key", localhost | {"ssh_user": "root", "ssh_key": str(tmp_path / "key")}),
        ("powerless", localhost | ann | {"ssh_allow_agent": False}),
    ]
    (several.inventory / "inventory.py").write_text(f"hosts = {hosts!r}\n")
    assert print_plan(several.inventory) == 1
    printed = capsys.readouterr()
    assert "reload ssh.service" in printed.out  # the errors of other hosts do not hide the changes on the first
    errors = dict(line.split(": ", 1) for line in printed.err.splitlines() if re.match(r"[\w-]+: ", line))
    assert "Connection refused" in errors["unreachable"]
    assert "Could not resolve hostname" in errors["unknown"]
    ssh = f"ssh -F /dev/null -oUserKnownHostsFile={tmp_path}/known"
    assert f"`{ssh} nowhere.invalid` must log in without asking anything" in errors["unknown"]
    assert "Permission denied" in errors["wrong-key"]
    assert re.search(rf"-l root -p {ssh_port[1]} -i {tmp_path}/key .* 127.0.0.1` must log in", errors["wrong-key"])
    assert POWERLESS in printed.err
    assert "Traceback" not in printed.err

    # Without a terminal a deploy says so too, where pyinfra would ask for a password.
    powerless = localhost | ann | {"ssh_allow_agent": False, "_sudo": True}
    (several.inventory / "inventory.py").write_text(f"hosts = [('powerless', {powerless!r})]\n")
    result = several.deploy()
    assert result.code == 1
    assert POWERLESS in result.output
    assert "Traceback" not in result.output


def test_a_live_file_that_is_not_world_readable_is_not_shown() -> None:
    file = File("/etc/x.conf", b"a\n")
    actual = Snapshot(paths={"/etc/x.conf": PathState("regular file", "root", "root", 0o600, "digest")})
    (change,) = list_changes((Part("x", files=(file,)),), actual, {})
    assert change == Change(
        "Files: checked, then put in place",
        "/etc/x.conf: content differs (not shown: it is not world-readable), root:root 0600 becomes root:root 0644",
    )
