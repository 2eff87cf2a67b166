"""The documentation's commands that need a server: each document from its top to its end, on servers of the lab.

That a command ends well is not all: `EFFECTS` says what must be so after some of them.
"""

from __future__ import annotations

import gzip
import imaplib
import json
import smtplib
import socket
import ssl
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import EmailMessage
from ipaddress import ip_network
from pathlib import Path

import pytest
from desk import Desk, init
from documents import DOCUMENTS, Command, Settings, steps

from mailkeep.dns import blocklists
from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.internet import DIRECTORY

ANNA, FRIEND = "anna@example.org", "friend@example.net"
NOWHERE = "friend@bogus.test"  # no answer about it validates, so mail to it waits
BLOCKLIST = f"{blocklists.entry_name(blocklists.LISTS[0], blocklists.LISTS[0].test)}. A 127.0.0.2\n"  # which works
OPEN, CLOSED = True, False
ANYONE = ssl.create_default_context()
ANYONE.check_hostname, ANYONE.verify_mode = False, ssl.CERT_NONE


@dataclass
class World:
    """A reader at their desk, their server, and the Internet between."""

    internet: Internet
    server: Server
    desk: Desk
    banned: str
    old: Server | None = None
    session: imaplib.IMAP4_SSL | None = None
    zone: str = ""
    happened: list[str] = field(default_factory=list)

    def do(self, document: str, step: Command | Settings) -> None:
        if isinstance(step, Settings):
            self.desk.write(step)
        elif step.place != "clone":
            if step.needs_server and self.desk.settings_file.exists():
                self.publish()
            said = self.desk.run(step)
            for (where, text), effect in EFFECTS.items():
                if where in (document, "") and text in step.text:
                    effect(self, said)
                    self.happened.append(text)

    def tell(self, text: str) -> str:
        """The command of the reader's machine, as if the document had it."""
        return self.desk.run(Command(text, "machine", "test"))

    def publish(self) -> None:
        """Enters what `mailkeep dns` says into the DNS of the lab, and a friend's mail domain."""
        reverse = [one for one in json.loads(self.tell("mailkeep dns home --json")) if one["type"] == "PTR"]
        zone = self.tell("mailkeep dns home --zone") + "example.net. MX 10 mx.outside.test.\n" + BLOCKLIST
        zone += "".join(f"{one['name']}. PTR {one['value']}.\n" for one in reverse)
        if zone != self.zone:
            self.internet.publish(zone, name="docs")
            self.zone = zone

    # --- a day in the life of the server

    def login(self, address: str, passphrase: str, server: Server | None = None) -> imaplib.IMAP4_SSL:
        client = imaplib.IMAP4_SSL(str((server or self.server).ip), 993, ssl_context=ANYONE, timeout=30)
        client.login(address, passphrase)
        client.select(readonly=True)
        return client

    def logs_in(self) -> bool:
        """Whether Anna does, with her passphrase."""
        try:
            self.login(ANNA, self.desk.passphrases[ANNA]).logout()
        except imaplib.IMAP4.error:
            return False
        return True

    def has_mail(self) -> bool:
        """Whether the friend's message is in Anna's mailbox."""
        client = self.login(ANNA, self.desk.passphrases[ANNA])
        _, found = client.search(None, "SUBJECT", '"from a friend"')
        client.logout()
        return bool(found[0])

    def send(self, *recipients: str) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = ANNA, ", ".join(recipients), "from Anna"
        message.set_content("Hello.\n")
        with smtplib.SMTP_SSL(str(self.server.ip), 465, context=ANYONE, timeout=30) as client:
            client.login(ANNA, self.desk.passphrases[ANNA])
            client.send_message(message)

    def live(self) -> None:
        """Mail comes and goes, some waits in the queue; somebody is banned; Anna is logged in."""
        self.server.run("postsuper -d ALL")
        self.internet.forget()
        hello = EmailMessage()
        hello["From"], hello["To"], hello["Subject"] = FRIEND, ANNA, "from a friend"
        reply = self.internet.send(FRIEND, ANNA, self.server.ip, hello)
        assert reply.code == 250, reply
        self.send(FRIEND)
        self.internet.wait_for(lambda mail: mail.recipients == (FRIEND,))
        self.send(NOWHERE)
        self.server.run(f"printf 'Subject: from root\\n\\n' | sendmail {NOWHERE}")
        poll(lambda: self.queue() == {(ANNA, "deferred"), ("root@mail.example.org", "deferred")}, 30, "queue")
        poll(self.has_mail, 30, "nothing came")
        self.server.run(f"fail2ban-client set dovecot banip {self.banned}")
        self.session = self.login(ANNA, self.desk.passphrases[ANNA])

    def queue(self) -> set[tuple[str, str]]:
        """Whose mail is in which queue; the watch may be telling of something meanwhile."""
        listed = map(json.loads, self.server.run("postqueue -j").stdout.splitlines())
        return {(one["sender"], one["queue_name"]) for one in listed if one["sender"] != "postmaster@mail.example.org"}


