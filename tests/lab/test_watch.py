"""The operator is alerted to each fault within ten seconds, once, by mail and webhook, and to its end."""

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dkim
import pytest
import yaml
from clients import (
    IMAPS,
    OUTSIDE,
    SMTP,
    STRANGER,
    SUBMISSION,
    TIMEOUT,
    catch_answer,
    compose_message,
    deliver_message,
    log_in,
    open_imap,
    reach_socket,
    run_on,
)

from mailkeep.dns.records import own_zone_records
from mailkeep.inventory.credentials import save_webhook
from mailkeep.lab import Attacker, Internet, Lab, Server, poll
from mailkeep.lab.postfix_reload import RELOAD_POSTFIX
from mailkeep.lab.site import Site
from mailkeep.operate import alert_test

ANNA, BEN = "anna@example.test", "ben@example-two.test"
ADMIN = "you@outside.test"
PORT, TOPIC, TOKEN = 8080, "/very-secret-topic", "very-secret-token"
ALERT_SECONDS = 10.0  # seconds
ALERTS_SOCKET = "/var/spool/postfix/private/alerts"

TRY_RECIPIENTS = """
import sys
sys.path.insert(0, "/usr/lib/mailkeep")
from mailkeep_server.common.unix_smtp import UnixSmtp
with UnixSmtp(sys.argv[1], timeout=10) as connection:
    connection.ehlo()
    connection.mail("postmaster@mail.example.test")
    for recipient in sys.argv[2:]:
        print(connection.rcpt(recipient)[0])
"""


@dataclass
class Operator:
    """The operator of a watched server, and the alerts that reach them."""

    site: Site
    internet: Internet
    since: float = field(default_factory=time.time)
    cause_seconds: float = 0.0  # how long it took to cause the fault

    @property
    def server(self) -> Server:
        return self.site.server

    def read_alert_mails(self) -> list[tuple[float, str]]:
        return [
            (mail.time, mail.message.get_content().replace("\r\n", "\n").replace("\n    ", " "))
            for mail in self.internet.read_messages()
            if mail.recipients == (ADMIN,) and mail.time > self.since
        ]

    def read_alert_posts(self) -> list[tuple[float, str]]:
        """The alerts that the webhook accepted: time and text."""
        lines = self.internet.run("cat /opt/hook/requests").stdout.splitlines()
        requests: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [
            (request["time"], request["body"])
            for request in requests
            if request["status"] < 300 and request["time"] > self.since
        ]

    def wait_for_alert(self, text: str, channel: str, timeout: float = ALERT_SECONDS + 10) -> float:
        """Wait for an alert with this text; the seconds from its cause to its arrival."""
        read_alerts = self.read_alert_mails if channel == "mail" else self.read_alert_posts
        times = poll(
            lambda: [at for at, alert in read_alerts() if text in alert], timeout, f"no alert by {channel}: {text}", 0.3
        )
        return times[0] - self.since - self.cause_seconds

    def start_clock(self) -> None:
        self.since, self.cause_seconds = time.time(), 0.0

    def exclude_elapsed(self) -> None:
        self.cause_seconds = time.time() - self.since

    def set_webhook_status(self, status: int) -> None:
        self.internet.write("/opt/hook/status", str(status))


