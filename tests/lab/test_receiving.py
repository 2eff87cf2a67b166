"""Nobody fills an account: what is too much waits at its sender, and a mail bomb goes to a folder, all of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from clients import STRANGER, SUBMISSIONS, compose_message, deliver_message, is_accepted

from mailkeep.lab import Attacker, Internet, Lab, Server, poll
from mailkeep.lab.attacker import DISTANT_HOSTS, DISTANT_NETWORKS
from mailkeep.lab.internet import Reply
from mailkeep.lab.postfix_reload import RELOAD_POSTFIX
from mailkeep.lab.site import Site
from mailkeep_server.guard.receiving import FIRST_DAYS_FACTOR

ANNA, BEN = "anna@example.test", "ben@example-two.test"
FRIEND = "x@outside.test"
# The bomb stays below the default limit of an hour, in which other messages count, too.
BOMB, NETWORK_LIMIT, NEW_SENDERS = 1000, 30, 10
THRESHOLD = NEW_SENDERS * FIRST_DAYS_FACTOR
"""The accounts of a new server have their first days."""
AGE_WHAT_CAME = """
import sqlite3
database = sqlite3.connect("/var/lib/mailkeep-guard/guard.db")
for table in ("senders", "received"):
    database.execute(f"UPDATE {table} SET time = time - 3 * 3600 * 1000")
