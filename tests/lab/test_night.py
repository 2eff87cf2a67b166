"""Three in the morning: the queue is full of an account's spam, services are down, a person is banned."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from clients import IMAP, SUBMISSIONS, await_greeting, compose_message, deliver_message, is_accepted, run_on

from mailkeep.lab import Attacker, Internet, Lab, Server, poll
from mailkeep.lab.postfix_reload import RELOAD_POSTFIX
from mailkeep.lab.site import Site
from mailkeep_server.common.jail_canaries import LOCK
from mailkeep_server.operator.findings import ASK_SECONDS

ANNA, BEN = "anna@example.test", "ben@example-two.test"
WATCH = "postmaster@mail.example.test"
SPAM = 3000
QUEUE_SECONDS = 60.0
"""For a look at the queue or a change; these machines are slow, and 3000 messages are few."""


STATUS_SECONDS = 3.0
DOWN = (
    *("mailkeep-watch.service", "postfix.service", "dovecot.service", "fail2ban.service", "unbound.service"),
    *("mailkeep-guard.socket", "mailkeep-guard.service", "mailkeep-inbound.service"),
)


@dataclass(frozen=True)
class NightServer:
    site: Site
    attacker: Attacker

    @property
    def server(self) -> Server:
        return self.site.server

    def submit(self, author: str, *recipients: str) -> None:
        login = author, self.site.passphrases[author]
        text = compose_message(author, recipients[0], "of the night")
        answer = deliver_message(str(self.server.ip), SUBMISSIONS, author, [*recipients], text, login=login)
        assert is_accepted(answer), answer

    def run_mailkeep(self, command: str, *arguments: str) -> tuple[int, str]:
        """On the operator's machine."""
        words = [sys.executable, "-m", "mailkeep", command, str(self.site.inventory), *arguments]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout + done.stderr

    def read_json(self, command: str, *arguments: str) -> object:
        code, text = self.run_mailkeep(command, *arguments, "--json")
        assert code == 0, text
        [answer] = json.loads(text).values()
        return answer

    def count_by_sender(self) -> dict[str, int]:
        """Without the watch's alerts, which may wait at any time."""
        summary = self.read_json("queue")
        assert isinstance(summary, dict)
        return {group["name"]: group["messages"] for group in summary["by_sender"] if group["name"] != WATCH}

    def show_status(self) -> tuple[int, list[str], float]:
        """On the server: exit code, lines, and seconds of processor time. These machines are shared by many."""
        command = "bash -c 'TIMEFORMAT=\"%U %S\"; time mailkeepctl status; echo $?' 2>&1"
        *lines, times, code = self.server.run(command).stdout.splitlines()
        return int(code), lines, sum(map(float, times.split()))


ASK_FOR_A_UNIT = """
import sys
sys.path.insert(0, "/usr/lib/mailkeep")
from mailkeep_server.common.unit_states import read_active_states
print(read_active_states(["postfix.service"]))
"""


@pytest.fixture(scope="module")
def night(
    lab: Lab, internet: Internet, attacker: Attacker, built_site: Site, built_image: str
) -> Iterator[NightServer]:
    server = lab.boot_server("night", hostname="mail.example.test", image=built_image)
    try:
        internet.resolve_for(server)
        site = built_site.copy_for(server)
        result = site.deploy()
        assert result.code == 0, result.output
        yield NightServer(site, attacker)
    finally:
        server.remove()


def test_systemd_answers_about_a_single_unit(night: NightServer) -> None:
    """Else status would wait five seconds for each such question."""
    answer = night.server.run("cd / && python3 -IB -", stdin=ASK_FOR_A_UNIT).stdout
    assert answer == "{'postfix.service': 'active'}\n"


def test_all_is_well_is_one_line(night: NightServer) -> None:
    code, lines, _ = poll(lambda: (shown := night.show_status())[0] == 0 and shown, 60, "all is not well", interval=2)
    assert code == 0
    [line] = lines
    assert "mail.example.test, " in line
    assert "all is well: " in line
    assert night.run_mailkeep("status")[0] == 0