# --- what must be so after a command (which contains this text), in a document ("" in all)

EFFECTS: dict[tuple[str, str], Callable[[World, str], None]] = {}


def after(text: str, *documents: str) -> Callable[[Callable[[World, str], None]], Callable[[World, str], None]]:
    def register(effect: Callable[[World, str], None]) -> Callable[[World, str], None]:
        EFFECTS.update({(document, text): effect for document in documents})
        return effect

    return register


def answers(server: Server, port: int) -> bool:
    try:
        socket.create_connection((str(server.ip), port), timeout=5).close()
    except OSError:
        return False
    return True


@after("mailkeep deploy home", "")
def who_is_declared_can_log_in_and_nobody_else(world: World, said: str) -> None:
    assert "DNS: " in said
    declared = world.desk.settings_file.read_text()
    frozen = world.server.run("cat /var/lib/mailkeep-guard/frozen/accounts").stdout
    for address, passphrase in list(world.desk.passphrases.items()):
        if f"{address}:" in frozen:
            continue
        if f"address: {address}" in declared:
            world.login(address, passphrase).logout()
        else:
            with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
                world.login(address, passphrase)
            del world.desk.passphrases[address]  # five such failures would be a ban


@after("mailkeep verify home", "")
def the_server_withstood(_world: World, said: str) -> None:
    assert ", 0 broken" in said


@after("mailkeep dns home --check", "")
def the_world_sees_what_was_published(_world: World, said: str) -> None:
    assert "0 errors" in said or "all as it should be" in said


@after("plan home", "first-server.md")
def the_last_plan_has_nothing_to_do(world: World, said: str) -> None:
    deployed = "mailkeep deploy home" in world.happened
    assert ("nothing to do" in said) == deployed


@after("postqueue -j | python3 -c '\nimport collections", "day-two.md")
@after("sort | uniq -c | sort -rn", "day-two.md", "after-a-break-in.md")
@after("mailkeepctl status", "after-a-break-in.md")
def the_one_who_sent_is_named(_world: World, said: str) -> None:
    assert ANNA in said


@after("$4 in mine'", "day-two.md")
@after("$4 in about'", "day-two.md")
def the_message_is_followed_to_its_end(_world: World, said: str) -> None:
    assert f"to=<{FRIEND}>" in said
    assert "status=sent" in said


@after("grep -o 'status=", "day-two.md", "after-a-break-in.md")
def each_fate_is_counted(_world: World, said: str) -> None:
    assert "status=sent" in said
    assert "status=deferred" in said


@after("fail2ban-client banned", "day-two.md")
def the_banned_one_is_listed(world: World, said: str) -> None:
    assert world.banned in said


@after("fail2ban-client unban", "day-two.md")
def nobody_is_banned_any_more(world: World, _said: str) -> None:
    assert world.banned not in world.server.run("fail2ban-client banned; nft list ruleset").stdout


@after("postsuper -h", "day-two.md")
@after("mailkeepctl freeze", "after-a-break-in.md")
def only_that_senders_mail_is_held(world: World, _said: str) -> None:
    assert world.queue() == {(ANNA, "hold"), ("root@mail.example.org", "deferred")}


