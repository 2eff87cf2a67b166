"""Whoever holds a right password sends at most what the account may, and is frozen when he goes on. The others' mail
goes on too, and so does what comes in, whatever becomes of the guard."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from clients import (
    IMAPS,
    OUTSIDE,
    STRANGER,
    SUBMISSION,
    SUBMISSIONS,
    auth_plain,
    catch_answer,
    compose_message,
    deliver_message,
    envelope_commands,
    is_accepted,
    log_in,
    open_imap,
    open_smtp,
    send_commands,
)

from mailkeep.cli import accounts, app
from mailkeep.errors import UserError
from mailkeep.inventory import passwords
from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.site import Site

# An account for each test, so that none has what another one used up.
NAMES = ("cara", "dora", "emil", "fritz", "gerd", "hanna", "ida", "jan", "karl", "lena", "mia", "nora")
MOST = 5  # messages in ten minutes
RECIPIENTS = 8
LOCAL = 3
TRIES = 6  # over a limit, until an account is frozen

GUARD = {
    "limits": {"messages_per_10_minutes": MOST, "recipients_per_10_minutes": RECIPIENTS},
    "local": {"recipients_per_hour": LOCAL, "recipients_per_day": 100},
    "freeze": {"refused_tries": TRIES},
}


def address(name: str) -> str:
    return f"{name}@example.test"


@dataclass(frozen=True)
class Guarded:
    site: Site
    outside: Internet
    password: str

    @property
    def server(self) -> Server:
        return self.site.server

    @property
    def ip(self) -> str:
        return str(self.server.ip)

    def send(self, name: str, to: str = OUTSIDE, *, header: str = "", port: int = SUBMISSIONS) -> str:
        """One message; `header` is what its From: line says."""
        sender = address(name)
        text = compose_message(header or sender, to, f"from {name}")
        return deliver_message(self.ip, port, sender, [to], text, login=(sender, self.password))

    def login(self, name: str, port: int) -> str:
        return log_in(self.ip, port, address(name), self.password)

    def session(self, name: str) -> Any:
        """An SMTP connection that has logged in."""
        connection = open_smtp(self.ip, SUBMISSIONS)
        assert send_commands(connection, auth_plain(address(name), self.password)).startswith("235")
        return connection

    def ctl(self, command: str, name: str = "", *, check: bool = True) -> str:
        done = self.server.run(f"mailkeepctl {command} {address(name) if name else ''}", check=check)
        return done.stdout + done.stderr

    def frozen(self, name: str) -> bool:
        return f"{address(name)}:" in self.server.run("cat /var/lib/mailkeep-guard/frozen/accounts").stdout

    def used(self, name: str, limit: str = "messages_per_10_minutes") -> int:
        accounts = json.loads(self.ctl("status --json"))["accounts"]
        uses = {one["account"]: {use["limit"]: use["used"] for use in one["limits"]} for one in accounts}
        return int(uses.get(address(name), {}).get(limit, 0))


@pytest.fixture(scope="module")
def guarded(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[Guarded]:
    server = lab.boot_server("guarded", hostname="mail.example.test", image=built_image)
    site = built_site.copy_for(server)
    password = passwords.generate_password()
    hashed = passwords.hash_password(password)
    declared = yaml.safe_load(site.settings_file.read_text())
    declared["accounts"] += [{"address": address(name), "password": hashed} for name in NAMES]
    site.settings_file.write_text(yaml.safe_dump(declared | {"guard": GUARD}))
    said = site.deploy()
    assert said.code == 0, said.output
    # What programs on the server it was copied from had sent is counted there.
    units = "mailkeep-guard.socket mailkeep-guard.service"
    server.run(f"systemctl stop {units}; rm -f /var/lib/mailkeep-guard/guard.db*; systemctl start {units}")
    yield Guarded(site, internet, password)
    server.remove()


def at_once(tries: int, act: Callable[[], str]) -> list[str]:
    with ThreadPoolExecutor(tries) as pool:
        return [done.result() for done in [pool.submit(act) for _ in range(tries)]]


@contextmanager
def without(guarded: Guarded, line: str) -> Iterator[None]:
    """The server with another line in main.cf. Restarted: at a reload, processes first end what they are at."""
    restart = "systemctl restart postfix"
    guarded.server.run(f"cp -p /etc/postfix/main.cf /root/ && echo '{line}' >> /etc/postfix/main.cf && {restart}")
    try:
        yield
    finally:
        guarded.server.run(f"cp -p /root/main.cf /etc/postfix/ && {restart}")


# --- limits -----------------------------------------------------------------------------------------------------------


def test_exactly_the_limit_is_accepted_however_many_connections_try_at_once(guarded: Guarded) -> None:
    answers = at_once(MOST * 2, lambda: guarded.send("cara"))
    assert sum(map(is_accepted, answers)) == MOST, answers
    assert all("may send 5 messages in 10 minutes; again at" in one for one in answers if not is_accepted(one))
    assert guarded.used("cara") == MOST


def test_without_the_guard_in_main_cf_everything_is_accepted(guarded: Guarded) -> None:
    with without(guarded, "guard ="):
        assert all(map(is_accepted, at_once(MOST * 2, lambda: guarded.send("dora"))))
    assert guarded.used("dora") == 0


def test_a_message_counts_as_its_recipients_and_a_refused_one_as_none(guarded: Guarded) -> None:
    sender = address("emil")
    with guarded.session("emil") as session:
        recipients = [f"emil{n}@outside.test" for n in range(RECIPIENTS + 1)]
        assert session.sendmail(sender, recipients[:5], compose_message(sender, OUTSIDE, "five")) == {}
        answers = [send_commands(session, *envelope_commands(sender, recipients[5]))]
        answers += [send_commands(session, f"RCPT TO:<{one}>") for one in recipients[6:]]
        assert [answer[:3] for answer in answers] == ["250", "250", "250", "450"]
        session.rset()
        assert session.sendmail(sender, recipients[5:8], compose_message(sender, OUTSIDE, "three")) == {}
    assert guarded.used("emil", "recipients_per_10_minutes") == RECIPIENTS


def test_what_could_not_be_signed_does_not_count_and_neither_do_its_retries(guarded: Guarded) -> None:
    guarded.server.run("systemctl kill --signal=KILL opendkim; systemctl stop opendkim")
    try:
        answers = [guarded.send("fritz") for _ in range(3)]
        assert [answer[:2] for answer in answers] == ["45"] * 3
        assert guarded.used("fritz") == 0
    finally:
        guarded.server.run("systemctl reset-failed opendkim; systemctl start opendkim")
    assert is_accepted(guarded.send("fritz"))
    assert guarded.used("fritz") == 1


def test_programs_on_the_server_have_a_limit_too_and_what_is_over_it_waits(guarded: Guarded) -> None:
    sent = f"printf 'Subject: local\\n\\nHello.\\n' | sendmail {OUTSIDE}"
    guarded.server.run(f"for n in $(seq {LOCAL + 2}); do {sent}; done")
    refused = "journalctl -u postfix -o cat -g 'milter-reject.* 4\\.7\\.1'"
    poll(lambda: guarded.server.run(refused, check=False).stdout, 15, "nothing is refused")
    assert guarded.server.run("find /var/spool/postfix/maildrop -type f | wc -l").stdout == "2\n"
    guarded.server.run("find /var/spool/postfix/maildrop -type f -delete")


def test_another_limit_reloads_the_guard_which_forgets_nothing(guarded: Guarded) -> None:
    assert is_accepted(guarded.send("gerd"))
    process = guarded.server.run("systemctl show -P MainPID mailkeep-guard").stdout
    declared = yaml.safe_load(guarded.site.settings_file.read_text())
    limits = {"messages_per_10_minutes": 2}
    changed = [one | ({"limits": limits} if one["address"] == address("gerd") else {}) for one in declared["accounts"]]
    guarded.site.settings_file.write_text(yaml.safe_dump(declared | {"accounts": changed}))
    said = guarded.site.deploy()
    assert said.code == 0, said.output
    assert said.changed == ["Files: checked, then put in place", "guard: services"]
    assert guarded.server.run("systemctl show -P MainPID mailkeep-guard").stdout == process
    assert [is_accepted(guarded.send("gerd")) for _ in range(2)] == [True, False]


# --- whom a message says to be from -----------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [SUBMISSION, SUBMISSIONS])
@pytest.mark.parametrize(
    "header",
    [
        "anna@example.test",
        '"anna@example.test" <hanna@example.test>',
        "hanna@example.test, anna@example.test",
        "=?utf-8?q?anna=40example=2Etest?= <hanna@example.test>",
        "hanna@example.test\r\nFrom: anna@example.test",
        "hanna@example.test\r\nSender: anna@example.test",
        "x@elsewhere.example",
        "friends:;",
        "",
    ],
)
def test_an_account_does_not_write_as_somebody_else_in_the_from_line(guarded: Guarded, header: str, port: int) -> None:
    answer = guarded.send("hanna", header=header or " ", port=port)
    assert answer.startswith("553 5.7.1 hanna@example.test does not own"), answer
    guarded.ctl("thaw", "hanna", check=False)  # so many tries freeze it


def test_a_foreign_sender_counts_as_soon_as_it_is_said(guarded: Guarded) -> None:
    sessions = [guarded.session("nora") for _ in range(5)]
    answers = [send_commands(one, "MAIL FROM:<anna@example.test>") for one in sessions for _ in range(2)]
    assert {answer[:40] for answer in answers} == {"553 5.7.1 nora@example.test does not own"}
    poll(lambda: guarded.frozen("nora"), 2, "not frozen while its sessions are open")
    guarded.ctl("thaw", "nora")


def test_it_writes_as_itself_with_a_name_and_an_extension(guarded: Guarded) -> None:
    assert is_accepted(guarded.send("ida", header="=?utf-8?q?Ida_=C3=9Cber?= <Ida+shop@example.test>"))


def test_without_the_milter_it_would(guarded: Guarded) -> None:
    with without(guarded, "submission_milters = $signing_milter"):
        assert is_accepted(guarded.send("ida", header="anna@example.test"))


# --- freezes ----------------------------------------------------------------------------------------------------------


def test_who_goes_on_over_the_limit_is_frozen_and_nobody_else_is(guarded: Guarded) -> None:
    answers = [guarded.send("jan") for _ in range(MOST + TRIES)]
    assert [answer[:3] for answer in answers] == ["250"] * MOST + ["450"] * (TRIES - 1) + ["521"]
    assert guarded.frozen("jan")
    assert "is frozen since" in answers[-1]
    assert "Ask postmaster@mail.example.test" in answers[-1]
    poll(lambda: not is_accepted(guarded.login("jan", IMAPS)), 2, "still logs in")
    assert not is_accepted(guarded.login("jan", SUBMISSION))
    assert is_accepted(guarded.login("karl", SUBMISSION))
    assert is_accepted(guarded.send("karl"))


def test_a_freeze_by_hand_cuts_sessions_holds_the_queue_survives_a_reboot_and_ends(guarded: Guarded) -> None:
    name, other, waiting = "lena", "mia", "defer@outside.test"
    assert is_accepted(guarded.send(name, waiting))
    assert is_accepted(guarded.send(other, waiting))
    poll(lambda: all(" deferred " in guarded.ctl("queue", one) for one in (name, other)), 20, "nothing waits")
    mailbox, session = open_imap(guarded.ip), guarded.session(name)
    mailbox.login(address(name), guarded.password)

    guarded.server.run("systemctl stop mailkeep-watch")  # which would be at it too, and leave less to do
    start = time.monotonic()
    said = guarded.ctl("freeze --why 'sends spam'", name)
    assert "1 message put on hold, 1 session cut." in said
    assert catch_answer(lambda: str(mailbox.noop())).startswith("dropped")
    assert catch_answer(lambda: send_commands(session, *envelope_commands(address(name), OUTSIDE))).startswith("521")
    assert catch_answer(lambda: send_commands(session, "NOOP")).startswith("dropped")
    assert time.monotonic() - start < 4
    poll(lambda: not is_accepted(guarded.login(name, IMAPS)), 2, "still logs in")
    assert "sends spam" in guarded.ctl("status")
    sample = guarded.server.run(f"cat /var/lib/mailkeep-watch/samples/{address(name)}/*").stdout
    assert f"from {name}" in sample

    guarded.server.restart()
    assert not is_accepted(guarded.login(name, IMAPS))
    assert not is_accepted(guarded.send(name))
    assert is_accepted(guarded.login(other, IMAPS))
    assert guarded.ctl("queue", name).count(" hold ") == 1
    assert guarded.ctl("queue", other).count(" hold ") == 0

    assert "1 message of it still held, to 1 recipient" in guarded.ctl("thaw", name)
    poll(lambda: is_accepted(guarded.login(name, IMAPS)), 5, "does not log in")
    assert is_accepted(guarded.send(name))
    assert "1 message on its way" in guarded.ctl("release", name)
    assert "1 message deleted" in guarded.ctl("delete", other)
    assert "0 messages" in guarded.ctl("queue", other)


def test_it_is_frozen_and_thawed_from_elsewhere_too(guarded: Guarded, capfd: pytest.CaptureFixture[str]) -> None:
    where = str(guarded.site.inventory)
    for command, said in (("freeze", "is frozen"), ("thaw", "may send and log in again")):
        with pytest.raises(SystemExit) as ended:
            app.app(["account", command, where, address("mia")])
        assert ended.value.code == 0
        assert said in capfd.readouterr().out
        assert guarded.frozen("mia") == (command == "freeze")
    with pytest.raises(UserError, match=r"nobody@example\.test is no account of this server\. Its accounts are: anna@"):
        accounts.freeze_account(where, "nobody@example.test")


# --- the guard itself -------------------------------------------------------------------------------------------------


@contextmanager
def guard_is(guarded: Guarded, down: str, up: str) -> Iterator[None]:
    guarded.server.run(down)
    try:
        yield
    finally:
        guarded.server.run(up)


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("systemctl stop mailkeep-guard.socket mailkeep-guard.service", "systemctl start mailkeep-guard.service"),
        ("systemctl kill --signal=STOP mailkeep-guard", "systemctl kill --signal=CONT mailkeep-guard"),
    ],
    ids=["stopped", "hangs"],
)
def test_without_the_guard_nobody_sends_and_everybody_receives(guarded: Guarded, down: str, up: str) -> None:
    with guard_is(guarded, down, up):
        start = time.monotonic()
        answer = guarded.send("karl")
        assert answer[:1] == "4" or answer.startswith("dropped"), answer
        assert time.monotonic() - start < 10
        text = compose_message(STRANGER, address("karl"), "while it is down").encode()
        assert guarded.outside.send(STRANGER, address("karl"), guarded.ip, text).code == 250
    poll(lambda: is_accepted(guarded.send("mia")), 10, "does not come back")


def test_a_guard_that_is_killed_is_back_at_once_and_knows_what_was_sent(guarded: Guarded) -> None:
    before = guarded.used("karl")
    guarded.server.run("systemctl kill --signal=KILL mailkeep-guard")
    assert is_accepted(guarded.send("karl"))  # Postfix waits at the sockets meanwhile
    assert guarded.used("karl") == before + 1