@pytest.fixture(scope="module")
def operator(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[Operator]:
    """The operator of a server with tight bounds, with an address elsewhere and a webhook."""
    internet.unpack(
        {
            "opt/hook/receiver.py": (Path(__file__).with_name("receiver.py").read_bytes(), 0o644),
            "opt/hook/status": (b"200", 0o644),
            "opt/hook/requests": (b"", 0o644),
        }
    )
    internet.run(f"systemd-run --quiet --unit=hook python3 /opt/hook/receiver.py {PORT} /opt/hook")
    server = lab.boot_server("watched", hostname="mail.example.test", image=built_image)
    site = built_site.copy_for(server)
    settings = yaml.safe_load(site.settings_file.read_text())
    settings["admin"]["addresses"] = [ADMIN]
    settings["guard"] = {"limits": {"messages_per_10_minutes": 4}}
    settings["alerts"] = {"webhook": {"format": "ntfy"}, "queue": 20, "disk": 90, "failed_logins": 10}
    site.settings_file.write_text(yaml.safe_dump(settings))
    # Before the watch starts, because a container, unlike other machines, does not pass later mounts on to sandboxes.
    server.run("mount -t tmpfs -o size=20M,mode=700,uid=$(id -u vmail),gid=$(id -g vmail) tmpfs /var/vmail")
    save_webhook(site.inventory, f"http://{internet.ip}:{PORT}{TOPIC}", TOKEN)
    result = site.deploy()
    assert result.code == 0, result.output
    assert TOPIC not in result.output
    yield Operator(site, internet)
    server.remove()
    internet.run("systemctl stop hook; rm -r /opt/hook")


# --- several faults at once, and their repair

BREAK = f"""
set -eu
# First, so that no alert of the other faults is deferred as well.
postconf -e 'defer_transports = smtp' && {RELOAD_POSTFIX}
for message in $(seq 25); do sendmail -f root@mail.example.test nobody@outside.test </dev/null; done
until [ $(postqueue -j | grep -c '"deferred"') = 25 ]; do sleep 0.1; done
postconf -X defer_transports && {RELOAD_POSTFIX}
systemctl stop opendkim dovecot
systemctl disable --quiet --now logrotate.timer
# As in one of the incidents: the jail looks healthy.
printf '[dovecot]\\nport = imap3,imaps\\n' >/etc/fail2ban/jail.d/zz.local
fail2ban-client --test && systemctl restart fail2ban
head -c 19M /dev/zero >/var/vmail/full
cp -a /etc/mailkeep/tls /root/tls
openssl req -quiet -x509 -newkey rsa:2048 -nodes -days 5 -subj /CN=mail.example.test \
    -keyout - -out - >/etc/mailkeep/tls/server.pem
"""
REPAIR = """
set -eu
rm /etc/fail2ban/jail.d/zz.local && systemctl restart fail2ban
postsuper -d ALL deferred 2>/dev/null
rm /var/vmail/full && cp -a /root/tls/* /etc/mailkeep/tls/
systemctl start opendkim dovecot
systemctl enable --quiet --now logrotate.timer
"""
ALERTS_BY_FAULT = {
    "opendkim": ("opendkim.service is down", "opendkim.service runs again"),
    "dovecot": ("dovecot.service is down", "dovecot.service runs again"),
    "timer": ("logrotate.timer is down", "logrotate.timer runs again"),
    "jail": ("The jail dovecot cannot ban: nft has no", "The jail dovecot can ban again"),
    "disk": ("The disk of /var/vmail is 9", "The disk of /var/vmail has room again"),
    "certificate": ("The certificate ends in", "The certificate was renewed"),
    "queue": ("The mail queue is long", "The mail queue is short again"),
}


@pytest.fixture(scope="module")
def broken(operator: Operator) -> Operator:
    operator.start_clock()
    operator.server.run(BREAK)
    operator.exclude_elapsed()
    return operator


@pytest.mark.parametrize("fault", ALERTS_BY_FAULT)
def test_each_fault_is_reported_by_webhook_within_ten_seconds(broken: Operator, fault: str) -> None:
    assert broken.wait_for_alert(ALERTS_BY_FAULT[fault][0], "webhook") < ALERT_SECONDS


def test_fail2ban_itself_finds_nothing_wrong_with_the_dead_jail(broken: Operator) -> None:
    assert "Banned IP list" in broken.server.run("fail2ban-client status dovecot").stdout


def test_each_fault_is_reported_once_and_in_few_notifications(broken: Operator) -> None:
    for alert, _ in ALERTS_BY_FAULT.values():
        assert sum(text.count(alert) for _, text in broken.read_alert_posts()) == 1
    assert len(broken.read_alert_posts()) <= len(ALERTS_BY_FAULT)


def test_alert_mail_goes_out_unsigned_while_the_signer_is_down(broken: Operator) -> None:
    broken.wait_for_alert("opendkim.service is down", "mail", 30)


@pytest.fixture(scope="module")
def repaired(broken: Operator) -> Operator:
    broken.start_clock()
    broken.server.run(REPAIR)
    broken.exclude_elapsed()
    return broken


@pytest.mark.usefixtures("repaired")
@pytest.mark.parametrize("fault", ALERTS_BY_FAULT)
def test_the_end_of_each_fault_is_reported_too(operator: Operator, fault: str) -> None:
    assert operator.wait_for_alert(ALERTS_BY_FAULT[fault][1], "webhook") < ALERT_SECONDS


# --- the watch itself


def test_a_killed_watch_is_reported_and_remembers_its_alerts(repaired: Operator) -> None:
    repaired.server.run("systemctl stop opendkim")
    repaired.wait_for_alert("opendkim.service is down", "webhook")
    # A notification sent in the last half second would be sent again: better twice than never.
    sent = "grep -q '\"notifications\": \\[\\]' /var/lib/mailkeep-watch/state.json"
    poll(lambda: not repaired.server.run(sent, check=False).returncode, ALERT_SECONDS, "notifications are left")
    repaired.start_clock()
    repaired.server.run("systemctl kill --signal=KILL mailkeep-watch")
    assert repaired.wait_for_alert("The watch has ended (signal)", "webhook") < ALERT_SECONDS
    assert repaired.wait_for_alert("The watch has ended (signal)", "mail") < ALERT_SECONDS
    repaired.server.run("systemctl start opendkim")
    repaired.wait_for_alert("opendkim.service runs again", "webhook")
    assert not any("opendkim.service is down" in text for _, text in repaired.read_alert_posts())


def test_a_watch_that_keeps_ending_is_reported_twice_an_hour_and_always_restarted(
    repaired: Operator,
) -> None:
    server = repaired.server
    server.run("rm -f /run/mailkeep-watch-failed/report-times")
    journal = f"journalctl --unit mailkeep-watch-failed --since @{time.time():.6f} --output cat"

    def is_running() -> bool:
        return server.run("systemctl is-active mailkeep-watch", check=False).stdout == "active\n"

    def count_ends() -> int:
        return len(re.findall("Finished|Failed to start", server.run(journal).stdout))

    for end in range(1, 5):
        poll(is_running, 30, "it is not started again")
        server.run("systemctl kill --signal=KILL mailkeep-watch")
        poll(lambda: count_ends() == end, ALERT_SECONDS, "the end is not reported")  # noqa: B023
    server.run("systemctl restart mailkeep-watch")  # resets the delay before systemd's next restart
    output = server.run(journal).stdout
    assert (output.count("webhook: HTTP 200"), output.count("reported 2 times within the hour")) == (2, 2), output
    assert server.run("systemctl list-units --failed --plain --no-legend").stdout == ""


def test_the_watch_needs_less_than_20_mb(repaired: Operator) -> None:
    rollups = "cat /proc/$(systemctl show --property=MainPID --value mailkeep-watch)/smaps_rollup"
    pss = next(line for line in repaired.server.run(rollups).stdout.splitlines() if line.startswith("Pss:"))
    assert int(pss.split()[1]) < 20_000, pss


# --- freezes


def test_a_freeze_is_carried_out_within_two_seconds_and_reported(repaired: Operator) -> None:
    server = repaired.server
    passphrase = repaired.site.passphrases[BEN]
    session = open_imap(str(server.ip))
    session.login(BEN, passphrase)
    repaired.start_clock()
    with freeze_by_guard(server, BEN):
        poll(lambda: not catch_answer(lambda: session.noop()[0]).startswith("OK"), 5, "the session goes on", 0.2)
        assert time.time() - repaired.since < 3  # includes the time to write the file
        assert repaired.wait_for_alert(f"{BEN} is frozen by guard: 30 tries", "webhook") < ALERT_SECONDS
        assert repaired.wait_for_alert("1 session cut", "mail") < ALERT_SECONDS
    repaired.wait_for_alert(f"{BEN} is no longer frozen", "webhook")


@contextmanager
def freeze_by_guard(server: Server, account: str) -> Iterator[None]:
    """A context in which the account is frozen, by the function that the guard calls."""
    program = "import sys; from mailkeep_server.freezes import freeze_list; from datetime import datetime, UTC; "
    freeze = (
        f"{program} freeze_list.freeze_account('{account}', 'guard', '30 tries over its limits', datetime.now(UTC))"
    )
    server.run(f'cd /usr/lib/mailkeep && python3 -Bc "{freeze}"')
    yield
    server.run(f"cd /usr/lib/mailkeep && python3 -Bc \"{program} freeze_list.thaw_account('{account}')\"")


def test_an_account_near_its_limit_and_over_it_is_reported(repaired: Operator) -> None:
    login = ANNA, repaired.site.passphrases[ANNA]
    repaired.start_clock()
    answers = [
        deliver_message(
            str(repaired.server.ip), SUBMISSION, ANNA, [OUTSIDE], compose_message(ANNA, OUTSIDE, "x"), login=login
        )
        for _ in range(5)
    ]
    assert [answer[:1] for answer in answers] == ["2", "2", "2", "2", "4"]
    assert repaired.wait_for_alert(f"{ANNA} has sent 4 of 4 messages in 10 minutes", "webhook") < ALERT_SECONDS
    assert repaired.wait_for_alert(f"{ANNA} is over a limit: may send 4 messages in 10 minutes", "mail") < ALERT_SECONDS


def test_a_guard_that_is_killed_or_stopped_is_reported(repaired: Operator) -> None:
    repaired.start_clock()
    repaired.server.run("systemctl kill --signal=KILL mailkeep-guard")
    assert repaired.wait_for_alert("mailkeep-guard.service ended, and systemd restarted it", "webhook") < ALERT_SECONDS
    repaired.start_clock()
    repaired.server.run("systemctl stop mailkeep-guard.socket mailkeep-guard")
    repaired.exclude_elapsed()
    assert repaired.wait_for_alert("mailkeep-guard.service is down", "webhook") < ALERT_SECONDS
    repaired.server.run("systemctl start mailkeep-guard.socket mailkeep-guard")


# --- logins


def test_a_login_from_a_new_network_and_guessed_passwords_are_reported(repaired: Operator, attacker: Attacker) -> None:
    server, passphrase = repaired.server, repaired.site.passphrases[ANNA]
    assert log_in(str(server.ip), IMAPS, ANNA, passphrase) == "OK"
    repaired.start_clock()
    source = attacker.sources6[0]
    assert run_on(attacker, log_in, str(server.ip6), IMAPS, ANNA, passphrase, source=source) == "OK"
    assert (
        repaired.wait_for_alert(f"{ANNA} has read mail from a network that is new to it: {source}", "webhook")
        < ALERT_SECONDS
    )
    repaired.start_clock()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: log_in(str(server.ip), IMAPS, ANNA, "wrong"), range(12)))
    repaired.exclude_elapsed()
    assert repaired.wait_for_alert("Somebody guesses passwords", "webhook") < ALERT_SECONDS


