"""A server goes to another machine while mail arrives and a client works: nothing is lost, nothing comes twice.

The outside world delivers a message a second to the old address, and tries again as a mail server does. A client on the
old address waits for mail (IDLE) and moves it. Both never learn of the new address.
"""

import imaplib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from clients import (
    OUTSIDE,
    STRANGER,
    compose_message,
    deliver_message,
    open_imap,
    read_mailbox,
    tls_context,
)
from typer.testing import CliRunner

from mailkeep.cli.app import app
from mailkeep.inventory.edit_hosts_file import set_ssh_hostname
from mailkeep.lab import Internet, Lab, LabError, Received, Server, poll
from mailkeep.lab.postfix_reload import RELOAD_POSTFIX
from mailkeep.lab.site import Site
from mailkeep.settings.edit_host import set_addresses

ANNA, BEN = "anna@example.test", "ben@example-two.test"
ARCHIVE = "Archive"
MAX_OUTAGE = 60.0  # seconds
LIST_UIDS = "doveadm -f tab fetch -u {account} 'mailbox uid guid flags' ALL | sed 's, *.Recent,,' | sort"
SERVERS_COMMAND = "python3 -IB /usr/lib/mailkeep move"


@dataclass
class Traffic:
    """Mail that arrives for ANNA each second, and her client, until `stop`."""

    internet: Internet
    host: str
    password: str
    accepted: list[str] = field(default_factory=list)
    """The subjects of messages that the server has taken."""
    repeated: set[str] = field(default_factory=set)
    """Of these, those that were sent again since no answer came: they may have been taken before (RFC 1047)."""
    placed: dict[tuple[str, int], str] = field(default_factory=dict)
    """By folder and UID, the Message-ID that the client saw there last."""
    outages: dict[str, float] = field(default_factory=lambda: {"mail": 0.0, "client": 0.0})
    """The longest time without service, in seconds."""
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._end = threading.Event()
        self._threads = [threading.Thread(target=act) for act in (self._send_mail, self._use_mailbox)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def _send_mail(self) -> None:
        number, served = 0, time.monotonic()
        while not self._end.is_set():
            subject = f"arrival {number}"
            mail = compose_message(STRANGER, ANNA, subject, f"Message-ID: <{number}@outside.test>").encode()
            with suppress(LabError):  # the machine could not send: it tries again
                reply = self.internet.send(STRANGER, ANNA, self.host, mail)
                if reply.stage == "RCPT" and reply.code == 0:  # the command that was answered last
                    self.repeated.add(subject)
                if reply.code == 250:
                    self.accepted.append(subject)
                    number += 1
                    self.outages["mail"] = max(self.outages["mail"], time.monotonic() - served)
                    served = time.monotonic()
            self._end.wait(1)

    def _use_mailbox(self) -> None:
        served = time.monotonic()
        while not self._end.is_set():
            with (
                suppress(OSError, EOFError, imaplib.IMAP4.error),
                imaplib.IMAP4_SSL(self.host, ssl_context=tls_context(), timeout=15) as client,
            ):
                client.login(ANNA, self.password)
                while not self._end.is_set():
                    self._work(client)
                    self.outages["client"] = max(self.outages["client"], time.monotonic() - served)
                    served = time.monotonic()
            self._end.wait(0.5)

    def _work(self, client: imaplib.IMAP4) -> None:
        """Waits for mail for a moment, then moves the oldest message, and looks at what it has seen before."""
        client.select("INBOX")
        self._idle(client)
        self._look(client, "INBOX")
        uids = client.uid("SEARCH", "ALL")[1][0].split()
        if len(uids) > 3:
            client.uid("MOVE", uids[0], ARCHIVE)
            self.placed.pop(("INBOX", int(uids[0])), None)
        client.select(ARCHIVE)
        self._look(client, ARCHIVE)

    def _idle(self, client: imaplib.IMAP4) -> None:
        tag = client._new_tag()  # type: ignore[attr-defined]
        client.send(tag + b" IDLE\r\n")
        client.readline()
        self._end.wait(0.5)
        client.send(b"DONE\r\n")
        while not (line := client.readline()).startswith(tag):
            if not line:
                raise EOFError

    def _look(self, client: imaplib.IMAP4, folder: str) -> None:
        for part in client.uid("FETCH", "1:*", "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")[1]:
            if isinstance(part, tuple):
                uid = int(re.search(rb"UID (\d+)", part[0])[1])  # type: ignore[index]
                message_id = part[1].decode().strip()
                if self.placed.setdefault((folder, uid), message_id) != message_id:
                    self.faults.append(f"{folder} {uid}: {self.placed[folder, uid]}, then {message_id}")


@dataclass
class Move:
    """Two machines, and the inventory that leads to the old one until the move."""

    site: Site
    old: Server
    new: Server
    internet: Internet
    traffic: Traffic

    def command(self, *options: str) -> list[str]:
        return ["move", str(self.site.inventory), *options]

    def run(self, *options: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, self.command(*options))
        if result.exception and not isinstance(result.exception, SystemExit):
            return 1, f"{result.output}{result.exception}"
        return result.exit_code, result.output

    def go(self) -> tuple[int, str]:
        return self.run("--to", str(self.new.ip), "--to", str(self.new.ip6))

    def kill_when(self, text: str) -> None:
        """Runs the move until it prints this, and kills it then."""
        command = [sys.executable, "-m", "mailkeep", *self.command("--to", str(self.new.ip), "--to", str(self.new.ip6))]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            lines = []
            for line in process.stderr:
                lines.append(line)
                if text in line:
                    process.send_signal(signal.SIGKILL)
                    return
        raise AssertionError("".join(lines))

    def assert_all_mail_is_there_once(self, server: Server) -> None:
        """A message that was just taken may still be on its way."""
        accepted = set(self.traffic.accepted)
        with suppress(LabError):
            poll(lambda: not self.find_lost_or_repeated(server, accepted), 60, "a message is missing, or twice")
        assert self.find_lost_or_repeated(server, accepted) == {}
        assert self.traffic.faults == []

    def find_lost_or_repeated(self, server: Server, subjects: set[str]) -> dict[str, int]:
        """How often those are in ANNA's folders that are not there once. A message that the client just moves is in
        both folders under the same GUID."""
        table = server.run(f"doveadm -f tab fetch -u {ANNA} 'guid hdr.subject' ALL").stdout
        counts = Counter(subject for _, subject in set(re.findall(r"^(\S+)\t(arrival \d+)$", table, re.MULTILINE)))
        at_most = {subject: 2 if subject in self.traffic.repeated else 1 for subject in subjects}
        return {subject: counts[subject] for subject in subjects if not 1 <= counts[subject] <= at_most[subject]}

    def send_as_anna(self, subject: str) -> None:
        """By the old address, with a login."""
        mail = compose_message(ANNA, OUTSIDE, subject)
        login = (ANNA, self.site.passphrases[ANNA])
        answer = deliver_message(str(self.old.ip), 465, ANNA, [OUTSIDE], mail, login=login)
        assert answer.startswith("250"), answer

    def wait_for_outside(self, subject: str) -> Received:
        """The message has arrived there, once."""
        received = self.internet.wait_for(lambda message: message.message["Subject"] == subject, 60)
        assert [m.message["Subject"] for m in self.internet.read_messages()].count(subject) == 1
        return received

    def count_sent_today(self, server: Server) -> int:
        """What the guard has counted for ANNA."""
        status = json.loads(server.run("mailkeepctl limits --json").stdout)
        [limits] = [account["limits"] for account in status["accounts"] if account["account"] == ANNA]
        return max(int(limit["used"]) for limit in limits if limit["limit"].startswith("messages"))


@pytest.fixture(scope="module")
def move(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[Move]:
    old = lab.boot_server("moving-old", hostname="mail.example.test", image=built_image)
    new = lab.boot_server("moving-new", hostname="mail.example.test")
    site = built_site.copy_for(old)
    site.publish(internet)
    internet.resolve_for(old)
    internet.resolve_for(new)
    deployed = site.deploy()
    assert deployed.code == 0, deployed.output
    _reach_by_address(site, old, new)
    client = open_imap(str(old.ip))
    client.login(ANNA, site.passphrases[ANNA])
    client.create(ARCHIVE)
    client.logout()
    for number in range(3):
        mail = compose_message(STRANGER, BEN, f"message {number}").encode()
        assert internet.send(STRANGER, BEN, old.ip, mail).code == 250
    poll(lambda: len(read_mailbox(str(old.ip), 993, BEN, site.passphrases[BEN])) == 3, 30, "mail has not arrived")
    old.run(f"doveadm flags add -u {BEN} '\\Flagged \\Seen $label' mailbox INBOX 2")
    old.run(f"mailkeepctl freeze {BEN} --why 'sends spam'")
    old.run(f"postconf -e defer_transports=smtp && {RELOAD_POSTFIX}")
    mail = compose_message(f"anna@{ANNA.partition('@')[2]}", "x@outside.test", "left in the queue")
    old.run("sendmail -f root@mail.example.test x@outside.test", stdin=mail)
    poll(lambda: "x@outside.test" in old.run("postqueue -p").stdout, 20, "nothing waits in the queue")
    traffic = Traffic(internet, str(old.ip), site.passphrases[ANNA])
    try:
        yield Move(site, old, new, internet, traffic)
    finally:
        traffic.stop()
        built_site.publish(internet)
        old.remove()
        new.remove()


def _reach_by_address(site: Site, old: Server, new: Server) -> None:
    """Has SSH reach both machines by their addresses, too, as on the Internet."""
    texts = [
        server.ssh_config.read_text().replace("Host ", f"Host {names} ", 1)
        for server, names in ((old, str(old.ip)), (new, str(new.ip)))
    ]
    texts[1] = texts[1].replace(f" {new.hostname}\n", "\n", 1)
    config = site.inventory / "ssh_config"
    config.write_text("\n".join(texts))
    file = site.inventory / "inventory.py"
    file.write_text(file.read_text().replace(str(old.ssh_config.resolve()), str(config.resolve())))


def test_a_move_that_is_killed_goes_on_and_loses_nothing(move: Move) -> None:
    before = move.old.run(LIST_UIDS.format(account=BEN)).stdout
    move.send_as_anna("before the move")
    move.kill_when("stopping the old machine")
    code, output = move.go()
    assert code == 0, output
    assert move.new.run(LIST_UIDS.format(account=BEN)).stdout == before
    assert BEN in move.new.run("cat /var/lib/mailkeep-guard/frozen/accounts").stdout
    count = len(move.traffic.accepted)
    poll(lambda: len(move.traffic.accepted) > count + 3, 30, "no mail comes by the old address")
    move.assert_all_mail_is_there_once(move.new)
    assert max(move.traffic.outages.values()) < MAX_OUTAGE, move.traffic.outages
    move.new.run("postqueue -f")
    move.wait_for_outside("before the move")
    assert move.wait_for_outside("left in the queue").peer in (str(move.new.ip), str(move.new.ip6))
    assert move.old.run("systemctl is-active postfix dovecot", check=False).stdout.split() == ["inactive", "inactive"]
    assert move.count_sent_today(move.new) == 1
    move.send_as_anna("after the move")
    move.wait_for_outside("after the move")
    assert move.count_sent_today(move.new) == 2


def test_an_old_machine_that_has_left_never_starts_by_itself(move: Move) -> None:
    resumed = move.old.run(f"{SERVERS_COMMAND} resume", check=False)
    assert resumed.returncode == 1
    assert "must not start" in resumed.stderr
    move.old.restart()
    assert move.old.run("systemctl is-active postfix dovecot", check=False).stdout.split() == ["inactive", "inactive"]
    count = len(move.traffic.accepted)
    poll(lambda: len(move.traffic.accepted) > count, 30, "it forwards nothing after a reboot")


def test_a_move_can_be_undone_with_the_mail_that_came_meanwhile(move: Move) -> None:
    code, output = move.run("--undo", "--resolver", move.internet.resolver)
    assert code == 0, output
    assert str(move.old.ip) in move.site.settings_file.read_text()
    assert "forwarded_from" not in move.site.settings_file.read_text()
    assert "ssh_hostname" not in (move.site.inventory / "inventory.py").read_text()
    count = len(move.traffic.accepted)
    poll(lambda: len(move.traffic.accepted) > count, 30, "the old machine takes no mail")
    move.assert_all_mail_is_there_once(move.old)


def test_an_operators_machine_that_goes_silent_leaves_the_old_one_serving(move: Move) -> None:
    move.old.run(f"{SERVERS_COMMAND} stop --resume-after 2")
    poll(lambda: move.old.run("systemctl is-active postfix", check=False).stdout == "active\n", 30, "it stays stopped")
    count = len(move.traffic.accepted)
    poll(lambda: len(move.traffic.accepted) > count, 30, "it takes no mail")


def test_at_the_end_the_new_machine_serves_alone(move: Move) -> None:
    """This time by an inventory that has the new machine's addresses, and leads to it."""
    set_addresses(move.site.settings_file, (move.new.ip, move.new.ip6), ())
    assert set_ssh_hostname(move.site.inventory, move.old.name, str(move.new.ip))
    result = CliRunner().invoke(app, ["rebuild", str(move.site.inventory), "--from", str(move.old.ip)])
    assert result.exit_code == 0, result.output
    assert f"forwarded_from: [{move.old.ip}" in move.site.settings_file.read_text()
    code, output = move.run("--finish", "--resolver", move.internet.resolver)
    assert code == 1
    assert "--moving" in output
    move.traffic.stop()
    move.site.publish(move.internet)
    code, output = move.run("--undo", "--resolver", move.internet.resolver)
    assert code == 1
    assert "already" in output
    code, output = move.run("--finish", "--resolver", move.internet.resolver)
    assert code == 0, output
    assert "forwarded_from" not in move.site.settings_file.read_text()
    assert move.old.run("test -e /etc/mailkeep-forward", check=False).returncode == 1
    move.assert_all_mail_is_there_once(move.new)
