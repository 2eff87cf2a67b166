"""The operator hears within ten seconds of all that is amiss, by mail and by a webhook, once, and when it is over."""

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
from mailkeep.lab.site import Site
from mailkeep.operate import alert_test

ANNA, BEN = "anna@example.test", "ben@example-two.test"
ADMIN = "you@outside.test"
PORT, TOPIC, TOKEN = 8080, "/very-secret-topic", "very-secret-token"
SOON = 10.0  # seconds
ALERTS = "/var/spool/postfix/private/alerts"

ASK_THE_PATH = """
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
    """Who gets the alerts of a server, and when."""

    site: Site
    internet: Internet
    since: float = field(default_factory=time.time)
    took: float = 0.0  # seconds that it took to bring about what is to be heard of

    @property
    def server(self) -> Server:
        return self.site.server

    def mails(self) -> list[tuple[float, str]]:
        return [
            (mail.time, mail.message.get_content().replace("\r\n", "\n").replace("\n    ", " "))
            for mail in self.internet.read_messages()
            if mail.recipients == (ADMIN,) and mail.time > self.since
        ]

    def posts(self) -> list[tuple[float, str]]:
        """What the webhook took."""
        lines = self.internet.run("cat /opt/hook/requests").stdout.splitlines()
        requests: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [(one["time"], one["body"]) for one in requests if one["status"] < 300 and one["time"] > self.since]

    def wait_for_alert(self, text: str, way: str, patience: float = SOON + 10) -> float:
        """How many seconds after it had happened the operator heard of it."""
        look = self.mails if way == "mail" else self.posts
        found = poll(lambda: [at for at, said in look() if text in said], patience, f"no alert by {way}: {text}", 0.3)
        return found[0] - self.since - self.took

    def begin(self) -> None:
        self.since, self.took = time.time(), 0.0

    def happened(self) -> None:
        self.took = time.time() - self.since

    def webhook_answers(self, status: int) -> None:
        self.internet.write("/opt/hook/status", str(status))


@pytest.fixture(scope="module")
def operator(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[Operator]:
    """Of a server with tight bounds, whose administrator is elsewhere and has a webhook."""
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
    declared = yaml.safe_load(site.settings_file.read_text())
    declared["admin"]["addresses"] = [ADMIN]
    declared["guard"] = {"limits": {"messages_per_10_minutes": 4}}
    declared["alerts"] = {"webhook": {"format": "ntfy"}, "queue": 20, "disk": 90, "failed_logins": 10}
    site.settings_file.write_text(yaml.safe_dump(declared))
    # Before the watch starts: a container does not pass later mounts on to sandboxes, as other machines do.
    server.run("mount -t tmpfs -o size=20M,mode=700,uid=$(id -u vmail),gid=$(id -g vmail) tmpfs /var/vmail")
    save_webhook(site.inventory, f"http://{internet.ip}:{PORT}{TOPIC}", TOKEN)
    deployed = site.deploy()
    assert deployed.code == 0, deployed.output
    assert TOPIC not in deployed.output
    yield Operator(site, internet)
    server.remove()
    internet.run("systemctl stop hook; rm -r /opt/hook")


# --- all at once: what breaks, and what is told of it when it does and when it is repaired

BREAK = """
set -eu
# First: a letter of what follows must not be deferred as well.
postconf -e 'defer_transports = smtp' && postfix reload 2>/dev/null
for message in $(seq 25); do sendmail -f root@mail.example.test nobody@outside.test </dev/null; done
until [ $(postqueue -j | grep -c '"deferred"') = 25 ]; do sleep 0.1; done
postconf -X defer_transports && postfix reload 2>/dev/null
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
TOLD = {
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
    operator.begin()
    operator.server.run(BREAK)
    operator.happened()
    return operator


@pytest.mark.parametrize("what", TOLD)
def test_what_is_amiss_is_told_by_webhook_within_ten_seconds(broken: Operator, what: str) -> None:
    assert broken.wait_for_alert(TOLD[what][0], "webhook") < SOON


def test_fail2ban_itself_finds_nothing_wrong_with_the_dead_jail(broken: Operator) -> None:
    assert "Banned IP list" in broken.server.run("fail2ban-client status dovecot").stdout


def test_it_is_told_once_and_in_few_letters(broken: Operator) -> None:
    for told, _ in TOLD.values():
        assert sum(text.count(told) for _, text in broken.posts()) == 1
    assert len(broken.posts()) <= len(TOLD)


def test_mail_of_it_goes_out_unsigned_rather_than_not_at_all(broken: Operator) -> None:
    broken.wait_for_alert("opendkim.service is down", "mail", 30)


@pytest.fixture(scope="module")
def repaired(broken: Operator) -> Operator:
    broken.begin()
    broken.server.run(REPAIR)
    broken.happened()
    return broken


@pytest.mark.usefixtures("repaired")
@pytest.mark.parametrize("what", TOLD)
def test_that_it_is_over_is_told_too(operator: Operator, what: str) -> None:
    assert operator.wait_for_alert(TOLD[what][1], "webhook") < SOON


# --- the watch itself


def test_a_watch_that_is_killed_is_told_of_and_knows_what_it_has_told(repaired: Operator) -> None:
    repaired.server.run("systemctl stop opendkim")
    repaired.wait_for_alert("opendkim.service is down", "webhook")
    # A letter that was taken in the last half second would go out again: better twice than never.
    sent = "grep -q '\"notifications\": \\[\\]' /var/lib/mailkeep-watch/state.json"
    poll(lambda: not repaired.server.run(sent, check=False).returncode, SOON, "letters are left")
    repaired.begin()
    repaired.server.run("systemctl kill --signal=KILL mailkeep-watch")
    assert repaired.wait_for_alert("The watch has ended (signal)", "webhook") < SOON
    assert repaired.wait_for_alert("The watch has ended (signal)", "mail") < SOON
    repaired.server.run("systemctl start opendkim")
    repaired.wait_for_alert("opendkim.service runs again", "webhook")
    assert not any("opendkim.service is down" in text for _, text in repaired.posts())


def test_a_watch_that_ends_again_and_again_is_told_of_twice_an_hour_and_has_not_failed_for_ever(
    repaired: Operator,
) -> None:
    server = repaired.server
    server.run("rm -f /run/mailkeep-watch-failed/report-times")
    journal = f"journalctl --unit mailkeep-watch-failed --since @{time.time():.6f} --output cat"

    def runs() -> bool:
        return server.run("systemctl is-active mailkeep-watch", check=False).stdout == "active\n"

    def ends() -> int:
        return len(re.findall("Finished|Failed to start", server.run(journal).stdout))

    for end in range(1, 5):
        poll(runs, 30, "it is not started again")
        server.run("systemctl kill --signal=KILL mailkeep-watch")
        poll(lambda: ends() == end, SOON, "nobody was told")  # noqa: B023
    server.run("systemctl restart mailkeep-watch")  # which waits less again before it is tried again
    said = server.run(journal).stdout
    assert (said.count("webhook: HTTP 200"), said.count("reported 2 times within the hour")) == (2, 2), said
    assert server.run("systemctl list-units --failed --plain --no-legend").stdout == ""


def test_it_is_small(repaired: Operator) -> None:
    rollups = "cat /proc/$(systemctl show --property=MainPID --value mailkeep-watch)/smaps_rollup"
    pss = next(line for line in repaired.server.run(rollups).stdout.splitlines() if line.startswith("Pss:"))
    assert int(pss.split()[1]) < 20_000, pss


# --- freezes


def test_a_freeze_is_carried_out_within_two_seconds_and_told(repaired: Operator) -> None:
    server = repaired.server
    passphrase = repaired.site.passphrases[BEN]
    session = open_imap(str(server.ip))
    session.login(BEN, passphrase)
    repaired.begin()
    with frozen(server, BEN):
        poll(lambda: not catch_answer(lambda: session.noop()[0]).startswith("OK"), 5, "the session goes on", 0.2)
        assert time.time() - repaired.since < 3  # writing the file included
        assert repaired.wait_for_alert(f"{BEN} is frozen by guard: 30 tries", "webhook") < SOON
        assert repaired.wait_for_alert("1 session cut", "mail") < SOON
    repaired.wait_for_alert(f"{BEN} is no longer frozen", "webhook")


@contextmanager
def frozen(server: Server, account: str) -> Iterator[None]:
    """As the guard does it."""
    program = "import sys; from mailkeep_server.freezes import freeze_list; from datetime import datetime, UTC; "
    freeze = (
        f"{program} freeze_list.freeze_account('{account}', 'guard', '30 tries over its limits', datetime.now(UTC))"
    )
    server.run(f'cd /usr/lib/mailkeep && python3 -Bc "{freeze}"')
    yield
    server.run(f"cd /usr/lib/mailkeep && python3 -Bc \"{program} freeze_list.thaw_account('{account}')\"")


def test_an_account_that_nears_its_limit_and_goes_over_it_is_told(repaired: Operator) -> None:
    login = ANNA, repaired.site.passphrases[ANNA]
    repaired.begin()
    answers = [
        deliver_message(
            str(repaired.server.ip), SUBMISSION, ANNA, [OUTSIDE], compose_message(ANNA, OUTSIDE, "x"), login=login
        )
        for _ in range(5)
    ]
    assert [answer[:1] for answer in answers] == ["2", "2", "2", "2", "4"]
    assert repaired.wait_for_alert(f"{ANNA} has sent 4 of 4 messages in 10 minutes", "webhook") < SOON
    assert repaired.wait_for_alert(f"{ANNA} is over a limit: may send 4 messages in 10 minutes", "mail") < SOON


def test_a_guard_that_is_killed_or_stopped_is_told(repaired: Operator) -> None:
    repaired.begin()
    repaired.server.run("systemctl kill --signal=KILL mailkeep-guard")
    assert repaired.wait_for_alert("mailkeep-guard.service ended, and systemd restarted it", "webhook") < SOON
    repaired.begin()
    repaired.server.run("systemctl stop mailkeep-guard.socket mailkeep-guard")
    repaired.happened()
    assert repaired.wait_for_alert("mailkeep-guard.service is down", "webhook") < SOON
    repaired.server.run("systemctl start mailkeep-guard.socket mailkeep-guard")


# --- logins


def test_a_login_from_a_new_network_and_failures_that_soar_are_told(repaired: Operator, attacker: Attacker) -> None:
    server, passphrase = repaired.server, repaired.site.passphrases[ANNA]
    assert log_in(str(server.ip), IMAPS, ANNA, passphrase) == "OK"
    repaired.begin()
    source = attacker.sources6[0]
    assert run_on(attacker, log_in, str(server.ip6), IMAPS, ANNA, passphrase, source=source) == "OK"
    assert repaired.wait_for_alert(f"{ANNA} has read mail from a network that is new to it: {source}", "webhook") < SOON
    repaired.begin()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: log_in(str(server.ip), IMAPS, ANNA, "wrong"), range(12)))
    repaired.happened()
    assert repaired.wait_for_alert("Somebody guesses passwords", "webhook") < SOON