def test_with_half_of_the_services_down_there_is_one_screen_within_three_seconds(night: NightServer) -> None:
    night.server.run(f"systemctl stop {' '.join(DOWN)}")
    night.server.run("systemctl kill -s STOP opendkim")  # it runs, and does not answer
    try:
        shown = [night.show_status() for _ in range(3)]
        code, lines, _ = shown[0]
        assert code == 3, lines
        # It waits for sensors that long, and for nothing else.
        assert min(seconds for *_, seconds in shown) + ASK_SECONDS <= STATUS_SECONDS, shown
        assert len(lines) < 24
        assert max(map(len, lines)) < 80
        assert "the worst first" in lines[0]
        assert any("The watch does not run" in line for line in lines)
        assert any("Not looked at:" in line for line in lines), "a service hangs, and some only the watch sees"
        _, text = night.run_mailkeep("status", "--all")
        for unit in ("postfix.service", "dovecot.service", "mailkeep-guard.service", "fail2ban.service"):
            assert f"{unit} is down" in text
    finally:
        night.server.run("systemctl kill -s CONT opendkim")
        night.server.run(f"systemctl start {' '.join(DOWN)}")
    # A proof of the jails that ran meanwhile has failed, and the next one comes in half an hour.
    night.server.run("systemctl start mailkeep-jails.service")
    poll(lambda: night.show_status()[0] == 0, 120, "all is not well again", interval=3)


@pytest.fixture(scope="module")
def flooded(night: NightServer) -> NightServer:
    """Anna's spam to two remotes; mail of Ben and of root that waits, too."""
    night.server.run(f"postconf -e defer_transports=smtp && {RELOAD_POSTFIX}")
    night.submit(ANNA, "x@outside.test")
    night.submit(ANNA, "x@elsewhere.test")
    night.submit(BEN, "y@outside.test")
    night.submit(BEN, "y@outside.test", "y@elsewhere.test")
    night.server.run("printf 'Subject: from root\\n\\n' | sendmail z@outside.test")
    poll(lambda: len(night.server.run("find /var/spool/postfix/deferred -type f").stdout.split()) == 5, 30, "no queue")
    rows = map(json.loads, night.server.run("postqueue -j").stdout.splitlines())
    ids = [row["queue_id"] for row in rows if row["sender"] == ANNA]
    program = Path(__file__).with_name("queue_filler.py").read_text()
    night.server.run(f"python3 - {SPAM - len(ids)} {' '.join(ids)}", stdin=program)
    return night


def test_a_full_queue_is_summed_up(flooded: NightServer) -> None:
    began = time.monotonic()
    summary = flooded.read_json("queue")
    assert time.monotonic() - began < QUEUE_SECONDS
    assert isinstance(summary, dict)
    assert flooded.count_by_sender() == {ANNA: SPAM, BEN: 2, "root@mail.example.test": 1}
    assert summary["by_sender"][0] == {"name": ANNA, "messages": SPAM, "recipients": SPAM}
    remotes = {group["name"]: group["messages"] for group in summary["by_remote"]}
    assert remotes["elsewhere.test"] == SPAM / 2 + 1
    code, text = flooded.run_mailkeep("queue", "list", "--account", BEN)
    assert code == 0
    assert text.endswith("2 messages, 3 recipients.\n")


def test_only_the_headers_of_a_message_are_shown(flooded: NightServer) -> None:
    code, text = flooded.run_mailkeep("queue", "show", "--account", BEN)
    assert code == 0
    assert text.count("Subject: of the night") == 2
    assert "Hello." not in text
    assert "Hello." in flooded.run_mailkeep("queue", "show", "--account", BEN, "--body")[1]


def test_mail_to_one_remote_is_held_and_released(flooded: NightServer) -> None:
    code, text = flooded.run_mailkeep("queue", "hold", "--remote", "elsewhere.test")
    assert code == 0
    assert f"{SPAM // 2} messages on hold.\n1 message left alone: other recipients are in it, too." in text
    assert len(flooded.server.run("find /var/spool/postfix/hold -type f").stdout.split()) == SPAM // 2
    assert flooded.run_mailkeep("queue", "release", "--remote", "elsewhere.test")[0] == 0
    assert flooded.server.run("find /var/spool/postfix/hold -type f").stdout == ""


