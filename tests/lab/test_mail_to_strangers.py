# ruff: noqa: S608
"""Mail to strangers is held once much of it fails: learned from Postfix, told, released, and else given back. Its owner
ends the hold by a reply from elsewhere, and a thief of the password does not."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml
from clients import SMTP, SUBMISSIONS, compose_message, deliver_message, envelope_commands, talk_smtp

from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.internet import Received
from mailkeep.lab.site import Site
from mailkeep_server.common.paths import GUARD_STATE

ANNA, FRIEND, OWNER = "anna@example.test", "friend@outside.test", "anna@outside.test"
INBOX = "/var/vmail/example.test/anna/Maildir"
AGE_HELD_MAIL = f"""\
systemctl stop mailkeep-guard.socket mailkeep-guard.service
python3 -c 'import sqlite3; db = sqlite3.connect("{GUARD_STATE}/guard.db")
db.execute("UPDATE held SET time = time - 86400000"); db.commit()'
systemctl start mailkeep-guard.socket mailkeep-guard.service
systemctl restart mailkeep-watch.service
"""
"""The watch looks at what is held when it starts, and then every ten seconds."""


@dataclass(frozen=True)
class StrangerServer:
    site: Site
    outside: Internet

    @property
    def server(self) -> Server:
        return self.site.server

    def submit(self, to: str, subject: str) -> str:
        text, login = compose_message(ANNA, to, subject), (ANNA, self.site.passphrases[ANNA])
        return deliver_message(str(self.server.ip), SUBMISSIONS, ANNA, [to], text, login=login)

    def has_arrived(self, subject: str) -> bool:
        return any(subject == str(mail.message["Subject"]) for mail in self.outside.read_messages())

    def count_on_hold(self) -> int:
        rows = map(json.loads, self.server.run("postqueue -j").stdout.splitlines())
        return sum(row["queue_name"] == "hold" for row in rows)

    def count_in_inbox(self, text: str) -> int:
        return int(self.server.run(f"grep -rlsF '{text}' {INBOX}/new {INBOX}/cur | wc -l").stdout)

    def send_to_dead_addresses(self, serial: str) -> None:
        """A mailbox that does not exist, and two domains that do not."""
        for to in ("refuse@outside.test", f"a@gone-{serial}.test", f"a@lost-{serial}.test", f"a@void-{serial}.test"):
            assert self.submit(to, "anybody?").startswith("250")
        poll(lambda: "is put on hold since" in self.server.run(f"mailkeepctl why {ANNA}").stdout, 30, "no hold")

    def read_requests(self) -> list[Received]:
        """What the owner was asked elsewhere."""
        return [mail for mail in self.outside.read_messages() if OWNER in mail.recipients]

    def hold_anew(self, serial: str) -> str:
        """The address for a reply."""
        count = len(self.read_requests())
        self.send_to_dead_addresses(serial)
        poll(lambda: len(self.read_requests()) > count, 20, "nobody asks the owner elsewhere")
        return str(self.read_requests()[-1].message["Reply-To"])

    def reply(self, to: str, sender: str = OWNER) -> int:
        return self.outside.send(sender, to, self.server.ip, compose_message(sender or OWNER, to, "yes").encode()).code

    def find_places(self, code: str) -> list[str]:
        """Files that have the code, and lines of the journal."""
        command = "cat > /root/code; grep -rlFf /root/code /etc /run /var --exclude-dir=journal; "
        command += "journalctl --no-pager | grep -Ff /root/code; rm /root/code"
        return self.server.run(command, stdin=code, check=False).stdout.splitlines()


@pytest.fixture(scope="module")
def strangers(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[StrangerServer]:
    server = lab.boot_server("strangers", hostname="mail.example.test", image=built_image)
    try:
        internet.resolve_for(server)
        site = built_site.copy_for(server)
        declared = yaml.safe_load(site.settings_file.read_text())
        for account in declared["accounts"]:
            if account["address"] == ANNA:
                account |= {"confirm_at": OWNER, "limits": {"messages_per_10_minutes": 60}}
        site.settings_file.write_text(yaml.safe_dump(declared, sort_keys=False))
        result = site.deploy()
        assert result.code == 0, result.output
        yield StrangerServer(site, internet)
    finally:
        server.remove()


@pytest.fixture(scope="module")
def held(strangers: StrangerServer) -> StrangerServer:
    assert strangers.submit(FRIEND, "hello").startswith("250")
    strangers.send_to_dead_addresses("one")
    return strangers


def test_mail_to_strangers_waits_and_mail_to_friends_goes_on(held: StrangerServer) -> None:
    assert held.submit("stranger@outside.test", "to a stranger").startswith("250")
    assert held.submit(FRIEND, "to a friend").startswith("250")
    poll(lambda: held.has_arrived("to a friend"), 20, "the friend got nothing")
    assert held.count_on_hold() == 1
    assert not held.has_arrived("to a stranger")
    assert f"1 message of {ANNA} to strangers on hold" in held.server.run("mailkeepctl status", check=False).stdout
    trace = "mailkeepctl trace stranger@outside.test"
    poll(lambda: f"Next: mailkeepctl why {ANNA}" in held.server.run(trace).stdout, 20, "trace does not know why")


def test_the_owner_and_the_operator_are_told(held: StrangerServer) -> None:
    poll(lambda: held.count_in_inbox("Mail to people who are new to you waits"), 20, "the owner knows nothing")
    admins = set(held.site.settings.admin.addresses)

    def is_told() -> bool:
        letters = [mail.message for mail in held.outside.read_messages() if admins & set(mail.recipients)]
        # Notices about mail that could not be delivered have several parts.
        texts = [" ".join(letter.get_content().split()) for letter in letters if not letter.is_multipart()]
        return any("has mail to strangers put on hold" in text for text in texts)

    poll(is_told, 20, "the operator knows nothing")
    assert f"mailkeepctl release {ANNA}" in held.server.run(f"mailkeepctl why {ANNA}").stdout


def test_what_is_released_arrives_and_the_account_may_write_to_strangers_again(held: StrangerServer) -> None:
    assert "1 message on its way" in held.server.run(f"mailkeepctl release {ANNA}").stdout
    poll(lambda: held.has_arrived("to a stranger"), 20, "it did not arrive")
    assert held.submit("other@outside.test", "to another").startswith("250")
    poll(lambda: held.has_arrived("to another"), 20, "it did not arrive")


def test_what_nobody_releases_comes_back_after_a_day(held: StrangerServer) -> None:
    held.send_to_dead_addresses("two")
    assert held.submit("third@outside.test", "to a third").startswith("250")
    assert held.count_on_hold() == 1
    held.server.run(AGE_HELD_MAIL)
    poll(lambda: held.count_on_hold() == 0, 40, "it is still on hold")
    assert held.count_in_inbox("Your message was on hold, and was not sent") == 1
    assert held.count_in_inbox("Subject: to a third") == 1
    assert not held.has_arrived("to a third")
    poll(lambda: "it is back" in held.server.run("mailkeepctl events").stdout, 10, "the guard does not know")


def test_whoever_lacks_the_code_ends_no_hold(held: StrangerServer) -> None:
    held.server.run(f"mailkeepctl release {ANNA}")
    earlier = str(held.read_requests()[-1].message["Reply-To"])
    address = held.hold_anew("three")
    assert held.submit("fourth@outside.test", "to a fourth").startswith("250")
    request, code = held.read_requests()[-1], address.partition("@")[0].partition("+")[2]
    assert len(code) == 32
    assert request.sender == "", "no bounce brings the code back"
    assert "DKIM-Signature" in request.message
    assert "fourth@" not in request.message.get_content()
    for other in (earlier, f"release+{code[::-1]}@mail.example.test", "release@mail.example.test"):
        assert held.reply(other) == 550
        assert held.submit(other, "of a thief").startswith("550")
    commands = envelope_commands(OWNER, address)
    assert talk_smtp(str(held.server.ip), SMTP, commands).startswith("250"), "a server that tries an address"
    # The owner's mailbox elsewhere forwards to the account here, where the thief reads.
    forwarded = compose_message(FRIEND, ANNA, "forwarded").replace("Subject:", f"Reply-To: {address}\nSubject:", 1)
    assert held.outside.send(FRIEND, ANNA, held.server.ip, forwarded.encode()).code == 250
    poll(lambda: held.count_in_inbox("Subject: forwarded"), 20, "it did not arrive")
    assert held.find_places(code) == []
    assert held.find_places("Subject: forwarded") != []
    requests = [mail for mail in held.outside.read_messages() if code.encode() in mail.data]
    assert [mail.recipients for mail in requests] == [(OWNER,)]
    assert held.count_in_inbox("reply to the message that went to your other address") > 0
    assert held.count_in_inbox(OWNER) == 0
    assert held.count_on_hold() == 1


def test_a_reply_from_elsewhere_ends_the_hold_once(held: StrangerServer) -> None:
    address = str(held.read_requests()[-1].message["Reply-To"])
    assert held.reply(address, sender="somebody@nowhere.invalid") == 250, "the code is the proof, not the sender"
    poll(lambda: held.has_arrived("to a fourth"), 30, "it did not arrive")
    assert held.count_on_hold() == 0
    assert held.submit("fifth@outside.test", "to a fifth").startswith("250")
    poll(lambda: held.has_arrived("to a fifth"), 20, "it did not arrive")
    assert held.reply(address) == 550
    assert held.server.run(f"mailkeepctl events | grep -c 'confirmed .*{ANNA} .*a...@o..., 1 message'").stdout == "1\n"
    poll(lambda: held.count_in_inbox("waits no more"), 20, "the owner is not told")
    poll(lambda: any(b"its owner confirmed it" in mail.data for mail in held.outside.read_messages()), 20, "nor you")


def test_no_reply_thaws(held: StrangerServer) -> None:
    address = held.hold_anew("four")
    held.server.run(f"mailkeepctl freeze {ANNA}")
    assert held.reply(address) == 550
    assert f"{ANNA} is frozen" in held.server.run("mailkeepctl limits").stdout
    held.server.run(f"mailkeepctl thaw {ANNA}")
    assert held.reply(address) == 550
