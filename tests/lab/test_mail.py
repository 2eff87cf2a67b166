"""Mail leaves signed and without headers that reveal its author's network, and incoming mail reaches its recipient.

No message is lost or leaves unsigned while a service is down.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage

import dkim
import pytest
from clients import (
    IMAP,
    IMAPS,
    OUTSIDE,
    STRANGER,
    SUBMISSION,
    SUBMISSIONS,
    compose_message,
    deliver_message,
    envelope_commands,
    is_accepted,
    read_mailbox,
    talk_smtp,
)

from mailkeep.dns.records import own_zone_records
from mailkeep.inventory.credentials import save_relay_password
from mailkeep.lab import Internet, Lab, Received, Server, poll
from mailkeep.lab.internet import RELAY_PASSWORD, RELAY_USER
from mailkeep.lab.site import Site
from mailkeep.operate.alert_test import send_test_alerts
from mailkeep_server.watch import mail_reserve

ANNA, BEN = "anna@example.test", "ben@example-two.test"
HOST = "mail.example.test"
TELLTALE_HEADERS = (
    "Received: from [192.0.2.99] by laptop",
    "User-Agent: Gossip/1.0",
    "X-Mailer: Gossip",
    "X-Originating-IP: 192.0.2.99",
)

ADDED = (
    "From: boss@bank.test",
    "Subject: pay at once",
    "To: you@bank.test",
    "Cc: you@bank.test",
    "Reply-To: thief@outside.test",
    "Date: Thu, 01 Jan 2026 00:00:00 +0000",
    "Content-Type: text/html",
    "List-Id: <friends.outside.test>",
)
"""Headers that a replay adds. The last is one that a mailing list adds, and breaks nothing."""

# Killed, because OpenDKIM takes five seconds to stop.
KILL_SIGNER = "systemctl kill --signal=KILL opendkim; systemctl stop opendkim; systemctl reset-failed"


@dataclass(frozen=True)
class MailServer:
    """A built server, with functions that send and read mail."""

    site: Site
    outside: Internet

    @property
    def server(self) -> Server:
        return self.site.server

    @property
    def ip(self) -> str:
        return str(self.server.ip)

    def submit_message(self, subject: str, *headers: str, recipient: str = OUTSIDE, port: int = SUBMISSION) -> str:
        """Anna sends a message."""
        login = ANNA, self.site.passphrases[ANNA]
        return deliver_message(
            self.ip, port, ANNA, [recipient], compose_message(ANNA, recipient, subject, *headers), login=login
        )

    def receive_message(self, subject: str, recipient: str) -> None:
        """Send a message from the internet to this server."""
        text = compose_message(STRANGER, recipient, subject).encode()
        reply = self.outside.send(STRANGER, recipient, self.server.ip, text)
        assert reply.code == 250, reply

    def wait_outside(self, subject: str) -> Received:
        return self.outside.wait_for(lambda received: received.message["Subject"] == subject)

    def wait_in_mailbox(
        self, subject: str, owner: str, folder: str = "INBOX", port: int = IMAPS, *, text: str = ""
    ) -> EmailMessage:
        """Wait for the message with this subject, and this text in it, in a mailbox."""

        def find_messages() -> list[EmailMessage]:
            data = read_mailbox(self.ip, port, owner, self.site.passphrases[owner], folder)
            parsed = [message_from_bytes(message, policy=policy.default) for message in data]
            return [message for message in parsed if subject in str(message["Subject"]) and text in message.as_string()]

        return poll(find_messages, 15, f"{subject!r} is not in {folder} of {owner}")[0]

    def queued_senders(self) -> set[str]:
        """The senders of the queued messages; a bounce has MAILER-DAEMON."""
        return {json.loads(line)["sender"] for line in self.server.run("postqueue -j").stdout.splitlines()}

    def read_txt(self, name: bytes, timeout: int = 5) -> bytes | None:  # noqa: ARG002 - dkimpy passes it
        """The value of a TXT record among those that operators are to publish."""
        printed = own_zone_records(self.site.settings, self.site.secrets)
        return next(
            (
                record.value.encode()
                for record in printed
                if record.type == "TXT" and f"{record.name}." == name.decode()
            ),
            None,
        )

    def is_signature_valid(self, data: bytes) -> bool:
        return dkim.verify(data, dnsfunc=self.read_txt)

    def is_valid_for_opendkim(self, data: bytes) -> bool:
        """Verify with OpenDKIM, as many receivers do; dkimpy never accepts a second From: line."""
        printed = own_zone_records(self.site.settings, self.site.secrets)
        keys = "".join(f"{record.name} {record.value}\n" for record in printed if "._domainkey." in record.name)
        self.server.unpack(
            {
                "root/verifier.conf": (b"Mode v\nTestPublicKeys /root/verifier.keys\n", 0o600),
                "root/verifier.keys": (keys.encode(), 0o600),
                "root/message": (data, 0o600),
            }
        )
        return "succeeded" in self.server.run("opendkim -x /root/verifier.conf -t /root/message").stdout


def deploy_site(site: Site) -> Site:
    result = site.deploy()
    assert result.code == 0, result.output
    return site


@pytest.fixture(scope="module")
def mail_server(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[MailServer]:
    internet.clear_messages()
    server = lab.boot_server("post", hostname=HOST, image=built_image)
    yield MailServer(deploy_site(built_site.copy_for(server)), internet)
    server.remove()


@pytest.fixture
def remove_hardening(mail_server: MailServer) -> Iterator[Callable[[str], None]]:
    """Runs a command that removes a hardening, and restores the configuration after the test."""
    mail_server.server.run("tar -cf /root/etc.tar /etc/postfix /etc/opendkim.conf")

    def restart_after(command: str) -> None:
        mail_server.server.run(f"systemctl stop postfix; {KILL_SIGNER}\n{command}\nsystemctl start opendkim postfix")

    yield restart_after
    restart_after("tar -xpf /root/etc.tar -C /")


# --- out


@pytest.mark.parametrize("port", [SUBMISSION, SUBMISSIONS])
def test_an_accounts_mail_arrives_with_a_signature_that_the_printed_record_verifies(
    mail_server: MailServer, port: int
) -> None:
    assert is_accepted(mail_server.submit_message(f"signed-{port}", port=port))
    received = mail_server.wait_outside(f"signed-{port}")
    assert (received.sender, received.recipients) == (ANNA, (OUTSIDE,))
    assert received.tls == "TLSv1.3"
    assert "d=example.test;" in received.message["DKIM-Signature"]
    assert mail_server.is_signature_valid(received.data)
    assert not mail_server.is_signature_valid(received.data.replace(b"Hello.", b"Hallo."))


def test_a_header_that_a_reader_sees_breaks_the_signature_when_it_is_added_on_the_way(
    mail_server: MailServer, remove_hardening: Callable[[str], None]
) -> None:
    def list_valid(subject: str) -> list[str]:
        mail_server.submit_message(subject)
        data = mail_server.wait_outside(subject).data
        return [header for header in ADDED if mail_server.is_valid_for_opendkim(f"{header}\r\n".encode() + data)]

    assert list_valid("oversigned") == ["List-Id: <friends.outside.test>"]
    remove_hardening("sed -i /^OversignHeaders/d /etc/opendkim.conf")
    assert list_valid("not oversigned") == [*ADDED]


def test_a_signature_ends_two_weeks_after_it_was_made(mail_server: MailServer) -> None:
    mail_server.submit_message("ends")
    signature = str(mail_server.wait_outside("ends").message["DKIM-Signature"])
    times = {name: int(re.search(rf"\b{name}=(\d+);", signature)[1]) for name in "tx"}  # type: ignore[index]
    assert times["x"] - times["t"] == (mail_server.site.settings.retention.queue_days + 12) * 86400


def test_outgoing_mail_reveals_neither_its_authors_network_nor_program(
    mail_server: MailServer, lab: Lab, remove_hardening: Callable[[str], None]
) -> None:
    def list_hints(subject: str) -> set[str]:
        mail_server.submit_message(subject, *TELLTALE_HEADERS)
        text = mail_server.wait_outside(subject).data.decode()
        return {
            hint for hint in ("192.0.2.99", "laptop", "Gossip", str(lab.ipv4_address(1)), "Received:") if hint in text
        }

    assert list_hints("discreet") == set()
    remove_hardening("postconf -P submission-cleanup/unix/header_checks=")
    assert list_hints("indiscreet") == {"192.0.2.99", "laptop", "Gossip", str(lab.ipv4_address(1)), "Received:"}


def test_outgoing_mail_gets_a_date_and_a_message_id_unless_it_has_them(mail_server: MailServer) -> None:
    mail_server.submit_message("dated by us")
    theirs = mail_server.wait_outside("dated by us").message
    assert theirs["Date"]
    assert theirs["Message-ID"].endswith(f"@{HOST}>")
    headers = ("Date: Thu, 01 Jan 2026 00:00:00 +0000", "Message-ID: <own@example.test>")
    mail_server.submit_message("dated by her", *headers)
    hers = mail_server.wait_outside("dated by her").message
    assert [f"{name}: {hers[name]}" for name in ("Date", "Message-ID")] == [*headers]


def test_nothing_leaves_unsigned_while_the_signer_is_down(
    mail_server: MailServer, remove_hardening: Callable[[str], None]
) -> None:
    mail_server.server.run(KILL_SIGNER)
    assert re.match("45[14] 4", mail_server.submit_message("refused"))
    mail_server.server.run(f"sendmail {OUTSIDE}", stdin="Subject: waits\n\nHello.\n")
    mail_server.server.run("systemctl start opendkim; postfix flush")
    assert mail_server.is_signature_valid(mail_server.wait_outside("waits").data)
    assert not [
        received for received in mail_server.outside.read_messages() if received.message["Subject"] == "refused"
    ]

    remove_hardening("postconf -e milter_default_action=accept")
    mail_server.server.run(KILL_SIGNER)
    assert is_accepted(mail_server.submit_message("unsigned"))
    assert not mail_server.wait_outside("unsigned").message["DKIM-Signature"]


def test_mail_of_the_host_itself_is_signed_in_its_name(mail_server: MailServer) -> None:
    mail_server.server.run(f"sendmail {OUTSIDE}", stdin="Subject: of the host\n\nHello.\n")
    received = mail_server.wait_outside("of the host")
    assert received.sender == f"root@{HOST}"
    assert f"d={HOST};" in received.message["DKIM-Signature"]
    assert mail_server.is_signature_valid(received.data)


def test_mail_for_root_reaches_the_administrator(mail_server: MailServer) -> None:
    mail_server.server.run("sendmail root", stdin="Subject: for root\n\nHello.\n")
    assert mail_server.wait_in_mailbox("for root", ANNA)["To"] is None


def test_undeliverable_mail_of_the_host_bounces_to_the_administrator_and_does_not_loop(
    mail_server: MailServer,
) -> None:
    mail_server.server.run("sendmail refuse@outside.test", stdin="Subject: impossible\n\nHello.\n")
    mail_server.wait_in_mailbox("Undelivered Mail Returned", ANNA, text="impossible")
    poll(lambda: mail_server.queued_senders() <= {ANNA}, 10, "something of the host is still queued")


# --- in


@pytest.mark.parametrize("port", [IMAP, IMAPS])
@pytest.mark.parametrize(
    ("recipient", "owner"),
    [
        (ANNA, ANNA),
        (ANNA.upper(), ANNA),
        ("anna+shop@example.test", ANNA),
        ("info@example.test", ANNA),
        ("info+shop@example.test", ANNA),
        ("team@example-two.test", BEN),
        (f"postmaster@{HOST}", ANNA),
        ("postmaster", ANNA),
    ],
)
def test_mail_from_outside_is_read_over_imap_by_its_recipient(
    mail_server: MailServer, recipient: str, owner: str, port: int
) -> None:
    mail_server.receive_message(f"in-{recipient}-{port}", recipient)
    assert mail_server.wait_in_mailbox(f"in-{recipient}-{port}", owner, port=port)["Return-Path"] == f"<{STRANGER}>"


def test_mail_from_outside_gets_no_signature_and_no_headers(mail_server: MailServer) -> None:
    mail_server.receive_message("as it came", ANNA)
    message = mail_server.wait_in_mailbox("as it came", ANNA)
    assert {name for name in ("DKIM-Signature", "Date", "Message-ID") if message[name]} == set()


def test_mail_between_accounts_arrives(mail_server: MailServer) -> None:
    assert is_accepted(mail_server.submit_message("among us", recipient=BEN))
    assert mail_server.wait_in_mailbox("among us", BEN)["From"] == ANNA


def test_an_accounts_sieve_script_files_its_mail(mail_server: MailServer) -> None:
    home = "/var/vmail/example-two.test/ben"
    script = 'require "fileinto";\nif header :contains "Subject" "sieved" { fileinto "Junk"; }\n'
    mail_server.server.run(f"install -d -o vmail -g vmail -m 700 {home} && cat > {home}/.dovecot.sieve", stdin=script)
    mail_server.receive_message("sieved", BEN)
    assert mail_server.wait_in_mailbox("sieved", BEN, "Junk")


# --- settings


def test_a_catch_all_gets_the_mail_that_no_other_account_gets(
    boot_copy: Callable[[str], Site], internet: Internet
) -> None:
    site = boot_copy("catching")
    site.settings_file.write_text(site.settings_file.read_text() + f"\ncatch_all: {{example.test: {BEN}}}\n")
    mail_server = MailServer(deploy_site(site), internet)
    mail_server.receive_message("for nobody", "nobody@example.test")
    mail_server.receive_message("for anna", ANNA)
    assert mail_server.wait_in_mailbox("for nobody", BEN)
    assert mail_server.wait_in_mailbox("for anna", ANNA)
    assert talk_smtp(mail_server.ip, 25, envelope_commands(STRANGER, "nobody@example-two.test")).startswith("550 5.1.1")


def test_mail_waits_until_the_relay_hosts_certificate_is_trusted_and_then_leaves_through_it(
    boot_copy: Callable[[str], Site], internet: Internet
) -> None:
    site = boot_copy("relayed")
    relay = f"\nrelay: {{host: relay.outside.test, port: 587, user: {RELAY_USER}}}\n"
    site.settings_file.write_text(site.settings_file.read_text() + relay)
    save_relay_password(site.inventory, RELAY_PASSWORD)
    mail_server = MailServer(deploy_site(site), internet)
    assert mail_server.server.run("stat -c '%a %U' /etc/postfix/relay_password").stdout == "600 root\n"

    assert is_accepted(mail_server.submit_message("relayed"))
    waits = poll(
        lambda: mail_server.server.run("postqueue -j | grep -i certificate", check=False).stdout, 15, "not deferred"
    )
    assert "not trusted" in waits or "not verified" in waits
    assert not [received for received in internet.read_messages() if received.message["Subject"] == "relayed"]

    certificate = internet.run("cat /opt/outside/mx.pem").stdout
    mail_server.server.write("/usr/local/share/ca-certificates/relay.crt", certificate)
    mail_server.server.run("update-ca-certificates; systemctl restart postfix; postfix flush")
    received = mail_server.wait_outside("relayed")
    assert (received.listener, received.user, received.tls) == ("relay", RELAY_USER, "TLSv1.3")
    assert mail_server.is_signature_valid(received.data)


def test_mail_is_deferred_while_the_disk_is_nearly_full(boot_copy: Callable[[str], Site]) -> None:
    site = boot_copy("full")
    server = site.server
    queue = "/var/spool/postfix"
    server.run(f"""set -e