# --- the channels


def test_failing_delivery_to_the_mailboxes_is_reported(repaired: Operator) -> None:
    server = repaired.server
    # The watch is restarted, because it may have reported the same within the last half hour.
    server.run("systemctl stop dovecot; systemctl restart mailkeep-watch")
    repaired.start_clock()
    for _ in range(12):
        reply = repaired.internet.send(OUTSIDE, ANNA, server.ip, b"Subject: x\r\n\r\nx\r\n")
        assert reply.code == 250, reply
    server.run("postqueue -f")  # all at once: after five failures at the same time qmgr does not try the others
    repaired.wait_for_alert("Mail is not delivered to the mailboxes, and waits in the queue: ", "webhook")
    server.run("systemctl start dovecot && postsuper -d ALL deferred")


def test_an_imap_server_that_accepts_no_more_connections_is_reported(repaired: Operator) -> None:
    server, conf = repaired.server, "/etc/dovecot/dovecot.conf"
    server.run(f"sed -i.before '/^service imap-login/,/^}}/ s/process_limit = .*/process_limit = 2/' {conf}")
    server.run("systemctl restart dovecot")
    repaired.start_clock()
    with ExitStack() as connections:
        for _ in range(6):
            connections.enter_context(socket.create_connection((str(server.ip), IMAPS), TIMEOUT))
        repaired.wait_for_alert(
            "Dovecot's imap-login accepts no more connections: process_limit (2) reached", "webhook"
        )
    server.run(f"mv {conf}.before {conf} && systemctl restart dovecot")