# --- the ways


def test_that_mail_does_not_reach_the_mailboxes_is_told(repaired: Operator) -> None:
    server = repaired.server
    # The watch may have told so in the half hour before.
    server.run("systemctl stop dovecot; systemctl restart mailkeep-watch")
    repaired.begin()
    for _ in range(12):
        reply = repaired.internet.send(OUTSIDE, ANNA, server.ip, b"Subject: x\r\n\r\nx\r\n")
        assert reply.code == 250, reply
    server.run("postqueue -f")  # all at once: after five failures at the same time qmgr tries the others no more
    repaired.wait_for_alert("Mail is not delivered to the mailboxes, and waits in the queue: ", "webhook")
    server.run("systemctl start dovecot && postsuper -d ALL deferred")


def test_that_nobody_gets_in_any_more_is_told(repaired: Operator) -> None:
    server, conf = repaired.server, "/etc/dovecot/dovecot.conf"
    server.run(f"sed -i.before '/^service imap-login/,/^}}/ s/process_limit = .*/process_limit = 2/' {conf}")
    server.run("systemctl restart dovecot")
    repaired.begin()
    with ExitStack() as held:
        for _ in range(6):
            held.enter_context(socket.create_connection((str(server.ip), IMAPS), TIMEOUT))
        repaired.wait_for_alert(
            "Dovecot's imap-login accepts no more connections: process_limit (2) reached", "webhook"
        )
    server.run(f"mv {conf}.before {conf} && systemctl restart dovecot")