@after("postsuper -H", "day-two.md")
def it_is_free_again(world: World, _said: str) -> None:
    assert (ANNA, "hold") not in world.queue()


@after("postsuper -d", "day-two.md")
@after("mailkeepctl delete", "after-a-break-in.md")
def only_that_senders_mail_is_gone(world: World, _said: str) -> None:
    assert {sender for sender, _ in world.queue()} == {"root@mail.example.org"}


@after("openssl x509 -in /etc/mailkeep/tls/server.pem -noout -subject", "day-two.md")
def the_certificate_of_ones_own_is_shown_to_all(world: World, _said: str) -> None:
    ours = (world.desk.clone / "fullchain.pem").read_text().split()
    for port in (465, 993):
        assert ssl.get_server_certificate((str(world.server.ip), port)).split() == ours


@after("systemctl start mailkeep-certificate", "certificates.md")
def the_certificate_is_the_authoritys(world: World, _said: str) -> None:
    pems = {ssl.get_server_certificate((str(world.server.ip), port)) for port in (465, 993)}
    assert len(pems) == 1
    assert "Pebble" in world.server.run("openssl x509 -noout -issuer", stdin=pems.pop()).stdout


@after("tar -tzf mail.tar.gz", "day-two.md")
def then_mail_is_lost(world: World, _said: str) -> None:
    world.server.run(f"doveadm expunge -u {ANNA} mailbox INBOX all")
    assert not world.has_mail()


@after(f"doveadm force-resync -u {ANNA}", "day-two.md")
@after("force-resync -A", "rebuild.md")
def the_mail_is_there(world: World, _said: str) -> None:
    assert world.has_mail()


@after("systemctl stop postfix", "after-a-break-in.md")
def nothing_comes_in_and_nothing_leaves(world: World, _said: str) -> None:
    assert [answers(world.server, port) for port in (25, 465, 587)] == [CLOSED] * 3


@after("systemctl start postfix", "after-a-break-in.md")
def it_goes_on(world: World, _said: str) -> None:
    assert [answers(world.server, port) for port in (25, 465, 587)] == [OPEN] * 3


@after("mailkeep account freeze", "after-a-break-in.md")
def whoever_was_logged_in_is_cut_off_and_even_the_right_passphrase_does_not_do(world: World, _said: str) -> None:
    assert world.session
    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        [world.session.noop() for _ in range(2)]  # the server's "BYE" may answer the first
    poll(lambda: not world.logs_in(), 2, "Anna still logs in")
    with pytest.raises(smtplib.SMTPAuthenticationError):
        world.send(FRIEND)


@after("mailkeep account thaw", "after-a-break-in.md")
def she_is_back(world: World, _said: str) -> None:
    poll(world.logs_in, 5, "Anna does not log in")


@after("mailkeep blocklists", "dns.md", "after-a-break-in.md")
def nobody_lists_the_server(_world: World, said: str) -> None:
    assert "On 0 blocklists." in said


@after("> evidence.tar.gz", "after-a-break-in.md")
def a_message_and_the_log_are_safe(world: World, _said: str) -> None:
    into = world.desk.clone / "taken out"
    with tarfile.open(world.desk.clone / "evidence.tar.gz") as archive:
        archive.extractall(into, filter="data")
    [waiting] = json.loads((into / "evidence" / "queue.json").read_bytes())
    assert b"from Anna" in (into / "evidence" / "samples" / waiting["queue_id"]).read_bytes()
    assert ANNA in gzip.decompress((into / "evidence" / "journal.gz").read_bytes()).decode()


@after("systemctl disable --now dovecot", "rebuild.md")
def the_old_server_takes_nothing_more(world: World, _said: str) -> None:
    assert world.old
    assert [answers(world.old, port) for port in (25, 465, 587, 143, 993)] == [CLOSED] * 5


# --- the documents, in the order in which a server lives through them


@pytest.fixture(scope="module")
def server(lab: Lab, internet: Internet) -> Server:
    """A bare machine; what the README does to it stays."""
    return bare(lab, internet, "docs")