def test_each_channel_reports_that_the_other_fails(repaired: Operator) -> None:
    server = repaired.server
    repaired.set_webhook_status(500)
    repaired.start_clock()
    server.run("systemctl stop opendkim")
    assert repaired.wait_for_alert("Alerts cannot be sent by webhook: HTTP 500", "mail") < 2 * ALERT_SECONDS
    repaired.set_webhook_status(200)
    repaired.wait_for_alert("opendkim.service is down", "webhook", 30)
    server.run("systemctl start opendkim")
    repaired.start_clock()
    server.run("systemctl stop postfix")
    repaired.exclude_elapsed()
    try:
        assert repaired.wait_for_alert("postfix.service is down", "webhook") < ALERT_SECONDS
        repaired.wait_for_alert("Alerts cannot be sent by mail", "webhook", 30)
    finally:
        server.run("systemctl start postfix")
    repaired.wait_for_alert("postfix.service is down", "mail", 60)


def test_the_test_alert_says_which_channels_work(repaired: Operator) -> None:
    repaired.start_clock()
    mail, webhook = alert_test.send_test_alerts(repaired.site.inventory)
    assert (mail.channel, mail.recipient, mail.arrived, webhook.channel, webhook.arrived) == (
        "mail",
        ADMIN,
        True,
        "webhook",
        True,
    )
    assert "status" not in mail.answer
    assert "250" in mail.answer
    repaired.wait_for_alert("This is a test", "mail", 1)
    repaired.wait_for_alert("This is a test", "webhook", 1)
    repaired.set_webhook_status(403)
    mail, webhook = alert_test.send_test_alerts(repaired.site.inventory)
    repaired.set_webhook_status(200)
    assert (mail.arrived, webhook.arrived, webhook.answer) == (True, False, "HTTP 403")


