"""Mail flows: out, signed and stripped of what is nobody's business; in, to whom it is for; and nothing is lost or
leaves unsigned when a part is broken."""

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

ANNA, BEN = "anna@example.test", "ben@example-two.test"
HOST = "mail.example.test"
TELLING = (
    "Received: from [192.0.2.99] by laptop",
    "User-Agent: Gossip/1.0",
    "X-Mailer: Gossip",
    "X-Originating-IP: 192.0.2.99",
)

# It takes five seconds to stop by itself.
KILL_SIGNER = "systemctl kill --signal=KILL opendkim; systemctl stop opendkim; systemctl reset-failed"


@dataclass(frozen=True)
class Post:
    """A server with mail to and from it."""

    site: Site
    outside: Internet

    @property
    def server(self) -> Server:
        return self.site.server

    @property
    def ip(self) -> str:
        return str(self.server.ip)

    def submit(self, subject: str, *headers: str, recipient: str = OUTSIDE, port: int = SUBMISSION) -> str:
        """Anna sends a message."""
        login = ANNA, self.site.passphrases[ANNA]
        return deliver_message(
            self.ip, port, ANNA, [recipient], compose_message(ANNA, recipient, subject, *headers), login=login
        )

    def receive(self, subject: str, recipient: str) -> None:
        """Somebody outside sends a message, over IPv6 where he can."""
        text = compose_message(STRANGER, recipient, subject).encode()
        reply = self.outside.send(STRANGER, recipient, self.server.ip, text)
        assert reply.code == 250, reply

    def arrived(self, subject: str) -> Received:
        return self.outside.wait_for(lambda received: received.message["Subject"] == subject)

    def found(self, subject: str, owner: str, folder: str = "INBOX", port: int = IMAPS) -> EmailMessage:
        """The message in a mailbox, once it is there."""

        def there() -> list[EmailMessage]:
            raw = read_mailbox(self.ip, port, owner, self.site.passphrases[owner], folder)
            parsed = [message_from_bytes(one, policy=policy.default) for one in raw]
            return [one for one in parsed if subject in str(one["Subject"])]

        return poll(there, 15, f"{subject!r} is not in {folder} of {owner}")[0]

    def queued_from(self) -> set[str]:
        """The senders of what is in the queue; a bounce's is MAILER-DAEMON."""
        return {json.loads(line)["sender"] for line in self.server.run("postqueue -j").stdout.splitlines()}

    def record(self, name: bytes, timeout: int = 5) -> bytes | None:  # noqa: ARG002 - as dkimpy calls it
        """A TXT record, of those that we tell operators to publish."""
        printed = own_zone_records(self.site.settings, self.site.secrets)
        return next((r.value.encode() for r in printed if r.type == "TXT" and f"{r.name}." == name.decode()), None)

    def verifies(self, data: bytes) -> bool:
        return dkim.verify(data, dnsfunc=self.record)

    def verifies_at_opendkim(self, data: bytes) -> bool:
        """As many receivers have it. dkimpy never lets a second From pass."""
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


def deployed(site: Site) -> Site:
    said = site.deploy()
    assert said.code == 0, said.output
    return site