def bare(lab: Lab, internet: Internet, name: str) -> Server:
    machine = lab.server(name, hostname="mail.example.org")
    internet.resolve_for(machine)
    return machine


@pytest.fixture(scope="module")
def begun(lab: Lab, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk with the inventory that the README makes."""
    desk = Desk(tmp_path_factory.mktemp("begun"), names(lab, server))
    desk.run(init())
    return desk


def names(lab: Lab, server: Server, new: Server | None = None) -> dict[str, str]:
    """What addresses of the documentation are in the lab. Strangers' are outside of its network."""
    apart = next(n for n in ("192.0.2", "198.51.100") if lab.network.subnet_of(ip_network(f"{n}.0/24")) is False)
    found = {
        "203.0.113.25": str(server.ip),
        "2001:db8::25": str(server.ip6),
        "198.51.100.0/24": f"{lab.address(1)}/32",  # "your network": that of this machine, as the server sees it
        "198.51.100.7": "2001:db8:bad::7",  # of no network that a canary of the jails is of
        "192.0.2.0/24": f"{apart}.0/24",
        "192.0.2.66": f"{apart}.66",
        "https://acme-staging-v02.api.letsencrypt.org/directory": DIRECTORY,
    }
    return found | ({"203.0.113.77": str(new.ip), "2001:db8::77": str(new.ip6)} if new else {})


def reach(desk: Desk, **servers: Server) -> None:
    """Writes ~/.ssh/config: these names (with dots for underscores) are these servers."""
    entries = [
        f"Host {name.replace('_', '.')}\n" + machine.ssh_config.read_text().partition("\n")[2]
        for name, machine in servers.items()
    ]
    (desk.home / ".ssh" / "config").write_text("\n".join(entries))


@pytest.fixture
def world(lab: Lab, internet: Internet, server: Server, tmp_path: Path) -> World:
    desk = Desk(tmp_path, names(lab, server))
    desk.environment["MAILKEEP_RESOLVER"] = internet.resolver
    reach(desk, mail_example_org=server)
    return World(internet, server, desk, banned=desk.named("198.51.100.7"))


def go_through(document: str, world: World) -> None:
    for step in steps(document):
        world.do(document, step)
    expected = [text for where, text in EFFECTS if where == document]
    assert not [text for text in expected if text not in world.happened], "no such command is in the document any more"


@pytest.mark.parametrize("document", ["README.md", "first-server.md"])
def test_a_bare_machine_becomes_a_mail_server(document: str, world: World) -> None:
    go_through(document, world)


@pytest.mark.parametrize("document", ["dns.md", "certificates.md", "day-two.md", "guard.md", "after-a-break-in.md"])
def test_a_server_that_runs_is_looked_after(document: str, world: World, begun: Desk) -> None:
    world.desk.take_over(begun)
    world.publish()
    world.tell("mailkeep deploy home --no-verify")
    if document == "certificates.md":
        world.internet.authority()
        world.internet.trust_the_authority(world.server)
    elif document != "dns.md":
        world.live()
    go_through(document, world)


def test_a_server_moves_to_another_machine(lab: Lab, world: World, begun: Desk) -> None:
    world.desk.take_over(begun)
    world.publish()
    world.tell("mailkeep deploy home --no-verify")
    world.live()
    world.old, world.server = world.server, bare(lab, world.internet, "docs-new")
    world.desk.names = names(lab, world.old, world.server)
    reach(world.desk, mail_example_org=world.server, old_example_org=world.old)
    go_through("rebuild.md", world)


def test_every_document_with_server_commands_is_gone_through() -> None:
    looked_after = {"dns.md", "certificates.md", "day-two.md", "guard.md", "after-a-break-in.md"}
    gone_through = {"README.md", "first-server.md", "rebuild.md"} | looked_after
    with_steps = {name for name in DOCUMENTS if any(_is_for_an_operator(step) for step in steps(name))}
    assert with_steps == gone_through


def _is_for_an_operator(step: Command | Settings) -> bool:
    """Not what is done in a clone of this repository, in containers."""
    return isinstance(step, Settings) or step.place != "clone"
