# ruff: noqa: S608
"""Mail to strangers is held once much of it fails: learned from Postfix, told, released, and else given back."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from clients import SUBMISSIONS, compose_message, deliver_message

from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.site import Site
from mailkeep_server.common.paths import GUARD_STATE

ANNA, FRIEND = "anna@example.test", "friend@outside.test"
INBOX = "/var/vmail/example.test/anna/Maildir"
AGE_HELD_MAIL = f"""\
systemctl stop mailkeep-guard.socket mailkeep-guard.service
python3 -c 'import sqlite3; db = sqlite3.connect("{GUARD_STATE}/guard.db")
db.execute("UPDATE held SET time = time - 86400000"); db.commit()'
systemctl start mailkeep-guard.socket mailkeep-guard.service
systemctl restart mailkeep-watch.service
"""
"""The watch looks at what is held when it starts, and then once a minute."""


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


@pytest.fixture(scope="module")
def strangers(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[StrangerServer]:
    server = lab.boot_server("strangers", hostname="mail.example.test", image=built_image)
    try:
        internet.resolve_for(server)
        site = built_site.copy_for(server)
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
    assert f"Next: mailkeepctl why {ANNA}" in held.server.run("mailkeepctl trace stranger@outside.test").stdout


def test_the_owner_and_the_operator_are_told(held: StrangerServer) -> None:
    poll(lambda: held.count_in_inbox("Mail to people who are new to you waits"), 20, "the owner knows nothing")
    admins = set(held.site.settings.admin.addresses)

    def is_told() -> bool:
        letters = [mail.message for mail in held.outside.read_messages() if admins & set(mail.recipients)]
        texts = [" ".join(letter.get_content().split()) for letter in letters]
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
