"""The documentation's commands that need a server: each document from its top to its end, on servers of the lab.

A command must succeed; `EFFECTS` also asserts the effect of some of them.
"""

from __future__ import annotations

import gzip
import imaplib
import json
import smtplib
import socket
import ssl
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from email.message import EmailMessage
from email.utils import make_msgid
from ipaddress import ip_network
from pathlib import Path

import pytest
from documents import DOCUMENTS, Command, SettingsBlock, read_steps
from workstation import Workstation, read_init_command

from mailkeep.dns import blocklists
from mailkeep.inventory.dkim_keys import generate_dkim_pem
from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.internet import DIRECTORY

ANNA, BERT, FRIEND = "anna@example.org", "bert@example.org", "friend@example.net"
UNRESOLVABLE = "friend@bogus.test"  # its DNSSEC signatures are wrong, so mail to it stays in the queue
DOCUMENTS_ZONE = "docs"
# The entry by which a blocklist shows that it works (RFC 5782 section 5).
BLOCKLIST = f"{blocklists.entry_name(blocklists.LISTS[0], blocklists.LISTS[0].must_list)}. A 127.0.0.2\n"
OPEN, CLOSED = True, False
TOO_MANY_LOGINS = 450
LOGIN_TIMEOUT = (
    90  # seconds; Dovecot lets an address with refused logins wait up to 15, before it looks at the password
)
UNVERIFIED_TLS = ssl.create_default_context()
UNVERIFIED_TLS.check_hostname, UNVERIFIED_TLS.verify_mode = False, ssl.CERT_NONE