def test_each_way_is_told_to_be_dead_by_the_other(repaired: Operator) -> None:
    server = repaired.server
    repaired.webhook_answers(500)
    repaired.begin()
    server.run("systemctl stop opendkim")
    assert repaired.wait_for_alert("Alerts cannot be sent by webhook: HTTP 500", "mail") < 2 * SOON
    repaired.webhook_answers(200)
    repaired.wait_for_alert("opendkim.service is down", "webhook", 30)
    server.run("systemctl start opendkim")
    repaired.begin()
    server.run("systemctl stop postfix")
    repaired.happened()
    try:
        assert repaired.wait_for_alert("postfix.service is down", "webhook") < SOON
        repaired.wait_for_alert("Alerts cannot be sent by mail", "webhook", 30)
    finally:
        server.run("systemctl start postfix")
    repaired.wait_for_alert("postfix.service is down", "mail", 60)


def test_alert_test_says_what_arrived(repaired: Operator) -> None:
    repaired.begin()
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
    repaired.webhook_answers(403)
    mail, webhook = alert_test.send_test_alerts(repaired.site.inventory)
    repaired.webhook_answers(200)
    assert (mail.arrived, webhook.arrived, webhook.answer) == (True, False, "HTTP 403")


def test_an_alert_still_goes_when_the_disk_has_no_room_for_other_mail(repaired: Operator) -> None:
    server = repaired.server
    more_than_is_free = 10**18  # bytes: as if the disk were full
    server.run(f"postconf -e queue_minfree={more_than_is_free} && postfix reload")
    try:
        refused = deliver_message(str(server.ip), SMTP, STRANGER, [ANNA], compose_message(STRANGER, ANNA, "x"))
        assert refused.startswith("452 4.3.1"), refused
        assert next(alert_test.send_test_alerts(repaired.site.inventory)).arrived
        server.run("postconf -PX alerts/unix/queue_minfree && postfix reload")
        assert not next(alert_test.send_test_alerts(repaired.site.inventory)).arrived
    finally:
        assert repaired.site.deploy().code == 0