database.commit()
"""


@dataclass(frozen=True)
class ReceivingServer:
    site: Site
    outside: Internet
    attacker: Attacker

    @property
    def server(self) -> Server:
        return self.site.server

    def submit(self, author: str, to: str, subject: str, *headers: str) -> str:
        login = author, self.site.passphrases[author]
        text = compose_message(author, to, subject, *headers)
        return deliver_message(str(self.server.ip), SUBMISSIONS, author, [to], text, login=login)

    def receive(self, subject: str, *to: str, sender: str = STRANGER, headers: tuple[str, ...] = ()) -> Reply:
        text = compose_message(sender, to[0], subject, *headers).encode()
        return self.outside.send(sender, to, self.server.ip, text)

    def send_bomb(self, recipient: str, number: int, sources: list[str], first: int = 0) -> dict[str, int]:
        """How many messages got which answer."""
        program = Path(__file__).with_name("bomber.py").read_text()
        arguments = str(self.server.ip6), recipient, str(first), str(number), ",".join(sources)
        answers: dict[str, int] = json.loads(self.attacker.run_python(program, *arguments, timeout=500).stdout)
        return answers

    def count_messages(self, owner: str, subject: str) -> dict[str, int]:
        """By folder, those with this word in their subject."""
        command = f"doveadm -f json fetch -u {owner} mailbox mailbox '*' subject '{subject}'"
        folders = [row["mailbox"] for row in json.loads(self.server.run(command).stdout or "[]")]
        return {folder: folders.count(folder) for folder in sorted({*folders})}

    def find_folder(self, owner: str, subject: str) -> str:
        """Waits for one message."""
        return str(next(iter(poll(lambda: self.count_messages(owner, subject), 20, f"{subject!r} is nowhere"))))

    def list_events(self, kind: str, account: str) -> list[str]:
        events = json.loads(self.server.run("mailkeepctl events --json").stdout)["events"]
        return [event["detail"] for event in events if (event["kind"], event["account"]) == (kind, account)]

    def list_alerts(self, text: str) -> list[str]:
        alerts = [message.data.decode(errors="replace") for message in self.outside.read_messages()]
        return [alert for alert in alerts if text in alert.replace("=\r\n", "").replace("\r\n", " ")]


@pytest.fixture(scope="module")
def receiving(
    lab: Lab, internet: Internet, attacker: Attacker, built_site: Site, built_image: str
) -> Iterator[ReceivingServer]:
    internet.clear_messages()
    internet.publish(f"*.shops.outside.test. A {internet.ip}\nold.outside.test. A {internet.ip}\n", "shops")
    server = lab.boot_server("receiving", hostname="mail.example.test", image=built_image)
    try:
        internet.resolve_for(server)
        attacker.add_distant_addresses(server)
        site = built_site.copy_for(server)
        settings = yaml.safe_load(site.settings_file.read_text())
        settings["guard"] = {
            "receiving": {"network_messages_per_hour": NETWORK_LIMIT, "new_senders_per_hour": NEW_SENDERS}
        }
        site.settings_file.write_text(yaml.safe_dump(settings))
        result = site.deploy()
        assert result.code == 0, result.output
        yield ReceivingServer(site, internet, attacker)
    finally:
        server.remove()
        internet.publish("", "shops")


@pytest.fixture(scope="module")
def bombed(receiving: ReceivingServer) -> ReceivingServer:
    """Anna has written to a friend, and a shop to her three hours ago; then the bomb."""
    assert is_accepted(receiving.submit(ANNA, FRIEND, "to the friend"))
    assert receiving.receive("from the old shop", ANNA, sender="news@old.outside.test").code == 250
    guard = "mailkeep-guard.socket mailkeep-guard.service"
    receiving.server.run(f"systemctl stop {guard}; python3 -; systemctl start {guard}", stdin=AGE_WHAT_CAME)
    sources = [
        str(receiving.attacker.distant_address(network, host))
        for host in range(1, DISTANT_HOSTS + 1)
        for network in range(DISTANT_NETWORKS)
    ]
    assert receiving.send_bomb(ANNA, BOMB, sources) == {"250 2.0.0": BOMB}
    poll(lambda: not receiving.server.run("postqueue -j").stdout, 120, "the bomb is not delivered at once", interval=1)
    return receiving


def test_nobody_else_writes_the_mark(receiving: ReceivingServer) -> None:
    for number, name in enumerate(("X-Mailkeep-Bulk", "x-mailkeep-BULK ", "X-Mailkeep-Bulk\t")):
        forged = f"{name}: 2026-01-01"
        assert receiving.receive(f"forged outside {number}", BEN, headers=(forged,)).code == 250
        assert receiving.find_folder(BEN, f"forged outside {number}") == "INBOX"
    assert is_accepted(receiving.submit(ANNA, BEN, "forged inside", "X-Mailkeep-Bulk: 2026-01-01"))
    assert receiving.find_folder(BEN, "forged inside") == "INBOX"
    # Without the removal, the script files by it.
    receiving.server.run(f"postconf -e header_checks= && {RELOAD_POSTFIX}")
    try:
        assert receiving.receive("not removed", BEN, headers=("X-Mailkeep-Bulk: 2026-01-01",)).code == 250
        assert receiving.find_folder(BEN, "not removed") == "Bulk 2026-01-01"
    finally:
        receiving.site.deploy()


def test_a_bomb_is_sorted_and_nothing_is_lost(bombed: ReceivingServer) -> None:
    folders = bombed.count_messages(ANNA, "Confirm")
    assert sum(folders.values()) == BOMB, folders
    assert folders["INBOX"] < THRESHOLD + 1, folders
    assert {name for name in folders if name != "INBOX"} == {
        next(name for name in folders if name.startswith("Bulk 2"))
    }
    subscribed = bombed.server.run(f"doveadm mailbox list -s -u {ANNA}").stdout
    assert "Bulk 2" in subscribed, "a mail program would not show it"


def test_people_whom_the_account_knows_reach_the_inbox_and_other_accounts_notice_nothing(
    bombed: ReceivingServer,
) -> None:
    for subject, sender in (("an answer of the friend", FRIEND), ("news of the old shop", "n2@old.outside.test")):
        assert bombed.receive(subject, ANNA, sender=sender).code == 250
        assert bombed.find_folder(ANNA, subject) == "INBOX"
    stranger = "new@s1.shops.outside.test"
    assert bombed.receive("a stranger to both", ANNA, BEN, sender=stranger).code == 250
    assert bombed.find_folder(BEN, "a stranger to both") == "INBOX"
    assert bombed.receive("a stranger to anna", ANNA, sender=stranger).code == 250
    assert bombed.find_folder(ANNA, "a stranger to anna").startswith("Bulk ")


def test_the_operator_is_told_once(bombed: ReceivingServer) -> None:
    alert = f"{ANNA} gets a mail bomb: {THRESHOLD} senders"
    poll(lambda: bombed.list_alerts(alert), 20, "no alert")
    assert len(bombed.list_events("bomb", ANNA)) == 1
    assert f"{ANNA} gets a mail bomb since" in bombed.server.run("mailkeepctl bulk").stdout


def test_without_the_guard_mail_comes_in_and_is_not_sorted(bombed: ReceivingServer) -> None:
    bombed.server.run("systemctl stop mailkeep-guard.socket mailkeep-guard.service")
    try:
        assert bombed.receive("without the guard", ANNA, sender="new@s2.shops.outside.test").code == 250
        assert bombed.find_folder(ANNA, "without the guard") == "INBOX"
    finally:
        bombed.server.run("systemctl start mailkeep-guard.socket mailkeep-guard.service")
    assert bombed.receive("with it again", ANNA, sender="new@s3.shops.outside.test").code == 250
    assert bombed.find_folder(ANNA, "with it again").startswith("Bulk "), "it knows of the bomb after a restart"


def test_one_command_brings_all_back(bombed: ReceivingServer) -> None:
    output = bombed.server.run(f"mailkeepctl unsort {ANNA}").stdout
    assert f"moved to the inbox of {ANNA}" in output
    assert bombed.count_messages(ANNA, "Confirm") == {"INBOX": BOMB}
    assert "Bulk" not in bombed.server.run(f"doveadm mailbox list -u {ANNA}").stdout
    assert bombed.receive("after the end", ANNA, sender="new@s4.shops.outside.test").code == 250
    assert bombed.find_folder(ANNA, "after the end") == "INBOX"
    assert ANNA not in bombed.server.run("mailkeepctl bulk").stdout
    assert bombed.list_events("bomb-end", ANNA)


def test_one_network_sends_so_much_and_others_go_on(receiving: ReceivingServer) -> None:
    sources = [str(receiving.attacker.distant_address(7, host)) for host in range(1, DISTANT_HOSTS + 1)]
    answers = receiving.send_bomb(BEN, NETWORK_LIMIT + 40, sources, first=BOMB)
    assert answers.keys() == {"250 2.0.0", "450 4.7.1"}, answers
    assert sum(answers.values()) == NETWORK_LIMIT + 40
    # What is in transfer at the same time was asked about before it counts.
    assert NETWORK_LIMIT <= answers["250 2.0.0"] <= NETWORK_LIMIT + DISTANT_HOSTS
    other = [str(receiving.attacker.distant_address(8))]
    assert receiving.send_bomb(BEN, 5, other, first=2 * BOMB) == {"250 2.0.0": 5}
    assert receiving.send_bomb(ANNA, 5, sources[:1], first=3 * BOMB) == {"250 2.0.0": 5}
    (detail,) = receiving.list_events("flood", BEN)
    assert f"{NETWORK_LIMIT} from one network" in detail
    poll(lambda: receiving.list_alerts(f"{BEN} gets more mail than"), 20, "no alert")
    receiving.server.run(f"postconf -e smtpd_milters= && {RELOAD_POSTFIX}")
    try:
        assert receiving.send_bomb(BEN, 5, sources[:1], first=4 * BOMB) == {"250 2.0.0": 5}, "nothing else bounds it"
    finally:
        receiving.site.deploy()
