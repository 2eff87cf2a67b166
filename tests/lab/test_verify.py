"""`mailkeep verify` passes on a server that Mailkeep built, and each check fails once its hardening is removed."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mailkeep.inventory.hosts import read_hosts
from mailkeep.lab import poll
from mailkeep.lab.site import Site
from mailkeep.parts import mail_server
from mailkeep.verify.outcome import Outcome
from mailkeep.verify.verification import verify_and_report, verify_inventory
from mailkeep_server.common.jail_canaries import LOCK

Boot = Callable[[], Site]

# tests/verify breaks four checks. A container's clock is its host's, and no certificate ends within a test. Every lab
# has IPv6. test_backup breaks the backups, test_spam the spam filter, test_web the checks of HTTPS,
# test_foreign_machine those of addresses and mailboxes.
BACKUPS = {"mail_comes_back_from_each_backup", "every_target_has_a_backup"}
FILTER = {"spam_is_refused_or_sorted", "spam_of_accounts_counts"}
HTTPS = {"what_is_served_over_https_can_be_had", "nothing_else_is_served_over_https"}
BROKEN_ELSEWHERE = {
    "the_clock_is_right",
    "the_clock_is_kept",
    "the_certificate_lasts",
    "what_cannot_be_tried_from_here_is_said",
    "every_mailbox_can_be_written",
    "the_server_has_the_declared_addresses",
    *BACKUPS,
    *HTTPS,
    *FILTER,
}

# Shell scripts by the names of the checks that each makes fail; a check with a question mark warns. All scripts of a
# group run on the same copy of the built server, and then exactly these checks fail there.
PRELUDE = """
set -eu
dovecot=/etc/dovecot/dovecot.conf
main() { for setting; do echo "$setting" >>/run/main.cf; done; }
keep() { cp -a "$1" "/run/${1##*/}"; }
put_back() { cat "/run/${1##*/}" >"$1"; touch -r "/run/${1##*/}" "$1"; }
"""
SMTP_AND_LOGIN = {
    "linux_accounts_cannot_log_in passwords_are_looked_up_in_the_accounts_file_only": (
        """
        printf 'passdb pam {\\n}\\nuserdb passwd {\\n}\\n' >>$dovecot
        sed -i 's/user = $SET:default_internal_user/user = root/' $dovecot"""
    ),
    "no_login_on_port_25": "main smtpd_sasl_auth_enable=yes",
    "no_login_before_encryption": """
        main smtpd_tls_auth_only=no
        sed -i 's/smtpd_tls_security_level=encrypt/smtpd_tls_security_level=may/' /etc/postfix/master.cf
        sed -i 's/^auth_allow_cleartext.*/auth_allow_cleartext = yes/; s/^ssl = required/ssl = yes/' $dovecot""",
    "accounts_send_as_themselves_only": "main submission_sender_restrictions=permit_sasl_authenticated",
    "nobody_relays postfix_serves_what_is_declared_only": """
        main mynetworks=0.0.0.0/0 smtpd_relay_restrictions=permit_mynetworks,reject_unauth_destination""",
    "our_names_are_not_spoofed": "main smtpd_sender_restrictions=",
    "our_domains_are_not_forged_in_from forgeries_are_refused_as_their_domain_asks mail_that_comes_in_is_bounded": (
        "main smtpd_milters= header_checks="
    ),
    "unknown_recipients_are_refused": "main smtpd_recipient_restrictions= smtpd_reject_unlisted_recipient=no",
    "addresses_cannot_be_harvested": "main disable_vrfy_command=no",
    "clients_say_who_they_are": "main smtpd_helo_required=no",
    "no_mail_is_smuggled": "main smtpd_forbid_bare_newline=no",
    "talking_out_of_turn_is_refused": "main smtpd_forbid_unauth_pipelining=no smtpd_data_restrictions=",
    "old_tls_is_refused weak_ciphers_are_refused": """
        main 'smtpd_tls_protocols=>=TLSv1' smtpd_tls_exclude_ciphers= tls_high_cipherlist=ALL:@SECLEVEL=0""",
    "alerts_get_past_everything_and_nothing_else_does": "main alert_relay_restrictions=reject_unauth_destination",
    "local_programs_cannot_send": "main authorized_submit_users=static:anyone",
    "the_guard_bounds_what_accounts_send": "main submission_end_of_data_restrictions=",
    "local_programs_have_a_limit": "main non_smtpd_milters=",
    "who_is_frozen_cannot_log_in": "sed -i '/deny = yes/d' $dovecot",
    "": "xargs -d '\\n' postconf -e </run/main.cf; systemctl restart postfix dovecot",
}
THE_REST = {
    "the_postmaster_of_the_host_can_be_reached the_postmasters_of_the_domains_can_be_reached? "
    # These checks need an address that accepts mail.
    "our_names_are_not_spoofed our_domains_are_not_forged_in_from forgeries_are_refused_as_their_domain_asks "
    "no_mail_is_smuggled talking_out_of_turn_is_refused": """
        sed -i '/^postmaster/d' /etc/postfix/aliases
        systemctl restart postfix""",
    "mail_is_served_on_every_declared_address": """
        sed -i 's/^listen = .*/listen = */' $dovecot
        systemctl restart dovecot""",
    # As in one of the incidents: the jail looks healthy.
    "every_jail_notices_guesses": "printf '[sshd]\\njournalmatch = _COMM=x\\n' >>/etc/fail2ban/jail.d/zz.local",
    "jails_of_the_operator_ban_too?": """
        printf '[mine]\\nenabled = true\\nfilter = sshd\\nport = imap3\\n' >>/etc/fail2ban/jail.d/zz.local""",
    "every_jail_bans_in_the_firewall the_server_does_not_ban_itself": """
        printf '[dovecot]\\nport = imap3,imaps\\n' >>/etc/fail2ban/jail.d/zz.local
        printf 'ignoreself = no\\nignoreip =\\nmaxretry = 999\\n' >>/etc/fail2ban/jail.d/zz.local
        systemctl restart fail2ban
        until nft list chain inet f2b-table f2b-chain >/dev/null 2>&1; do sleep 0.2; done""",
    "fail2ban_would_start_again": """
        printf '[lost]\\nenabled = true\\nbackend = polling\\nfilter = sshd\\nlogpath = /nonexistent\\n' \\
            >>/etc/fail2ban/jail.d/zz.local""",
    "nothing_passes_before_the_jails_drop_it": """
        nft insert rule inet f2b-table f2b-chain ip saddr 192.0.2.0/24 accept""",
    "no_other_firewall_closes_our_ports strangers_reach_every_service": """
        nft add table inet other
        nft "add chain inet other input { type filter hook input priority 10; }"
        nft add rule inet other input iif != lo tcp dport 993 drop""",
    # Twice, because the first start may only join a proof that is already running.
    "jails_are_proven_by_themselves": "systemctl start mailkeep-jails; systemctl start mailkeep-jails",
    "the_watch_looks_at_everything nothing_was_added_to_the_services?": """
        mkdir /run/systemd/system/mailkeep-watch.service.d
        printf '[Service]\\nInaccessiblePaths=/usr/sbin/nft\\n' >/run/systemd/system/mailkeep-watch.service.d/blind.conf
        systemctl daemon-reload; systemctl restart mailkeep-watch""",
    "nothing_else_listens": "systemd-run --quiet --unit=stray python3 -m http.server 8080",
    "the_firewall_lets_in_the_declared_ports_only the_firewall_is_exactly_as_declared": """
        nft add rule inet mailkeep input tcp dport 8081 accept""",
    "blocked_networks_are_blocked": "nft add element inet mailkeep blocked6 '{ 2001:db8:bad::/48 }'",
    "local_programs_cannot_reach_other_mail_servers": "nft flush chain inet mailkeep output",
    "containers_cannot_reach_other_mail_servers": "nft insert rule inet mailkeep forward tcp dport 25 accept",
    "mail_gets_out?": "nft add rule inet mailkeep output oif != lo tcp dport 25 drop",
    "the_resolver_validates_and_is_private": """
        printf 'server:\\n  module-config: iterator\\n' >>/etc/unbound/unbound.conf.d/mailkeep.conf""",
    "signatures_can_be_verified?": """
        name=$(sed -n 's/.* example.test:\\([^:]*\\):.*/\\1._domainkey.example.test/p' /etc/opendkim/key.table)
        echo "  local-data: '$name TXT \\"v=DKIM1; p=AAAA\\"'" >>/etc/unbound/unbound.conf.d/mailkeep.conf
        systemctl restart unbound""",
    "nobody_is_frozen?": "mailkeepctl freeze ben@example-two.test",
    "mail_is_signed": """
        openssl genrsa 2>/dev/null >$(ls /etc/opendkim/keys/example.test.*)
        systemctl restart opendkim""",
    "private_sockets_are_private": "chmod 755 /run/opendkim; chmod 666 /run/opendkim/opendkim.sock",
    "secrets_are_private": "chmod 644 /etc/dovecot/users",
    "the_declared_certificate_is_shown": """
        openssl req -quiet -x509 -newkey rsa:2048 -nodes -subj /CN=mail.example.test \\
            -keyout - -out - >/etc/mailkeep/tls/server.pem
        systemctl reload postfix dovecot""",
    "ssh_takes_no_passwords every_way_into_ssh_needs_a_key": """
        sed -i 's/^PasswordAuthentication no/PasswordAuthentication yes/' /etc/ssh/sshd_config.d/10-mailkeep.conf
        systemctl reload ssh""",
    "services_run_and_start_at_boot": "systemctl disable --quiet --now logrotate.timer",
    "nothing_has_failed": "systemd-run --quiet --wait --unit=failing false || systemctl is-failed failing",
    "services_run_what_is_installed": """
        cp /usr/bin/sleep /usr/bin/old-sleep
        systemd-run --quiet --unit=old --service-type=exec /usr/bin/old-sleep infinity
        rm /usr/bin/old-sleep""",
    "security_fixes_come_by_themselves nobody_new_can_become_root?": """
        echo 'APT::Periodic::Unattended-Upgrade "0";' >/etc/apt/apt.conf.d/99off""",
    "no_reboot_is_due?": "touch /run/reboot-required",
    "the_logs_cannot_fill_the_disk": """
        sed -i 's/^SystemMaxUse=.*/SystemMaxUse=2G/' /etc/systemd/journald.conf.d/mailkeep.conf
        systemctl restart systemd-journald""",
    "the_disks_have_room": """
        mount -t tmpfs -o size=1M,mode=700,uid=vmail,gid=vmail tmpfs /var/vmail
        head -c 1000000 /dev/zero >/var/vmail/full""",
    "the_queue_is_short? the_guard_runs_as_declared": """
        postconf -e 'defer_transports = lmtp' authorized_submit_users=root
        systemctl reload postfix
        sed -i 's/"recipients_per_hour": 100,/"recipients_per_hour": 1000,/' /etc/mailkeep/guard.json
        systemctl reload mailkeep-guard
        for message in $(seq 210); do sendmail anna@example.test </dev/null; done""",
    # The watch reports the disk, the queue and the timer after seeing each twice.
    "the_watch_finds_nothing_amiss?": """
        until grep -q 'queue is long' /run/mailkeep-watch/looked.json; do sleep 0.2; done""",
}
# The files are as declared again, or never were Mailkeep's. What runs, and what was added, is not.
RUNNING = {
    "the_guard_runs_as_declared services_have_read_their_configuration": """
        keep /etc/mailkeep/guard.json
        sed -i 's/"mode": "enforce"/"mode": "learn"/' /etc/mailkeep/guard.json
        systemctl reload mailkeep-guard
        until mailkeepctl limits --json | grep -q '"mode": "learn"'; do sleep 0.1; done
        put_back /etc/mailkeep/guard.json
        keep $dovecot
        printf 'passdb more {\\n  driver = passwd-file\\n  passwd_file_path = /etc/dovecot/more\\n}\\n' >>$dovecot
        systemctl reload dovecot
        put_back $dovecot""",
    "postfix_serves_what_is_declared_only": """
        keep /etc/postfix/master.cf
        printf '127.0.0.1:10026 inet n - n - - smtpd\\n  -o mynetworks=127.0.0.0/8 -o smtpd_sender_restrictions=\\n' \\
            >>/etc/postfix/master.cf
        printf '  -o smtpd_recipient_restrictions=permit_mynetworks,reject\\n' >>/etc/postfix/master.cf
        printf '  -o smtpd_relay_restrictions=permit_mynetworks,reject\\n' >>/etc/postfix/master.cf
        systemctl reload postfix
        until ss -Hltn | grep -q 127.0.0.1:10026; do sleep 0.1; done
        put_back /etc/postfix/master.cf""",
    "every_way_into_ssh_needs_a_key nothing_was_added_to_the_services?": """
        printf 'Match User anna\\n  PasswordAuthentication yes\\n' >/etc/ssh/sshd_config.d/20-more.conf""",
    "nobody_new_can_become_root?": """
        printf 'AuthorizedKeysFile .ssh/authorized_keys /etc/more_keys\\n' >/etc/ssh/sshd_config.d/05-keys.conf
        ssh-keygen -q -t ed25519 -N '' -C second -f /run/second && cat /run/second.pub >/etc/more_keys
        ssh-keygen -q -t ed25519 -N '' -C third -f /run/third && cat /run/third.pub >>/root/.ssh/authorized_keys
        useradd --non-unique --uid 0 --no-create-home toor
        useradd --no-create-home --groups disk carl
        echo 'carl ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/carl
        mkdir -p /etc/cron.d && echo '0 3 * * * root date | sendmail you@outside.test' >/etc/cron.d/report
        printf '[Service]\\nExecStart=/usr/bin/sleep infinity\\n' >/etc/systemd/system/more.service
        install -m 4755 /usr/bin/id /usr/local/bin/more""",
    "services_have_their_sandboxes nothing_was_added_to_the_services?": """
        mkdir -p /etc/systemd/system/mailkeep-watch.service.d /run/systemd/system/opendkim.service.d
        printf '[Service]\\nProtectSystem=no\\n' >/etc/systemd/system/mailkeep-watch.service.d/zz.conf
        printf '[Service]\\nNoNewPrivileges=no\\nCapabilityBoundingSet=~\\n' \\
            >/run/systemd/system/opendkim.service.d/zz.conf
        systemctl daemon-reload; systemctl restart mailkeep-watch opendkim
        rm /run/systemd/system/opendkim.service.d/zz.conf
        systemctl daemon-reload""",
    "services_come_back nothing_was_added_to_the_services?": """
        mkdir -p /etc/systemd/system/unbound.service.d
        printf '[Unit]\\nStartLimitIntervalSec=10\\n[Service]\\nRestart=no\\n' \\
            >/etc/systemd/system/unbound.service.d/zz.conf
        systemctl daemon-reload; systemctl restart unbound""",
    "only_root_changes_the_configuration": "chmod 777 /etc/dovecot",
    "nobody_writes_results_in_our_name": """
        sed -i 's/"host": "mail.example.test"/"host": "other.example.test"/' /etc/mailkeep/inbound.json
        systemctl restart mailkeep-inbound""",
    "passwords_are_looked_up_in_the_accounts_file_only": """
        printf 'passdb other {\\n  driver = passwd-file\\n  passwd_file_path = /etc/dovecot/other\\n}\\n' >>$dovecot""",
}
MARKS = {"failed": "", "warning": "?", "passed": "+", "skipped": "+"}
ADDITIONS = (
    "uid0:toor",
    "group:disk:carl",
    "sudo:/etc/sudoers.d/carl@",
    "job:/etc/cron.d/report@",
    "unit:/etc/systemd/system/more.service@",
    "setuid:/usr/local/bin/more@",
    "sshd:authorizedkeysfile:.ssh/authorized_keys /etc/more_keys",
    "second, in /etc/more_keys",
    "third, in /root/.ssh/authorized_keys",
)


def test_each_way_to_become_root_that_was_added_is_a_line_until_it_is_accepted(boot_copy: Boot) -> None:
    site = boot_copy()
    site.server.run(PRELUDE + RUNNING["nobody_new_can_become_root?"])

    outcome = find_outcome(site, "nobody_new_can_become_root")

    assert outcome.status == "warning"
    assert [text for text in ADDITIONS if text not in outcome.observed] == []
    names = [line.partition("  ")[0] for line in outcome.observed.splitlines()]
    accepted = "".join(f"  - {json.dumps(name)}\n" for name in names)
    site.settings_file.write_text(f"{site.settings_file.read_text()}\naccepted:\n{accepted}")
    assert find_outcome(site, "nobody_new_can_become_root").status == "passed"

    # A deploy does not take them over either.
    assert site.deploy().code == 0
    site.settings_file.write_text(site.settings_file.read_text().partition("\naccepted:")[0])
    assert find_outcome(site, "nobody_new_can_become_root").observed == outcome.observed


def find_outcome(site: Site, check: str) -> Outcome:
    return next(outcome for outcome in verify_inventory(site.inventory) if outcome.check == check)


@pytest.mark.parametrize(
    "breakages", [SMTP_AND_LOGIN, THE_REST, RUNNING], ids=["smtp-and-login", "the-rest", "what-runs"]
)
def test_exactly_the_checks_fail_whose_hardening_is_removed(boot_copy: Boot, breakages: dict[str, str]) -> None:
    site = add_correspondent(boot_copy())
    site.server.run(PRELUDE + "\n".join(breakages.values()))

    outcomes = verify_inventory(site.inventory)

    names = {name for names in breakages for name in names.split()}
    observed = {f"{outcome.check}{MARKS[outcome.status]}": outcome.observed for outcome in outcomes}
    assert {name: text for name, text in observed.items() if not name.endswith("+") and name not in names} == {}
    assert sorted(names - observed.keys()) == []


def test_every_check_is_broken_by_some_test(built_site: Site) -> None:
    broken = {
        name.removesuffix("?")
        for group in (SMTP_AND_LOGIN, THE_REST, RUNNING)
        for names in group
        for name in names.split()
    }
    assert {outcome.check for outcome in verify_inventory(built_site.inventory)} == broken | BROKEN_ELSEWHERE


def test_a_built_server_passes_and_is_left_as_it_was(built_site: Site) -> None:
    traces = """
        getent passwd mailkeep-probe; getent group mailkeep-probe
        ls -A /tmp /var/mail | grep -v ^systemd-private-; postqueue -j; nft list sets | grep elements"""
    before = built_site.server.run(traces, check=False).stdout

    outcomes = verify_inventory(built_site.inventory)

    checks = group_by_status(outcomes)
    assert [outcome for outcome in outcomes if outcome.status not in {"passed", "skipped"}] == []
    assert checks["skipped"] == {"the_clock_is_kept", "jails_of_the_operator_ban_too", *BACKUPS, *HTTPS, *FILTER}
    assert built_site.server.run(traces, check=False).stdout == before


def test_an_account_that_an_earlier_run_left_is_removed(boot_copy: Boot) -> None:
    site = boot_copy()
    site.server.run("useradd --system mailkeep-probe")

    assert verify_and_report(site.inventory)
    assert not has_probe_account(site)


def test_an_interrupted_probe_cleans_up_and_the_next_waits_for_it(
    boot_copy: Boot, capsys: pytest.CaptureFixture[str]
) -> None:
    site = boot_copy()
    with ThreadPoolExecutor(1) as pool:
        interrupted = pool.submit(verify_inventory, site.inventory)
        poll(lambda: has_probe_account(site), 20, "the probe has made no account")
        site.server.run("kill -HUP $(pgrep -f '[p]ython3 -I /tmp/')")
        assert verify_and_report(site.inventory), capsys.readouterr().out
        [outcome] = interrupted.result()

    assert (outcome.check, outcome.observed) == ("reachable", "the probe did not run: exit 1")
    assert not has_probe_account(site)
    # Under the lock, because the server's own proof of its jails bans such addresses for a moment too.
    assert "2001:db8:fa" not in site.server.run(f"flock {LOCK} nft list sets").stdout


def test_outgoing_mail_is_tried_with_the_server_of_a_correspondent(boot_copy: Boot) -> None:
    site = add_correspondent(boot_copy())
    assert "mail_gets_out" in group_by_status(verify_inventory(site.inventory))["passed"]


def test_a_deleted_firewall_is_noticed(boot_copy: Boot) -> None:
    site = boot_copy()
    site.server.run("nft delete table inet mailkeep")
    assert "the_firewall_lets_in_the_declared_ports_only" in group_by_status(verify_inventory(site.inventory))["failed"]


def test_services_that_are_down_fail_checks_rather_than_the_program(
    boot_copy: Boot, capsys: pytest.CaptureFixture[str]
) -> None:
    site = boot_copy()
    stopped = "postfix dovecot opendkim fail2ban unbound"
    site.server.run(f"systemctl stop {stopped}")
    poll(lambda: "dovecot.service is down" in site.server.run("cat /run/mailkeep-watch/looked.json").stdout, 20, "seen")

    assert not verify_and_report(site.inventory)

    output = capsys.readouterr().out
    assert "✗ Every service runs, and will after a reboot" in output
    assert "postfix.service: inactive, enabled" in output
    assert "✗ Nobody relays who has not logged in" in output  # a check that cannot be tried fails
    assert "✓ No other Linux user reads keys" in output
    assert "Traceback" not in output

    # As in a deploy, which verifies at its end: a fault that the proof saw while services were down is out of date.
    site.server.run("systemctl start mailkeep-jails")
    assert "fail2ban.sock" in site.server.run("cat /var/lib/mailkeep-watch/jails.json").stdout
    site.server.run(f"systemctl start {stopped}")
    assert group_by_status(verify_inventory(site.inventory)).keys() == {"passed", "skipped"}


def test_a_user_with_sudo_verifies_as_well_as_root(boot_copy: Boot) -> None:
    site = boot_copy()
    site.server.run("""
        useradd --create-home --user-group deployer
        echo "deployer ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/deployer
        cp -r /root/.ssh /home/deployer/ && chown -R deployer: /home/deployer/.ssh""")
    # Without the Control options, because ssh would share the lab's connections, which are root's.
    config = site.inventory / "deployer.ssh_config"
    lines = site.server.ssh_config.read_text().replace("User root", "User deployer").splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "Control" not in line))
    data = {"mailkeep": str(site.settings_file.resolve()), "ssh_config_file": str(config.resolve())}
    (site.inventory / "inventory.py").write_text(f"hosts = [({site.server.name!r}, {data!r})]")

    assert verify_and_report(site.inventory)
    assert "sudo" in site.server.run("journalctl --sync; journalctl -t sudo -o cat --grep deployer").stdout

    site.server.run("echo 'deployer ALL=(ALL) ALL' >/etc/sudoers.d/deployer; echo deployer:open-sesame | chpasswd")
    data |= {"_sudo_password": "open-sesame"}
    (site.inventory / "inventory.py").write_text(f"hosts = [({site.server.name!r}, {data!r})]")
    assert verify_and_report(site.inventory)


def test_a_host_that_cannot_be_reached_fails_beside_the_others(
    built_site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [(name, data)] = read_hosts(built_site.inventory).items()
    inventory = shutil.copytree(built_site.inventory, tmp_path / "two")
    nowhere = {"mailkeep": data["mailkeep"], "ssh_hostname": "127.0.0.1", "ssh_port": 1}
    (inventory / "inventory.py").write_text(f"hosts = [({name!r}, {data!r}), ('nowhere', {nowhere!r})]")

    assert not verify_and_report(inventory)
    output = capsys.readouterr().out
    assert "✗ nowhere: not reached: ssh: " in output
    assert "Connection refused" in output
    assert re.search(rf"^✓ {name}: \d+ checks passed", output, re.MULTILINE)

    assert verify_and_report(inventory, hosts=[name])


def test_the_json_report_has_all_that_the_text_shows(boot_copy: Boot, capsys: pytest.CaptureFixture[str]) -> None:
    site = boot_copy()
    site.server.run("touch /run/reboot-required; systemctl disable --quiet --now logrotate.timer")

    assert not verify_and_report(site.inventory, as_json=True)

    report = json.loads(capsys.readouterr().out)
    outcomes = {outcome["check"]: outcome for outcome in report["outcomes"]}
    assert report["passed"] is False
    assert outcomes["nobody_relays"]["status"] == "passed"
    assert outcomes["no_reboot_is_due"]["status"] == "warning"
    failed = outcomes["services_run_and_start_at_boot"]
    assert (failed["host"], failed["status"]) == ("copy", "failed")
    assert "logrotate.timer: inactive, disabled" in failed["observed"]
    assert failed["expected"] == "active and enabled"
    assert "mailkeep deploy" in failed["remedy"]


def test_a_warning_is_no_failure(boot_copy: Boot) -> None:
    site = boot_copy()
    site.server.run("touch /run/reboot-required")
    assert verify_and_report(site.inventory)


def test_verify_runs_from_any_directory_with_any_pytest_configuration(built_site: Site, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError\n")
    program = (
        "import sys, pathlib; from mailkeep.verify.verification import verify_and_report; "
        "sys.exit(not verify_and_report(pathlib.Path(sys.argv[1])))"
    )

    process = subprocess.run(
        [sys.executable, "-c", program, str(built_site.inventory.resolve())],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": "--no-such-option", "PYTEST_PLUGINS": "no.such.plugin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stderr == ""
    assert "\x1b" not in process.stdout
    marks = {line.strip()[0] for line in process.stdout.splitlines()[1:-1] if line.startswith("  ") and line[2] != " "}
    assert marks == {"✓", "-"}, process.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conftest.py", "pytest.ini"]


def test_the_password_of_the_probe_is_in_no_process_list(built_site: Site) -> None:
    """The kernel's audit of executed programs is not available in a container.

    So each command to which the probe could pass the password is replaced by one that records its arguments.
    """
    built_site.server.run("""
        mkdir -p /run/spy && for name in useradd chpasswd userdel; do
            spy=/usr/local/sbin/$name
            printf '#!/bin/sh\\necho "$0 $*" >>/run/spy/arguments; exec /usr/sbin/%s "$@"\\n' $name >$spy
            chmod 755 $spy
        done""")
    try:
        verify_inventory(built_site.inventory)
        arguments = built_site.server.run("cat /run/spy/arguments").stdout.splitlines()
    finally:
        built_site.server.run("rm -r /run/spy /usr/local/sbin/useradd /usr/local/sbin/chpasswd /usr/local/sbin/userdel")
    assert "/usr/local/sbin/chpasswd " in arguments
    assert all(not any(len(word) > 25 and "/" not in word for word in line.split()) for line in arguments), arguments


@pytest.fixture
def boot_copy(boot_copy: Boot) -> Boot:
    """As elsewhere, but with the built server's resolver: a machine boots with the lab's."""

    def boot_site() -> Site:
        site = boot_copy()
        site.server.write("/etc/resolv.conf", declared_content(site, "/etc/resolv.conf"))
        return site

    return boot_site


def declared_content(site: Site, path: str) -> bytes:
    """The declared content of the file at this path."""
    parts = mail_server.build_parts(site.settings, site.secrets)
    return next(file.content for part in parts for file in part.files if file.path == path)


def has_probe_account(site: Site) -> bool:
    return site.server.run("getent passwd mailkeep-probe", check=False).returncode == 0


def add_correspondent(site: Site) -> Site:
    """Deploy an alias to an address elsewhere, whose mail server verify can try."""
    site.settings_file.write_text(
        site.settings_file.read_text().replace("\naliases:\n", "\naliases:\n  out@example.test: you@outside.test\n")
    )
    assert site.deploy().code == 0
    return site


def group_by_status(outcomes: list[Outcome]) -> dict[str, set[str]]:
    checks: dict[str, set[str]] = {}
    for outcome in outcomes:
        checks.setdefault(outcome.status, set()).add(outcome.check)
    return checks