def test_alerts_are_still_sent_when_the_disk_has_no_room_for_other_mail(repaired: Operator) -> None:
    server = repaired.server
    more_than_is_free = 10**18  # bytes: as if the disk were full
    server.run(f"postconf -e queue_minfree={more_than_is_free} && {RELOAD_POSTFIX}")
    try:
        refused = deliver_message(str(server.ip), SMTP, STRANGER, [ANNA], compose_message(STRANGER, ANNA, "x"))
        assert refused.startswith("452 4.3.1"), refused
        assert next(alert_test.send_test_alerts(repaired.site.inventory)).arrived
        server.run(f"postconf -PX alerts/unix/queue_minfree alerts-unsigned/unix/queue_minfree && {RELOAD_POSTFIX}")
        assert not next(alert_test.send_test_alerts(repaired.site.inventory)).arrived
    finally:
        assert repaired.site.deploy().code == 0


def test_a_restart_of_fail2ban_during_the_proof_is_no_fault(repaired: Operator) -> None:
    """A deploy that changes a jail restarts fail2ban so."""
    server = repaired.server
    server.run("systemctl start --no-block mailkeep-jails")
    poll(lambda: "2001:db8:fa" in server.run("nft list sets").stdout, 20, "no canary is banned", 0.05)
    server.run("systemctl restart fail2ban")
    show = "systemctl show --property=ActiveState --value mailkeep-jails"
    poll(lambda: server.run(show).stdout == "inactive\n", 60, "the proof does not end")
    assert json.loads(server.run("cat /var/lib/mailkeep-watch/jails.json").stdout)["faults"] == {}


def test_alert_mail_is_signed(repaired: Operator) -> None:
    list(alert_test.send_test_alerts(repaired.site.inventory))
    printed = own_zone_records(repaired.site.settings, repaired.site.secrets)
    records = {f"{record.name}.".encode(): record.value.encode() for record in printed if record.type == "TXT"}
    last = [mail for mail in repaired.internet.read_messages() if mail.recipients == (ADMIN,)][-1]
    assert dkim.verify(last.data, dnsfunc=lambda name, timeout=5: records.get(name))  # noqa: ARG005 - dkimpy's


def test_the_alerts_socket_accepts_mail_to_administrators_only(repaired: Operator) -> None:
    replies = repaired.server.run(
        f"python3 -B - {ALERTS_SOCKET} {ADMIN} {ANNA} stranger@outside.test", stdin=TRY_RECIPIENTS
    )
    assert replies.stdout.split() == ["250", "554", "554"]
    assert "Permission denied" in run_on(repaired.server, reach_socket, ALERTS_SOCKET, user="nobody")


def test_no_secret_of_the_webhook_is_in_the_journal_or_a_process_list(repaired: Operator) -> None:
    output = repaired.server.run("journalctl --no-pager; ps axww").stdout
    assert TOPIC not in output
    assert TOKEN not in output