def test_a_fail2ban_that_restarts_while_it_is_proven_is_no_dead_jail(repaired: Operator) -> None:
    """As in a deploy that changes a jail."""
    server = repaired.server
    server.run("systemctl start --no-block mailkeep-jails")
    poll(lambda: "2001:db8:fa11:" in server.run("nft list sets").stdout, 20, "no canary is banned", 0.05)
    server.run("systemctl restart fail2ban")
    show = "systemctl show --property=ActiveState --value mailkeep-jails"
    poll(lambda: server.run(show).stdout == "inactive\n", 60, "the proof does not end")
    assert json.loads(server.run("cat /var/lib/mailkeep-watch/jails.json").stdout)["faults"] == {}


def test_mail_of_the_watch_is_signed(repaired: Operator) -> None:
    list(alert_test.send_test_alerts(repaired.site.inventory))
    printed = own_zone_records(repaired.site.settings, repaired.site.secrets)
    records = {f"{record.name}.".encode(): record.value.encode() for record in printed if record.type == "TXT"}
    last = [mail for mail in repaired.internet.read_messages() if mail.recipients == (ADMIN,)][-1]
    assert dkim.verify(last.data, dnsfunc=lambda name, timeout=5: records.get(name))  # noqa: ARG005 - dkimpy's


def test_the_path_of_alerts_takes_mail_to_administrators_only(repaired: Operator) -> None:
    said = repaired.server.run(f"python3 -B - {ALERTS} {ADMIN} {ANNA} stranger@outside.test", stdin=ASK_THE_PATH)
    assert said.stdout.split() == ["250", "554", "554"]
    assert "Permission denied" in run_on(repaired.server, reach_socket, ALERTS, user="nobody")


def test_no_secret_of_the_webhook_is_in_the_journal_or_a_process_list(repaired: Operator) -> None:
    said = repaired.server.run("journalctl --no-pager; ps axww").stdout
    assert TOPIC not in said
    assert TOKEN not in said