@pytest.fixture(scope="module")
def post(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[Post]:
    internet.clear_messages()
    server = lab.boot_server("post", hostname=HOST, image=built_image)
    yield Post(deployed(built_site.copy_for(server)), internet)
    server.remove()


@pytest.fixture
def without(post: Post) -> Iterator[Callable[[str], None]]:
    """Takes something away from the server until the test is over."""
    post.server.run("tar -cf /root/etc.tar /etc/postfix /etc/opendkim.conf")

    def take(command: str) -> None:
        post.server.run(f"systemctl stop postfix; {KILL_SIGNER}\n{command}\nsystemctl start opendkim postfix")

    yield take
    take("tar -xpf /root/etc.tar -C /")


# --- out


@pytest.mark.parametrize("port", [SUBMISSION, SUBMISSIONS])
def test_what_an_account_sends_arrives_with_a_signature_that_the_printed_record_verifies(post: Post, port: int) -> None:
    assert is_accepted(post.submit(f"signed-{port}", port=port))
    received = post.arrived(f"signed-{port}")
    assert (received.sender, received.recipients) == (ANNA, (OUTSIDE,))
    assert received.tls == "TLSv1.3"
    assert "d=example.test;" in received.message["DKIM-Signature"]
    assert post.verifies(received.data)
    assert not post.verifies(received.data.replace(b"Hello.", b"Hallo."))


def test_a_from_header_added_on_the_way_breaks_the_signature(post: Post, without: Callable[[str], None]) -> None:
    def second_from_verifies(subject: str) -> bool:
        post.submit(subject)
        return post.verifies_at_opendkim(b"From: boss@bank.test\r\n" + post.arrived(subject).data)

    assert not second_from_verifies("oversigned")
    without("sed -i /^OversignHeaders/d /etc/opendkim.conf")
    assert second_from_verifies("not oversigned")


def test_what_leaves_does_not_tell_where_its_author_sits_or_with_which_program(
    post: Post, lab: Lab, without: Callable[[str], None]
) -> None:
    def told(subject: str) -> set[str]:
        post.submit(subject, *TELLING)
        text = post.arrived(subject).data.decode()
        return {
            hint for hint in ("192.0.2.99", "laptop", "Gossip", str(lab.ipv4_address(1)), "Received:") if hint in text
        }

    assert told("discreet") == set()
    without("postconf -P submission-cleanup/unix/header_checks=")
    assert told("indiscreet") == {"192.0.2.99", "laptop", "Gossip", str(lab.ipv4_address(1)), "Received:"}


def test_what_leaves_has_a_date_and_a_message_id_and_keeps_its_own(post: Post) -> None:
    post.submit("dated by us")
    theirs = post.arrived("dated by us").message
    assert theirs["Date"]
    assert theirs["Message-ID"].endswith(f"@{HOST}>")
    own = ("Date: Thu, 01 Jan 2026 00:00:00 +0000", "Message-ID: <own@example.test>")
    post.submit("dated by her", *own)
    hers = post.arrived("dated by her").message
    assert [f"{name}: {hers[name]}" for name in ("Date", "Message-ID")] == [*own]


def test_nothing_leaves_unsigned_while_the_signer_is_down(post: Post, without: Callable[[str], None]) -> None:
    post.server.run(KILL_SIGNER)
    assert re.match("45[14] 4", post.submit("refused"))
    post.server.run(f"sendmail {OUTSIDE}", stdin="Subject: waits\n\nHello.\n")
    post.server.run("systemctl start opendkim; postfix flush")
    assert post.verifies(post.arrived("waits").data)
    assert not [m for m in post.outside.read_messages() if m.message["Subject"] == "refused"]

    without("postconf -e milter_default_action=accept")
    post.server.run(KILL_SIGNER)
    assert is_accepted(post.submit("unsigned"))
    assert not post.arrived("unsigned").message["DKIM-Signature"]


def test_what_the_host_itself_sends_is_signed_in_its_name(post: Post) -> None:
    post.server.run(f"sendmail {OUTSIDE}", stdin="Subject: of the host\n\nHello.\n")
    received = post.arrived("of the host")
    assert received.sender == f"root@{HOST}"
    assert f"d={HOST};" in received.message["DKIM-Signature"]
    assert post.verifies(received.data)


def test_mail_for_root_reaches_the_administrator(post: Post) -> None:
    post.server.run("sendmail root", stdin="Subject: for root\n\nHello.\n")
    assert post.found("for root", ANNA)["To"] is None


def test_what_the_host_cannot_deliver_comes_back_to_the_administrator_and_does_not_loop(post: Post) -> None:
    post.server.run("sendmail refuse@outside.test", stdin="Subject: impossible\n\nHello.\n")
    bounce = post.found("Undelivered Mail Returned", ANNA)
    assert "impossible" in bounce.as_string()
    poll(lambda: post.queued_from() <= {ANNA}, 10, "something of the host is still queued")


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
def test_mail_from_outside_is_read_over_imap_by_whom_it_is_for(
    post: Post, recipient: str, owner: str, port: int
) -> None:
    post.receive(f"in-{recipient}-{port}", recipient)
    assert post.found(f"in-{recipient}-{port}", owner, port=port)["Return-Path"] == f"<{STRANGER}>"


def test_mail_from_outside_is_neither_signed_nor_completed(post: Post) -> None:
    post.receive("as it came", ANNA)
    came = post.found("as it came", ANNA)
    assert {name for name in ("DKIM-Signature", "Date", "Message-ID") if came[name]} == set()


def test_mail_between_accounts_arrives(post: Post) -> None:
    assert is_accepted(post.submit("among us", recipient=BEN))
    assert post.found("among us", BEN)["From"] == ANNA


def test_an_accounts_sieve_script_files_its_mail(post: Post) -> None:
    home = "/var/vmail/example-two.test/ben"
    script = 'require "fileinto";\nif header :contains "Subject" "sieved" { fileinto "Junk"; }\n'
    post.server.run(f"install -d -o vmail -g vmail -m 700 {home} && cat > {home}/.dovecot.sieve", stdin=script)
    post.receive("sieved", BEN)
    assert post.found("sieved", BEN, "Junk")


# --- settings


def test_a_catch_all_takes_what_nobody_else_does(boot_copy: Callable[[str], Site], internet: Internet) -> None:
    site = boot_copy("catching")
    site.settings_file.write_text(site.settings_file.read_text() + f"\ncatch_all: {{example.test: {BEN}}}\n")
    post = Post(deployed(site), internet)
    post.receive("for nobody", "nobody@example.test")
    post.receive("for anna", ANNA)
    assert post.found("for nobody", BEN)
    assert post.found("for anna", ANNA)
    assert talk_smtp(post.ip, 25, envelope_commands(STRANGER, "nobody@example-two.test")).startswith("550 5.1.1")


def test_mail_leaves_through_the_relay_host_whose_certificate_is_good_and_else_waits(
    boot_copy: Callable[[str], Site], internet: Internet
) -> None:
    site = boot_copy("relayed")
    relay = f"\nrelay: {{host: relay.outside.test, port: 587, user: {RELAY_USER}}}\n"
    site.settings_file.write_text(site.settings_file.read_text() + relay)
    save_relay_password(site.inventory, RELAY_PASSWORD)
    post = Post(deployed(site), internet)
    assert post.server.run("stat -c '%a %U' /etc/postfix/relay_password").stdout == "600 root\n"

    assert is_accepted(post.submit("relayed"))
    waits = poll(lambda: post.server.run("postqueue -j | grep -i certificate", check=False).stdout, 15, "not deferred")
    assert "not trusted" in waits or "not verified" in waits
    assert not [m for m in internet.read_messages() if m.message["Subject"] == "relayed"]

    certificate = internet.run("cat /opt/outside/mx.pem").stdout
    post.server.write("/usr/local/share/ca-certificates/relay.crt", certificate)
    post.server.run("update-ca-certificates; systemctl restart postfix; postfix flush")
    received = post.arrived("relayed")
    assert (received.listener, received.user, received.tls) == ("relay", RELAY_USER, "TLSv1.3")
    assert post.verifies(received.data)


def test_mail_is_refused_for_the_time_being_while_the_disk_is_nearly_full(boot_copy: Callable[[str], Site]) -> None:
    server = boot_copy("full").server
    queue = "/var/spool/postfix"
    server.run(f"""set -e
systemctl stop postfix
mkdir /small; mount -t tmpfs -o size=400M tmpfs /small; cp -a {queue}/. /small; mount --bind /small {queue}
systemctl restart dovecot postfix""")
    offer = [f"MAIL FROM:<{STRANGER}>"]
    assert talk_smtp(str(server.ip), 25, offer).startswith("452 4.3.1 Insufficient system storage")
    server.run("postconf -e queue_minfree=0; systemctl restart postfix")
    assert is_accepted(talk_smtp(str(server.ip), 25, offer))


# --- a reboot


def test_after_a_reboot_every_unit_runs_and_mail_flows(post: Post) -> None:
    running = "systemctl list-units --type=service --state=running --plain --no-legend | awk '{ print $1 }'"
    before = set(post.server.run(running).stdout.split())
    post.server.restart()
    after = set(post.server.run(running).stdout.split())
    assert {"postfix.service", "dovecot.service", "opendkim.service", "fail2ban.service", "unbound.service"} <= after
    assert before - after <= {unit for unit in before if "@" in unit or unit.startswith(("session", "apt-"))}
    assert post.server.run("nft list table inet mailkeep").stdout
    poll(lambda: post.server.run("nft list table inet f2b-table", check=False).stdout, 20, "fail2ban has no table")
    assert is_accepted(post.submit("after the reboot"))
    assert post.verifies(post.arrived("after the reboot").data)
    post.receive("back again", ANNA)
    assert post.found("back again", ANNA)