systemctl stop postfix
mkdir /small; mount -t tmpfs -o size=400M tmpfs /small; cp -a {queue}/. /small; mount --bind /small {queue}
systemctl restart dovecot postfix mailkeep-watch""")
    offer = [f"MAIL FROM:<{STRANGER}>"]
    assert talk_smtp(str(server.ip), 25, offer).startswith("452 4.3.1 Insufficient system storage")
    server.run("postconf -e queue_minfree=0; systemctl restart postfix")
    assert is_accepted(talk_smtp(str(server.ip), 25, offer))

    # Without a byte, alerts take the room that was kept for them.
    reserve = f"{queue}/{mail_reserve.DIRECTORY}"
    poll(lambda: server.run(f"ls {reserve} | wc -l", check=False).stdout == f"{mail_reserve.FILES}\n", 20, "no reserve")
    server.run(f"head -c 1G /dev/zero >{queue}/full", check=False)
    assert talk_smtp(str(server.ip), 25, offer).startswith("452 4.3.1 Insufficient system storage")
    assert next(send_test_alerts(site.inventory)).arrived
    server.run(f"rm -r {reserve}; head -c 1G /dev/zero >>{queue}/full", check=False)
    assert not next(send_test_alerts(site.inventory)).arrived


# --- a reboot


def test_after_a_reboot_every_unit_runs_and_mail_flows(mail_server: MailServer) -> None:
    running = "systemctl list-units --type=service --state=running --plain --no-legend | awk '{ print $1 }'"
    before = set(mail_server.server.run(running).stdout.split())
    mail_server.server.restart()
    after = set(mail_server.server.run(running).stdout.split())
    assert {"postfix.service", "dovecot.service", "opendkim.service", "fail2ban.service", "unbound.service"} <= after
    assert before - after <= {unit for unit in before if "@" in unit or unit.startswith(("session", "apt-"))}
    assert mail_server.server.run("nft list table inet mailkeep").stdout
    poll(
        lambda: mail_server.server.run("nft list table inet f2b-table", check=False).stdout, 20, "fail2ban has no table"
    )
    assert is_accepted(mail_server.submit_message("after the reboot"))
    assert mail_server.is_signature_valid(mail_server.wait_outside("after the reboot").data)
    mail_server.receive_message("back again", ANNA)
    assert mail_server.wait_in_mailbox("back again", ANNA)