@dataclass
class World:
    """A reader's workstation, their server, and the Internet between them."""

    internet: Internet
    server: Server
    workstation: Workstation
    banned: str
    old_server: Server | None = None
    new_server: Server | None = None
    session: imaplib.IMAP4_SSL | None = None
    mail_program: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """The cache of Anna's mail program: Message-IDs by folder, UIDVALIDITY and UID (RFC 3501 section 2.3.1.1)."""
    output: str = ""
    """Of the last command whose effect is to be compared with another's."""
    published_inventory: dict[str, bytes] = field(default_factory=dict)
    """The files of the inventory whose records are published."""
    checked: list[str] = field(default_factory=list)
    """The commands of `EFFECTS` that have been run."""

    def follow_step(self, document: str, step: Command | SettingsBlock) -> None:
        if isinstance(step, SettingsBlock):
            self.workstation.write_settings(step)
        elif step.place != "clone":
            if step.needs_server and self.workstation.settings_file.exists():
                self.publish_records()
            output = self.workstation.run(step)
            for (name, text), effect in EFFECTS.items():
                if name in (document, "") and text in step.text:
                    effect(self, output)
                    self.checked.append(text)

    def run_command(self, text: str) -> str:
        """Runs a command on the reader's machine that is not in the document."""
        return self.workstation.run(Command(text, "machine", "test"))

    def publish_records(self) -> None:
        """Publishes the records of `mailkeep dns` in the lab's DNS, and a friend's mail domain."""
        inventory = self.workstation.read_inventory()
        if inventory == self.published_inventory:
            return
        records = json.loads(self.run_command("mailkeep dns home --json"))
        zone = self.run_command("mailkeep dns home --zone") + "example.net. MX 10 mx.outside.test.\n" + BLOCKLIST
        zone += "".join(f"{record['name']}. PTR {record['value']}.\n" for record in records if record["type"] == "PTR")
        self.internet.publish(zone, name=DOCUMENTS_ZONE)
        self.published_inventory = inventory

    # --- a day in the life of the server

    def open_mailbox(self, address: str, passphrase: str, server: Server | None = None) -> imaplib.IMAP4_SSL:
        client = imaplib.IMAP4_SSL(str((server or self.server).ip), 993, ssl_context=UNVERIFIED_TLS, timeout=30)
        client.login(address, passphrase)
        client.select(readonly=True)
        return client

    def can_anna_log_in(self) -> bool:
        try:
            self.open_mailbox(ANNA, self.workstation.passphrases[ANNA]).logout()
        except imaplib.IMAP4.error:
            return False
        return True

    def has_mail(self) -> bool:
        """Whether the friend's message is in Anna's mailbox."""
        client = self.open_mailbox(ANNA, self.workstation.passphrases[ANNA])
        _, message_numbers = client.search(None, "SUBJECT", '"from a friend"')
        client.logout()
        return bool(message_numbers[0])

    def list_mail(self, server: Server | None = None) -> dict[tuple[str, str, str], str]:
        """All of Anna's mail, as a mail program keeps it: Message-IDs by folder, UIDVALIDITY and UID."""
        client = self.open_mailbox(ANNA, self.workstation.passphrases[ANNA], server)
        messages = {}
        for line in client.list()[1]:
            folder = bytes(line).split()[-1].decode()
            if b"\\Noselect" in line:
                continue
            client.select(folder, readonly=True)
            validity = client.response("UIDVALIDITY")[1][0].decode()
            for item in client.uid("FETCH", "1:*", "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")[1]:
                if isinstance(item, tuple):
                    uid = item[0].decode().partition("UID ")[2].split()[0]
                    messages[folder, validity, uid] = item[1].decode().partition(":")[2].strip()
        client.logout()
        return messages

    def list_subjects(self, criterion: str = "ALL", folder: str = "INBOX") -> list[str]:
        """The subjects of Anna's messages in a folder, sorted."""
        client = self.open_mailbox(ANNA, self.workstation.passphrases[ANNA])
        client.select(folder, readonly=True)
        numbers = client.search(None, criterion)[1][0].decode().replace(" ", ",")
        items = client.fetch(numbers, "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1] if numbers else []
        client.logout()
        return sorted(item[1].decode().partition(":")[2].strip() for item in items if isinstance(item, tuple))

    def assert_mail_program_sees_the_same_messages(self) -> None:
        """No message has another's number: a mail program that deletes by number would delete the wrong one."""
        server_mail = self.list_mail()
        others = {key: (known, server_mail[key]) for key, known in self.mail_program.items() if key in server_mail}
        assert not [(key, pair) for key, pair in others.items() if pair[0] != pair[1]]

    def receive_mail(self, subject: str, *recipients: str) -> None:
        """A message from the friend arrives in Anna's mailbox, in one session for all recipients."""
        hello = EmailMessage()
        hello["From"], hello["To"], hello["Subject"] = FRIEND, ", ".join(recipients or (ANNA,)), subject
        hello["Message-ID"] = make_msgid(domain="example.net")
        reply = self.internet.send(FRIEND, recipients or ANNA, self.server.ip, hello)
        assert reply.code == 250, reply
        poll(lambda: subject in self.list_subjects(), 30, f"{subject!r} has not arrived")

    def connect_submission(self) -> smtplib.SMTP_SSL:
        return smtplib.SMTP_SSL(str(self.server.ip), 465, context=UNVERIFIED_TLS, timeout=LOGIN_TIMEOUT)

    def send_from_anna(self, *recipients: str, author: str = ANNA, sender: str = ANNA) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = author, ", ".join(recipients), "from Anna"
        message.set_content("Hello.\n")
        with poll(self.log_anna_in, 75, "no login is accepted", interval=10) as client:
            client.send_message(message, sender)

    def log_anna_in(self) -> smtplib.SMTP_SSL | None:
        """None while Postfix takes no more logins from here (smtpd_client_auth_rate_limit): one document follows the
        other."""
        client = self.connect_submission()
        try:
            client.login(ANNA, self.workstation.passphrases[ANNA])
        except smtplib.SMTPAuthenticationError as error:
            client.close()
            if error.smtp_code == TOO_MANY_LOGINS:
                return None
            raise
        return client

    def make_refused_attempts(self) -> None:
        """Nothing of this is mail that an account has sent: as somebody else, to nobody, by relaying, by guessing."""
        for refused in ({"author": FRIEND}, {"sender": FRIEND}):
            with pytest.raises(smtplib.SMTPException):
                self.send_from_anna(FRIEND, **refused)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            self.send_from_anna("nobody@example.org")
        for recipient in ("nobody@example.org", "x@elsewhere.example"):
            assert self.internet.send(FRIEND, recipient, self.server.ip, b"x\r\n").code >= 500
        for user in (ANNA, "mailkeep-probe@example.org"):
            with pytest.raises(smtplib.SMTPAuthenticationError), self.connect_submission() as client:
                client.login(user, "wrong-password")

    def fill_with_life(self) -> None:
        """Mail comes in and goes out, two messages wait in the queue, an address is banned, Anna is logged in.

        The journal's recipes then see this life only, whose totals are known.
        """
        self.server.run("postsuper -d ALL; sleep 1")
        # What the documents before have sent and tried in vain would use up Anna's limits, and freeze her.
        guard = "mailkeep-guard.socket mailkeep-guard.service"
        self.server.run(f"systemctl stop {guard}; python3 -; systemctl start {guard}", stdin=FORGET_WHAT_ANNA_DID)
        begin = f"--since @{self.server.run('date +%s').stdout.strip()}"
        self.workstation.substitutes |= {"--since yesterday": begin, '--since "3 days ago"': begin}
        self.internet.clear_messages()
        self.receive_mail("from a friend")
        self.send_from_anna(FRIEND)
        self.internet.wait_for(lambda mail: mail.recipients == (FRIEND,))
        self.send_from_anna(FRIEND, "other@example.net", "refuse@example.net")
        self.internet.wait_for(lambda mail: len(mail.recipients) == 2)
        self.make_refused_attempts()
        self.send_from_anna(UNRESOLVABLE)
        self.server.run(f"printf 'Subject: from root\\n\\n' | sendmail {UNRESOLVABLE}")
        poll(lambda: self.read_queue() == {(ANNA, "deferred"), ("root@mail.example.org", "deferred")}, 30, "queue")
        poll(self.has_mail, 30, "nothing came")
        self.server.run(f"fail2ban-client set dovecot banip {self.banned}")
        self.session = self.open_mailbox(ANNA, self.workstation.passphrases[ANNA])

    def hold_queue_as_the_watch_does(self) -> None:
        """By its own list of the messages that it has put on hold, beyond `guard.leaving`."""
        ids = "".join(
            f"{json.loads(line)['queue_id']}\n" for line in self.server.run("postqueue -j").stdout.splitlines()
        )
        self.server.run("tee /var/lib/mailkeep-watch/stopped | postsuper -h -", stdin=ids)

    def read_queue(self) -> set[tuple[str, str]]:
        """Sender and queue of each message; without those of the watch, which may send an alert at any time."""
        messages = map(json.loads, self.server.run("postqueue -j").stdout.splitlines())
        return {
            (message["sender"], message["queue_name"])
            for message in messages
            if message["sender"] != "postmaster@mail.example.org"
        }


# --- the effects of commands. A key is a document ("" for all) and a text that the command contains.

EFFECTS: dict[tuple[str, str], Callable[[World, str], None]] = {}


def after_command(text: str, *documents: str) -> Callable[[Callable[[World, str], None]], Callable[[World, str], None]]:
    def register_effect(effect: Callable[[World, str], None]) -> Callable[[World, str], None]:
        EFFECTS.update({(document, text): effect for document in documents})
        return effect

    return register_effect


def accepts_connections(server: Server, port: int) -> bool:
    try:
        socket.create_connection((str(server.ip), port), timeout=5).close()
    except OSError:
        return False
    return True


@after_command("mailkeep deploy home", "")
def exactly_the_declared_accounts_can_log_in(world: World, output: str) -> None:
    assert "DNS: " in output
    declared = world.workstation.settings_file.read_text()
    frozen = world.server.run("cat /var/lib/mailkeep-guard/frozen/accounts").stdout
    for address, passphrase in list(world.workstation.passphrases.items()):
        if f"{address}:" in frozen:
            continue
        if f"address: {address}" in declared:
            world.open_mailbox(address, passphrase).logout()
        else:
            with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
                world.open_mailbox(address, passphrase)
            del world.workstation.passphrases[address]  # five such failures would be a ban


@after_command("mailkeep verify home", "")
def no_check_fails(_world: World, output: str) -> None:
    assert ", 0 failed" in output


@after_command("mailkeep dns home --check", "")
def the_published_records_are_seen(_world: World, output: str) -> None:
    assert "0 errors" in output or "all records are published as they should be" in output


@after_command("plan home", "first-server.md")
def only_the_plan_after_the_deploy_has_nothing_to_do(world: World, output: str) -> None:
    deployed = "mailkeep deploy home" in world.checked
    assert ("nothing to do" in output) == deployed


@after_command("mailkeep queue home list", "day-two.md")
@after_command("mailkeepctl limits", "after-a-break-in.md")
@after_command("mailkeepctl logins", "after-a-break-in.md")
def the_sender_is_named(_world: World, output: str) -> None:
    assert ANNA in output


def read_counts(output: str) -> dict[tuple[str, ...], int]:
    """The lines of `uniq -c`: the words of a line, and how often it came."""
    return {tuple(words): int(count) for count, *words in (line.split() for line in output.splitlines())}


@after_command("mailkeep trace home", "day-two.md")
def each_message_of_the_address_has_its_fate(_world: World, output: str) -> None:
    assert f"{FRIEND}: mx.outside.test has it since " in output
    assert output.count("refused at the door") >= 3  # Anna as the friend; the friend to nobody, and to elsewhere
    assert "The log reaches back to " in output


@after_command("mailkeep report home", "day-two.md")
def each_recipient_of_each_accounts_mail_is_counted_once(_world: World, output: str) -> None:
    [heads] = [line.split() for line in output.splitlines() if line.startswith("account ")]
    [row] = [line.split() for line in output.splitlines() if line.startswith(ANNA)]
    numbers = dict(zip(heads, row, strict=True))
    assert (numbers["delivered"], numbers["bounced"], numbers["deferred"]) == ("3", "1", "1")


@after_command("mailkeep report home", "after-a-break-in.md")
def each_recipient_of_the_accounts_mail_is_counted_once(_world: World, output: str) -> None:
    assert {line.split()[1] for line in output.splitlines() if line.startswith(("delivered ", "bounced "))} >= {
        "3",
        "1",
    }


@after_command("mailkeep logins home anna@example.org", "after-a-break-in.md")
def good_and_failed_logins_are_counted(_world: World, output: str) -> None:
    rows = [line.split() for line in output.splitlines() if line.startswith(ANNA)]
    good, failed = ({row[2]: int(row[column]) for row in rows if int(row[column])} for column in (7, 8))
    assert good.keys() >= {"smtp", "imap"}
    assert failed.keys() & {"smtp", "submission", "imap"}


@after_command("/var/lib/mailkeep-watch/stopped", "guard.md")
def what_the_watch_has_held_goes_out(world: World, _output: str) -> None:
    assert "hold" not in {queue for _, queue in world.read_queue()}
    assert world.server.run("cat /var/lib/mailkeep-watch/stopped", check=False).returncode != 0


@after_command("mailkeep bans home", "day-two.md")
def the_banned_address_is_listed(world: World, output: str) -> None:
    assert world.banned in output


@after_command("--lift", "day-two.md")
def the_address_is_no_longer_banned(world: World, _output: str) -> None:
    assert world.banned not in world.server.run("fail2ban-client banned; nft list ruleset").stdout


@after_command("systemctl start local-metrics", "day-two.md")
def the_collector_has_a_file(world: World, _output: str) -> None:
    text = world.server.run("cat /var/lib/prometheus/node-exporter/mailkeep.prom").stdout
    assert 'mailkeep_looked_at{what="queue"} 1' in text


@after_command("mailkeep status", "day-two.md", "after-a-break-in.md")
def the_status_is_said(_world: World, output: str) -> None:
    assert "all is well" in output or "the worst first" in output or "Not looked at" in output


@after_command("mailkeep queue home hold", "day-two.md")
@after_command("mailkeepctl freeze", "after-a-break-in.md")
def only_that_senders_mail_is_held(world: World, _output: str) -> None:
    assert world.read_queue() == {(ANNA, "hold"), ("root@mail.example.org", "deferred")}


@after_command("mailkeep queue home release", "day-two.md")
def that_senders_mail_is_no_longer_held(world: World, _output: str) -> None:
    assert (ANNA, "hold") not in world.read_queue()


@after_command("mailkeep queue home delete", "day-two.md", "after-a-break-in.md")
def only_that_senders_mail_is_gone(world: World, _output: str) -> None:
    assert {sender for sender, _ in world.read_queue()} == {"root@mail.example.org"}


@after_command("openssl x509 -in /etc/mailkeep/tls/server.pem -noout -subject", "day-two.md")
def every_port_shows_the_imported_certificate(world: World, _output: str) -> None:
    ours = (world.workstation.clone / "fullchain.pem").read_text().split()
    for port in (465, 993):
        assert ssl.get_server_certificate((str(world.server.ip), port)).split() == ours


@after_command("systemctl start mailkeep-certificate", "certificates.md")
def every_port_shows_the_authoritys_certificate(world: World, _output: str) -> None:
    pems = {ssl.get_server_certificate((str(world.server.ip), port)) for port in (465, 993)}
    assert len(pems) == 1
    assert "Pebble" in world.server.run("openssl x509 -noout -issuer", stdin=pems.pop()).stdout


@after_command("journalctl --disk-usage", "day-two.md")
def a_colleague_gets_a_message_too(world: World, _output: str) -> None:
    """Before the backup: one message to two mailboxes, stored once, as before there were scripts for all accounts."""
    world.run_command(f"mailkeep account add home {BERT} --generate")
    world.run_command("mailkeep deploy home --no-verify")
    world.receive_mail("to both", ANNA, BERT)
    files = "$(grep -ls 'Subject: to both' /var/vmail/example.org/{}/Maildir/new/*)"
    world.server.run(f"ln -f {files.format('anna')} {files.format('bert')}")
    world.receive_mail("read since")


@after_command("mv mail.part", "day-two.md")
def the_mailbox_changes_and_loses_mail(world: World, output: str) -> None:
    """After the backup, which has all messages."""
    assert int(output) == int(world.server.run("find /var/vmail -path '*/cur/*' -o -path '*/new/*' | wc -l").stdout)
    world.receive_mail("arrived since")
    world.server.run(f"doveadm flags add -u {ANNA} '\\Seen' mailbox INBOX subject 'read since'")
    world.server.run(f"doveadm mailbox create -u {ANNA} Kept")
    world.server.run(f"doveadm move -u {ANNA} Kept mailbox INBOX subject 'read since'")
    world.mail_program = world.list_mail()
    for subject in ("from a friend", "to both"):
        world.server.run(f"doveadm expunge -u {ANNA} mailbox INBOX subject '{subject}'")
    assert not world.has_mail()


@after_command("Restored mailbox INBOX", "day-two.md")
def only_that_message_is_in_its_own_folder(world: World, _output: str) -> None:
    assert set(world.list_subjects(folder="Restored.INBOX")) == {"from a friend"}
    assert not world.has_mail()
    world.assert_mail_program_sees_the_same_messages()


def find_repeated(mail: dict[tuple[str, str, str], str]) -> dict[tuple[str, str, str], str]:
    """The messages whose Message-ID another one has, too."""
    counts = Counter(mail.values())
    return {key: message for key, message in mail.items() if counts[message] > 1}


@after_command('Maildir "" all', "day-two.md")
def the_lost_mail_is_back_and_nothing_is_twice(world: World, _output: str) -> None:
    subjects = world.list_subjects()
    for subject in ("from a friend", "to both", "arrived since"):
        assert subject in subjects
    assert subjects.count("to both") == subjects.count("arrived since") == 1
    assert "read since" not in subjects
    assert world.list_subjects("SEEN", folder="Kept") == ["read since"]
    world.assert_mail_program_sees_the_same_messages()
    mail = {key: message for key, message in world.list_mail().items() if key[0] != "Restored.INBOX"}
    assert find_repeated(mail) == {}


@after_command("ssh mail.example.org 'find", "rebuild.md")
def no_message_is_missing_on_the_new_server(world: World, output: str) -> None:
    """The backup lacks one message, and another has come since."""
    assert output == world.output
    subjects = world.list_subjects()
    # A document before this one has left copies in a folder.
    assert set(find_repeated(world.list_mail()).values()) <= set(find_repeated(world.mail_program).values())
    assert {"from a friend", "early"} <= set(subjects)
    assert "after the backup" not in subjects
    world.receive_mail("after the restore")
    world.assert_mail_program_sees_the_same_messages()


@after_command("mailkeep move home --to", "moving-house.md")
def mail_programs_notice_nothing(world: World, _output: str) -> None:
    """The mailboxes have the same folders, numbers and messages, and the queue has the same mail."""
    assert world.mail_program
    assert world.new_server
    old, world.server = world.server, world.new_server
    assert world.list_mail() == world.mail_program
    assert world.read_queue() == {(ANNA, "deferred"), ("root@mail.example.org", "deferred")}
    assert [accepts_connections(old, port) for port in (25, 465, 587, 143, 993, 4190)] == [OPEN] * 6


@after_command("mailkeep dns home --moving", "moving-house.md")
def the_reader_changes_the_dns(world: World, _output: str) -> None:
    world.publish_records()


@after_command("mailkeep move home --finish", "moving-house.md")
def the_old_machine_accepts_no_connections(world: World, _output: str) -> None:
    assert world.old_server
    assert [accepts_connections(world.old_server, port) for port in (25, 465, 587, 143, 993, 4190)] == [CLOSED] * 6


@after_command("--exclude=", "rebuild.md")
def the_mailboxes_are_closed_while_tar_runs(world: World, _output: str) -> None:
    assert not accepts_connections(world.server, 993)


@after_command("systemctl stop postfix", "after-a-break-in.md")
def nothing_comes_in_and_nothing_leaves(world: World, _output: str) -> None:
    assert [accepts_connections(world.server, port) for port in (25, 465, 587)] == [CLOSED] * 3


@after_command("systemctl start postfix", "after-a-break-in.md")
def the_mail_ports_are_open_again(world: World, _output: str) -> None:
    assert [accepts_connections(world.server, port) for port in (25, 465, 587)] == [OPEN] * 3


@after_command("mailkeep account freeze", "after-a-break-in.md")
def open_sessions_end_and_the_right_passphrase_is_refused(world: World, _output: str) -> None:
    assert world.session
    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        [world.session.noop() for _ in range(2)]  # the server's "BYE" may answer the first
    poll(lambda: not world.can_anna_log_in(), 2, "Anna still logs in")
    with pytest.raises(smtplib.SMTPAuthenticationError):
        world.send_from_anna(FRIEND)


@after_command("mailkeep account thaw", "after-a-break-in.md")
def the_account_can_log_in_again(world: World, _output: str) -> None:
    poll(world.can_anna_log_in, 5, "Anna does not log in")


@after_command("mailkeep blocklists", "dns.md", "after-a-break-in.md")
def nobody_lists_the_server(_world: World, output: str) -> None:
    assert "Listed on 0 blocklists." in output


@after_command("> evidence.tar.gz", "after-a-break-in.md")
def the_archive_has_a_sample_and_the_log(world: World, _output: str) -> None:
    extracted = world.workstation.clone / "taken out"
    with tarfile.open(world.workstation.clone / "evidence.tar.gz") as archive:
        archive.extractall(extracted, filter="data")
    [waiting] = json.loads((extracted / "evidence" / "queue.json").read_bytes())
    assert b"from Anna" in (extracted / "evidence" / "samples" / ANNA / waiting["queue_id"]).read_bytes()
    assert ANNA in gzip.decompress((extracted / "evidence" / "journal.gz").read_bytes()).decode()


# --- the documents, in the order of a server's life


@pytest.fixture(scope="module")
def server(lab: Lab, internet: Internet) -> Server:
    """A bare machine, which keeps the state that the README's commands leave."""
    return start_bare_machine(lab, internet, "docs")


def start_bare_machine(lab: Lab, internet: Internet, name: str) -> Server:
    machine = lab.boot_server(name, hostname="mail.example.org")
    internet.resolve_for(machine)
    return machine


@pytest.fixture(scope="module")
def readme_inventory(lab: Lab, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Workstation:
    """A workstation with the inventory that the README makes."""
    workstation = Workstation(tmp_path_factory.mktemp("readme"), lab_addresses(lab, server))
    workstation.run(read_init_command())
    return workstation


def lab_addresses(lab: Lab, server: Server, new_server: Server | None = None) -> dict[str, str]:
    """Maps addresses of the documentation to addresses of the lab. Strangers' addresses are outside its network."""
    strangers = next(n for n in ("192.0.2", "198.51.100") if lab.network.subnet_of(ip_network(f"{n}.0/24")) is False)
    addresses = {
        "mail-2026-11-22.tar.gz": f"mail-{date.today()}.tar.gz",
        "203.0.113.25": str(server.ip),
        "2001:db8::25": str(server.ip6),
        "198.51.100.0/24": f"{lab.ipv4_address(1)}/32",  # "your network": that of this machine, as the server sees it
        "198.51.100.7": "2001:db8:bad::/64",  # in no network of the jails' canaries
        "192.0.2.0/24": f"{strangers}.0/24",
        "192.0.2.66": f"{strangers}.66",
        "https://acme-staging-v02.api.letsencrypt.org/directory": DIRECTORY,
    }
    if new_server:
        addresses |= {"203.0.113.77": str(new_server.ip), "2001:db8::77": str(new_server.ip6)}
    return addresses


def write_ssh_config(workstation: Workstation, **servers: Server) -> None:
    """Writes ~/.ssh/config: a host for each keyword, whose underscores stand for dots."""
    entries = [
        f"Host {name.replace('_', '.')}\n" + machine.ssh_config.read_text().partition("\n")[2]
        for name, machine in servers.items()
    ]
    (workstation.home / ".ssh" / "config").write_text("\n".join(entries))


@pytest.fixture
def world(lab: Lab, internet: Internet, server: Server, tmp_path: Path) -> Iterator[World]:
    workstation = Workstation(tmp_path, lab_addresses(lab, server))
    workstation.environment["MAILKEEP_RESOLVER"] = internet.resolver
    write_ssh_config(workstation, mail_example_org=server)
    yield World(internet, server, workstation, banned=workstation.substitute("198.51.100.7"))
    internet.publish("", name=DOCUMENTS_ZONE)  # later tests of this worker expect no such blocklist


def follow_document(document: str, world: World) -> None:
    for step in read_steps(document):
        world.follow_step(document, step)
    expected = [text for name, text in EFFECTS if name == document]
    assert not [text for text in expected if text not in world.checked], "the document has lost these commands"


@pytest.mark.parametrize("document", ["README.md", "first-server.md"])
def test_a_bare_machine_becomes_a_mail_server(document: str, world: World) -> None:
    follow_document(document, world)


FORGET_WHAT_ANNA_DID = """
import sqlite3
database = sqlite3.connect("/var/lib/mailkeep-guard/guard.db")
database.executescript("DELETE FROM tries; DELETE FROM sent")
database.commit()
"""
MAINTENANCE = (
    "dns.md",
    "certificates.md",
    "day-two.md",
    "guard.md",
    "what-comes-in.md",
    "reports.md",
    "rules.md",
    "spam.md",
    "what-happened.md",
    "after-a-break-in.md",
)


@pytest.mark.parametrize("document", MAINTENANCE)
def test_a_running_server_is_maintained(document: str, world: World, readme_inventory: Workstation) -> None:
    world.workstation.copy_inventory(readme_inventory)
    world.publish_records()
    world.run_command("mailkeep deploy home --no-verify --allow-older")
    if document == "certificates.md":
        world.internet.start_authority()
        world.internet.trust_authority(world.server)
    elif document != "dns.md":
        world.fill_with_life()
    if document == "guard.md":
        world.hold_queue_as_the_watch_does()
    follow_document(document, world)


def test_backups_are_set_up_made_restored_and_pruned(world: World, readme_inventory: Workstation) -> None:
    """The other machine is the outside world's. Its root is also the operator, whose borg reaches it."""
    internet, workstation = world.internet, world.workstation
    workstation.copy_inventory(readme_inventory)
    world.publish_records()
    world.run_command("mailkeep deploy home --no-verify --allow-older")
    world.receive_mail("invoice 7")
    key = " ".join(internet.run("cat /etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[:2])
    workstation.substitutes |= {"backup.example.net": str(internet.ip), DOCUMENTED_HOST_KEY: key}
    write_ssh_config(workstation, **{"mail.example.org": world.server, str(internet.ip): internet})
    write_backup_programs(world)
    internet.run("userdel --remove mailkeep", check=False)
    follow_document("backup.md", world)
    assert world.list_subjects(folder="Restored.INBOX") == world.list_subjects()


DOCUMENTED_HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEB1Z29vZGV4YW1wbGVrZXlmb3Jkb2N1bWVudGF0"


def write_backup_programs(world: World) -> None:
    """The reader's borg: it runs on the outside world's machine, with a key that has all rights at the repository."""
    internet, programs = world.internet, Path(world.workstation.environment["PATH"].partition(":")[0])
    internet.run("rm -f ~/.ssh/id_ed25519; ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
    internet.run(f"ssh-keyscan -t ed25519 {internet.ip} 127.0.0.1 > ~/.ssh/known_hosts 2>/dev/null")
    script = f"""#!/bin/sh
ssh() {{ command ssh -F '{internet.ssh_config.resolve()}' {internet.name} "$@"; }}
ssh 'grep -qf ~/.ssh/id_ed25519.pub ~mailkeep/.ssh/authorized_keys ||
  cat ~/.ssh/id_ed25519.pub >> ~mailkeep/.ssh/authorized_keys'
printf '%s' "$BORG_PASSPHRASE" | ssh "BORG_PASSPHRASE_FD=0 borg $*"
"""
    (programs / "borg").write_text(script)
    (programs / "borg").chmod(0o755)


def test_a_server_moves_to_another_machine_whose_disk_dies(
    lab: Lab, world: World, readme_inventory: Workstation
) -> None:
    workstation = world.workstation
    workstation.copy_inventory(readme_inventory)
    world.publish_records()
    world.run_command("mailkeep deploy home --no-verify --allow-older")
    world.fill_with_life()
    [backup] = [step for step in read_steps("day-two.md") if isinstance(step, Command) and "mv mail.part" in step.text]
    workstation.run(backup)
    world.receive_mail("after the backup")
    world.mail_program = world.list_mail()
    world.old_server, world.new_server = world.server, start_bare_machine(lab, world.internet, "docs-new")
    workstation.substitutes |= lab_addresses(lab, world.old_server, world.new_server)
    by_address = {str(server.ip): server for server in (world.old_server, world.new_server)}
    write_ssh_config(workstation, **{"mail.example.org": world.old_server, **by_address})
    follow_document("moving-house.md", world)
    write_ssh_config(workstation, **{"mail.example.org": world.server, **by_address})
    world.output = world.server.run("find /var/vmail -path '*/cur/*' -o -path '*/new/*' | wc -l").stdout
    world.server.run("systemctl stop dovecot; rm -r /var/vmail/*; systemctl start dovecot")
    world.receive_mail("early")
    follow_document("rebuild.md", world)
    assert "after the restore" in world.list_subjects()


OLD_PASSWORD = "violet-kettle-9-orbit-lamp"  # noqa: S105
OLD_SERVER = f"""set -eu
useradd --create-home anna; echo 'anna:{OLD_PASSWORD}' | chpasswd --crypt-method SHA512
useradd --create-home test; echo test:test | chpasswd
for name in cur new tmp; do runuser -u anna -- mkdir -p /home/anna/Maildir/$name; done
printf 'From: x@example.net\\nSubject: from the old server\\nMessage-ID: <1@example.net>\\n\\nhello\\n' \\
    >/home/anna/Maildir/cur/1.M1P1.old:2,S
chown -R anna: /home/anna/Maildir
mkdir -p /etc/postfix /etc/dkimkeys
printf 'myhostname = mail.example.org\\nmydestination = example.org, localhost\\n' >/etc/postfix/main.cf
printf 'root: anna\\nsales: anna\\n' >/etc/aliases
printf 'Domain example.org\\nSelector mail\\nKeyFile /etc/dkimkeys/mail.private\\n' >/etc/opendkim.conf
"""


def test_an_old_server_moves_in(lab: Lab, world: World) -> None:
    """A server of Linux accounts; its user has mail, an alias and a password, and keeps all three."""
    world.old_server = lab.boot_server("docs-old", hostname="old.example.org")
    world.old_server.run("bash -s", stdin=OLD_SERVER)
    world.old_server.write("/etc/dkimkeys/mail.private", generate_dkim_pem())
    world.server = start_bare_machine(lab, world.internet, "docs-moved")
    world.workstation.substitutes |= lab_addresses(lab, world.server)
    write_ssh_config(world.workstation, mail_example_org=world.server, old_example_org=world.old_server)
    world.workstation.passphrases[ANNA] = OLD_PASSWORD
    try:
        follow_document("moving-in.md", world)
        assert world.list_subjects() == ["from the old server"]
        assert "mail._domainkey.example.org. " in world.run_command("mailkeep dns home --zone")
        assert "test@" not in world.server.run("cat /etc/dovecot/users").stdout
    finally:
        world.old_server.remove()
        world.server.remove()


@pytest.mark.slow
def test_every_document_with_server_commands_is_followed() -> None:
    followed = {
        "README.md",
        "first-server.md",
        "rebuild.md",
        "backup.md",
        "moving-in.md",
        "moving-house.md",
        *MAINTENANCE,
    }
    with_steps = {name for name in DOCUMENTS if any(_is_for_an_operator(step) for step in read_steps(name))}
    assert with_steps == followed


def _is_for_an_operator(step: Command | SettingsBlock) -> bool:
    """Not a command for a clone of this repository, where containers stand in for servers."""
    return isinstance(step, SettingsBlock) or step.place != "clone"