def test_an_account_s_mail_is_deleted_and_all_other_mail_stays(flooded: NightServer) -> None:
    code, text = flooded.run_mailkeep("queue", "delete", "--account", ANNA)
    assert code == 1
    assert f"{SPAM} messages to {SPAM} recipients ({ANNA} {SPAM})" in text
    assert flooded.count_by_sender()[ANNA] == SPAM
    began = time.monotonic()
    code, text = flooded.run_mailkeep("queue", "delete", "--account", ANNA, "--yes")
    assert time.monotonic() - began < QUEUE_SECONDS
    assert (code, text.splitlines()[1]) == (0, f"{SPAM} messages deleted.")
    assert flooded.count_by_sender() == {BEN: 2, "root@mail.example.test": 1}


def test_waiting_mail_leaves_when_it_is_retried(flooded: NightServer, internet: Internet) -> None:
    internet.clear_messages()
    flooded.server.run(f"postconf -e defer_transports= && {RELOAD_POSTFIX}")
    assert flooded.run_mailkeep("queue", "retry", "--account", BEN)[0] == 0
    internet.wait_for(lambda mail: mail.sender == BEN and "y@outside.test" in mail.recipients)
    assert flooded.count_by_sender().keys() >= {"root@mail.example.test"}, "only Ben's was asked for"


def test_the_weekly_mail_reaches_the_administrators(night: NightServer, internet: Internet) -> None:
    night.server.run("systemctl start mailkeep-weekly.service")
    mail = internet.wait_for(lambda mail: b"The week: " in mail.data.replace(b"\r\n", b""))
    text = mail.data.decode()
    for beginning in ("Now: ", "Mail: ", "Unusual: ", "Bans: ", "Updates: ", "Disk: ", "Certificate: ", "Backups: "):
        assert f"\n{beginning}" in text
    assert len(text.splitlines()) < 70
    assert night.server.run("systemctl is-enabled mailkeep-weekly.timer").stdout == "enabled\n"
    assert "The week: " in night.server.run("mailkeepctl weekly").stdout


def test_figures_for_prometheus_are_a_file(night: NightServer) -> None:
    # Under the lock, because a proof of the jails bans addresses for a moment.
    night.server.run(f"flock {LOCK} mailkeepctl metrics --file /root/mailkeep.prom")
    lines = night.server.run("cat /root/mailkeep.prom").stdout.splitlines()
    for what in ("guard", "queue", "bans", "disks", "certificate", "backups", "findings"):
        assert f'mailkeep_looked_at{{what="{what}"}} 1' in lines
    assert 'mailkeep_bans{jail="postfix"} 0' in [line for line in lines if line.startswith("mailkeep_bans")]
    assert any(line.startswith("mailkeep_accounts_frozen ") for line in lines)


def test_a_lifted_ban_lets_the_address_in(night: NightServer) -> None:
    banned, host = str(night.attacker.sources[3]), str(night.server.ip)

    def is_let_in() -> bool:
        return is_accepted(run_on(night.attacker, await_greeting, host, IMAP, 3, source=banned))

    assert is_let_in()
    night.server.run(f"fail2ban-client set dovecot banip {banned}")
    poll(lambda: not is_let_in(), 20, "it is not banned")
    code, text = night.run_mailkeep("bans", banned)
    assert code == 0
    assert "dovecot: wrong passwords by IMAP or submission" in text
    assert "NOT in the firewall" not in text
    code, text = night.run_mailkeep("bans", banned, "--lift")
    assert (code, text.splitlines()[1]) == (0, f"Lifted: {banned}, banned by dovecot.")
    assert is_let_in()
    # What only the firewall remembers is lifted as well.
    night.server.run(f"nft add element inet f2b-table addr-set-dovecot '{{ {banned} }}'")
    assert not is_let_in()
    assert night.run_mailkeep("bans", banned, "--lift")[0] == 0
    assert is_let_in()


def test_who_logged_in_from_where_is_known(flooded: NightServer) -> None:
    answer = flooded.read_json("logins", ANNA)
    assert isinstance(answer, dict)
    [row] = [row for row in answer["logins"] if row["service"] == "smtp"]
    assert (row["account"], row["good"], row["failed"]) == (ANNA, 2, 0)
    assert answer["log_since"]
    code, text = flooded.run_mailkeep("logins", str(row["address"]))
    assert code == 0
    assert {ANNA, BEN} <= {line.split()[0] for line in text.splitlines()}
