"""An account sends no more than its limits allow, and is frozen if it keeps trying.

Other accounts send on, and mail from outside is received, even while the guard is down.
"""

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
from mailkeep_server.common.paths import FREEZE_LIST, GUARD_STATE

# An account for each test, so that no test uses up another's limits.
NAMES = (
    "cara",
    "dora",
    "emil",
    "fritz",
    "gerd",
    "hanna",
    "ida",
    "jan",
    "karl",
    "lena",
    "mia",
    "nora",
    "olga",
    "paul",
    "rosa",
    "sven",
)
MAX_MESSAGES = 5  # messages in ten minutes
MAX_RECIPIENTS = 8
MAX_LOCAL_RECIPIENTS = 3
TRIES = 6  # over a limit, until an account is frozen

GUARD = {
    "limits": {"messages_per_10_minutes": MAX_MESSAGES, "recipients_per_10_minutes": MAX_RECIPIENTS},
    "local": {"recipients_per_hour": MAX_LOCAL_RECIPIENTS, "recipients_per_day": 100},
    "freeze": {"refused_tries": TRIES},
}


def address_of(name: str) -> str:
    return f"{name}@example.test"


@dataclass(frozen=True)
class GuardedServer:
    site: Site
    outside: Internet
    password: str

    @property
    def server(self) -> Server:
        return self.site.server

    @property
    def ip(self) -> str:
        return str(self.server.ip)

    def send_message(self, name: str, to: str = OUTSIDE, *, header: str = "", port: int = SUBMISSIONS) -> str:
        """Send a message; `header` is the value of its From: line, by default the account's address."""
        sender = address_of(name)
        text = compose_message(header or sender, to, f"from {name}")
        return deliver_message(self.ip, port, sender, [to], text, login=(sender, self.password))

    def deliver_from_outside(self, address: str, count: int) -> None:
        for number in range(count):
            text = compose_message(STRANGER, address, f"from outside, {number}").encode()
            assert self.outside.send(STRANGER, address, self.ip, text).code == 250

    def try_login(self, name: str, port: int) -> str:
        return log_in(self.ip, port, address_of(name), self.password)

    def open_session(self, name: str) -> Any:
        """An SMTP connection that has logged in."""
        connection = open_smtp(self.ip, SUBMISSIONS)
        assert send_commands(connection, auth_plain(address_of(name), self.password)).startswith("235")
        return connection

    def run_ctl(self, command: str, name: str = "", *, check: bool = True) -> str:
        process = self.server.run(f"mailkeepctl {command} {address_of(name) if name else ''}", check=check)
        return process.stdout + process.stderr

    def is_frozen(self, name: str) -> bool:
        return f"{address_of(name)}:" in self.server.run("cat /var/lib/mailkeep-guard/frozen/accounts").stdout

    def count_used(self, name: str, limit: str = "messages_per_10_minutes") -> int:
        accounts = json.loads(self.run_ctl("limits --json"))["accounts"]
        uses = {entry["account"]: {usage["limit"]: usage["used"] for usage in entry["limits"]} for entry in accounts}
        return int(uses.get(address_of(name), {}).get(limit, 0))


@pytest.fixture(scope="module")
def guarded(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[GuardedServer]:
    server = lab.boot_server("guarded", hostname="mail.example.test", image=built_image)
    site = built_site.copy_for(server)
    password = passwords.generate_password()
    hashed = passwords.hash_password(password)
    settings = yaml.safe_load(site.settings_file.read_text())
    settings["accounts"] += [{"address": address_of(name), "password": hashed} for name in NAMES]
    site.settings_file.write_text(yaml.safe_dump(settings | {"guard": GUARD}))
    result = site.deploy()
    assert result.code == 0, result.output
    # The copy's database counts what programs on the built server have sent. Without the list of frozen accounts too,
    # the guard takes the start for its first, and not for a loss of its counts.
    units = "mailkeep-guard.socket mailkeep-guard.service"
    server.run(f"systemctl stop {units}; rm -f {GUARD_STATE}/guard.db* {FREEZE_LIST}; systemctl start {units}")
    yield GuardedServer(site, internet, password)
    server.remove()


def call_at_once(tries: int, act: Callable[[], str]) -> list[str]:
    with ThreadPoolExecutor(tries) as pool:
        return [future.result() for future in [pool.submit(act) for _ in range(tries)]]


@contextmanager
def extra_main_cf_line(guarded: GuardedServer, line: str) -> Iterator[None]:
    """A context in which main.cf has one line more.

    Postfix is restarted, because after a reload its processes first finish their sessions.
    """
    restart = "systemctl restart postfix"
    guarded.server.run(f"cp -p /etc/postfix/main.cf /root/ && echo '{line}' >> /etc/postfix/main.cf && {restart}")
    try:
        yield
    finally:
        guarded.server.run(f"cp -p /root/main.cf /etc/postfix/ && {restart}")


# --- limits -----------------------------------------------------------------------------------------------------------


def test_exactly_the_limit_is_accepted_however_many_connections_try_at_once(guarded: GuardedServer) -> None:
    answers = call_at_once(MAX_MESSAGES * 2, lambda: guarded.send_message("cara"))
    assert sum(map(is_accepted, answers)) == MAX_MESSAGES, answers
    assert all("may send 5 messages in 10 minutes; again at" in answer for answer in answers if not is_accepted(answer))
    assert guarded.count_used("cara") == MAX_MESSAGES


def test_without_the_guard_in_main_cf_everything_is_accepted(guarded: GuardedServer) -> None:
    with extra_main_cf_line(guarded, "guard ="):
        assert all(map(is_accepted, call_at_once(MAX_MESSAGES * 2, lambda: guarded.send_message("dora"))))
    assert guarded.count_used("dora") == 0


def test_a_message_counts_as_its_recipients_and_a_refused_one_as_none(guarded: GuardedServer) -> None:
    sender = address_of("emil")
    with guarded.open_session("emil") as session:
        recipients = [f"emil{number}@outside.test" for number in range(MAX_RECIPIENTS + 1)]
        assert session.sendmail(sender, recipients[:5], compose_message(sender, OUTSIDE, "five")) == {}
        answers = [send_commands(session, *envelope_commands(sender, recipients[5]))]
        answers += [send_commands(session, f"RCPT TO:<{recipient}>") for recipient in recipients[6:]]
        assert [answer[:3] for answer in answers] == ["250", "250", "250", "450"]
        session.rset()
        assert session.sendmail(sender, recipients[5:8], compose_message(sender, OUTSIDE, "three")) == {}
    assert guarded.count_used("emil", "recipients_per_10_minutes") == MAX_RECIPIENTS


def test_messages_refused_because_the_signer_is_down_do_not_count(guarded: GuardedServer) -> None:
    guarded.server.run("systemctl kill --signal=KILL opendkim; systemctl stop opendkim")
    try:
        answers = [guarded.send_message("fritz") for _ in range(3)]
        assert [answer[:2] for answer in answers] == ["45"] * 3
        assert guarded.count_used("fritz") == 0
    finally:
        guarded.server.run("systemctl reset-failed opendkim; systemctl start opendkim")
    assert is_accepted(guarded.send_message("fritz"))
    assert guarded.count_used("fritz") == 1


def test_mail_of_local_programs_over_their_limit_waits(guarded: GuardedServer) -> None:
    send_one = f"printf 'Subject: local\\n\\nHello.\\n' | sendmail {OUTSIDE}"
    guarded.server.run(f"for n in $(seq {MAX_LOCAL_RECIPIENTS + 2}); do {send_one}; done")
    refused = "journalctl -u postfix -o cat -g 'milter-reject.* 4\\.7\\.1'"
    poll(lambda: guarded.server.run(refused, check=False).stdout, 15, "nothing is refused")
    assert guarded.server.run("find /var/spool/postfix/maildrop -type f | wc -l").stdout == "2\n"
    guarded.server.run("find /var/spool/postfix/maildrop -type f -delete")


def test_another_limit_reloads_the_guard_which_forgets_nothing(guarded: GuardedServer) -> None:
    assert is_accepted(guarded.send_message("gerd"))
    process = guarded.server.run("systemctl show -P MainPID mailkeep-guard").stdout
    settings = yaml.safe_load(guarded.site.settings_file.read_text())
    limits = {"messages_per_10_minutes": 2}
    accounts = [
        account | ({"limits": limits} if account["address"] == address_of("gerd") else {})
        for account in settings["accounts"]
    ]
    guarded.site.settings_file.write_text(yaml.safe_dump(settings | {"accounts": accounts}))
    result = guarded.site.deploy()
    assert result.code == 0, result.output
    assert result.changed == ["Files: checked, then put in place", "guard: services"]
    assert guarded.server.run("systemctl show -P MainPID mailkeep-guard").stdout == process
    assert [is_accepted(guarded.send_message("gerd")) for _ in range(2)] == [True, False]


# --- the author in the From: line -------------------------------------------------------------------------------------


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
    ],
)
def test_an_account_does_not_write_as_somebody_else_in_the_from_line(
    guarded: GuardedServer, header: str, port: int
) -> None:
    answer = guarded.send_message("hanna", header=header, port=port)
    assert answer.startswith("553 5.7.1 hanna@example.test does not own"), answer
    guarded.run_ctl("thaw", "hanna", check=False)  # the tries of this test have frozen it


@pytest.mark.parametrize(
    "header", ["friends:;", " ", "Smith, Hanna <hanna@example.test>", '"Hanna <hanna@example.test>']
)
def test_a_from_line_that_cannot_be_read_is_refused_and_freezes_nobody(guarded: GuardedServer, header: str) -> None:
    answers = [guarded.send_message("hanna", header=header) for _ in range(5)]
    assert {answer[:25] for answer in answers} == {"553 5.7.1 The From: line "}
    assert not guarded.is_frozen("hanna")


def test_a_from_line_that_every_mail_program_reads_is_accepted(guarded: GuardedServer) -> None:
    for header in ('"=?utf-8?Q?M=C3=BCller=2C_Olga?=" <olga@example.test>', "[Sales] Olga@Work <olga@example.test>"):
        assert is_accepted(guarded.send_message("olga", header=header))


RECEIPT = """\
From: paul@example.test
To: x@outside.test
Content-Type: multipart/report; report-type=disposition-notification; boundary=b

--b
Content-Type: text/plain

The message was displayed.
--b
Content-Type: message/disposition-notification

Final-Recipient: rfc822;paul@example.test
Disposition: manual-action/MDN-sent-manually; displayed

--b--
"""
REDIRECT = """\
From: Stranger <s@outside.test>
To: paul@example.test
Resent-From: paul@example.test
Resent-To: x@outside.test
Subject: question for a colleague

hello
"""


def test_a_read_receipt_and_a_redirect_leave_and_nothing_else_without_a_sender(guarded: GuardedServer) -> None:
    def submit(sender: str, text: str) -> str:
        session = guarded.open_session("paul")
        answer = send_commands(session, f"MAIL FROM:<{sender}>", f"RCPT TO:<{OUTSIDE}>")
        assert is_accepted(answer), answer
        code, reply = session.data(text)
        return f"{code} {reply.decode()}"

    assert is_accepted(submit("", RECEIPT))
    assert is_accepted(submit("paul@example.test", REDIRECT))
    assert submit("", "From: paul@example.test\n\nBuy!\n").startswith("553 5.7.1 Without a sender")
    assert submit("", RECEIPT.replace(";paul@", ";emil@")).startswith("553 5.7.1 The read receipt is for emil@")
    assert submit("paul@example.test", REDIRECT.replace("s@outside.test", "emil@example.test")).startswith("553 5.7.1")


def test_a_foreign_sender_counts_as_soon_as_it_is_refused(guarded: GuardedServer) -> None:
    sessions = [guarded.open_session("nora") for _ in range(5)]
    answers = [send_commands(session, "MAIL FROM:<anna@example.test>") for session in sessions for _ in range(2)]
    assert {answer[:40] for answer in answers} == {"553 5.7.1 nora@example.test does not own"}
    poll(lambda: guarded.is_frozen("nora"), 2, "not frozen while its sessions are open")
    guarded.run_ctl("thaw", "nora")


def test_an_account_writes_as_itself_with_a_name_and_an_extension(guarded: GuardedServer) -> None:
    assert is_accepted(guarded.send_message("ida", header="=?utf-8?q?Ida_=C3=9Cber?= <Ida+shop@example.test>"))


def test_without_the_milter_an_account_writes_as_somebody_else(guarded: GuardedServer) -> None:
    with extra_main_cf_line(guarded, "submission_milters = $signing_milter"):
        assert is_accepted(guarded.send_message("ida", header="anna@example.test"))


def test_a_password_set_on_the_server_holds_and_no_deploy_brings_the_old_one_back(guarded: GuardedServer) -> None:
    inventory, rosa = str(guarded.site.settings_file.parent), address_of("rosa")
    assert is_accepted(guarded.try_login("rosa", IMAPS))
    password = guarded.run_ctl("passwd", "rosa").splitlines()[1].strip()
    poll(lambda: is_accepted(log_in(guarded.ip, IMAPS, rosa, password)), 5, "cannot log in by the new password")
    assert not is_accepted(guarded.try_login("rosa", IMAPS))
    refused = guarded.site.deploy()
    assert refused.code == 1
    assert f"{rosa} got a new password on this server by `mailkeepctl passwd`" in refused.output
    with pytest.raises(SystemExit) as end:
        app.app(["account", "passwd", inventory, rosa, "--from-host"])
    assert end.value.code in (0, None)
    result = guarded.site.deploy()
    assert result.code == 0, result.output
    assert is_accepted(log_in(guarded.ip, IMAPS, rosa, password))
    assert not is_accepted(guarded.try_login("rosa", IMAPS))


def test_a_renamed_account_keeps_mail_uids_counts_and_freeze(guarded: GuardedServer) -> None:
    inventory, old, new = str(guarded.site.settings_file.parent), address_of("sven"), address_of("svenja")
    deliver = guarded.deliver_from_outside

    def list_uids(address: str) -> tuple[str, list[str]]:
        mailbox = open_imap(guarded.ip)
        mailbox.login(address, guarded.password)
        validity = str(mailbox.status("INBOX", "(UIDVALIDITY)"))
        mailbox.select("INBOX")
        return validity, mailbox.uid("SEARCH", "ALL")[1][0].decode().split()

    deliver(old, 2)
    assert is_accepted(guarded.send_message("sven"))
    before = list_uids(old)
    guarded.run_ctl("freeze", "sven")
    with pytest.raises(SystemExit) as end:
        app.app(["account", "rename", inventory, old, new])
    assert end.value.code in (0, None)
    early = guarded.server.run(f"mailkeepctl rename {old} {new}", check=False)
    assert "deploy, then run this again" in early.stderr
    result = guarded.site.deploy()
    assert result.code == 0, result.output
    assert not is_accepted(log_in(guarded.ip, IMAPS, new, guarded.password)), "it is frozen"
    deliver(new, 1)
    deliver(old, 1)
    poll(
        lambda: "2" in guarded.server.run(f"doveadm mailbox status -u {new} messages INBOX").stdout, 10, "not delivered"
    )
    output = guarded.server.run(f"mailkeepctl rename {old} {new}").stdout
    assert "2 messages that came meanwhile" in output
    assert guarded.is_frozen("svenja")
    assert not guarded.is_frozen("sven")
    guarded.run_ctl("thaw", "svenja")
    poll(lambda: is_accepted(log_in(guarded.ip, IMAPS, new, guarded.password)), 5, "does not log in")
    poll(lambda: len(list_uids(new)[1]) == 4, 10, "mail is missing")
    after = list_uids(new)
    assert after[0].replace(new, old) == before[0]
    assert after[1][:2] == before[1]
    assert guarded.count_used("svenja") == 1
    assert guarded.count_used("sven") == 0
    deliver(old, 1)
    poll(lambda: len(list_uids(new)[1]) == 5, 10, "mail to the old address is missing")
    source = "maildir:/var/vmail/example.test/svenja/Maildir"
    guarded.server.run(f"doveadm import -u {address_of('karl')} {source} svenja all")
    copied = guarded.server.run(f"doveadm mailbox status -u {address_of('karl')} messages 'svenja*'").stdout
    assert "svenja/INBOX messages=5" in copied.replace(".", "/") or "svenja messages=5" in copied, copied


# --- freezes ----------------------------------------------------------------------------------------------------------


def test_an_account_that_keeps_trying_over_its_limit_is_frozen_and_no_other_is(guarded: GuardedServer) -> None:
    answers = [guarded.send_message("jan") for _ in range(MAX_MESSAGES + TRIES)]
    assert [answer[:3] for answer in answers] == ["250"] * MAX_MESSAGES + ["450"] * (TRIES - 1) + ["521"]
    assert guarded.is_frozen("jan")
    assert "is frozen since" in answers[-1]
    assert "Ask postmaster@mail.example.test" in answers[-1]
    poll(lambda: not is_accepted(guarded.try_login("jan", IMAPS)), 2, "still logs in")
    assert not is_accepted(guarded.try_login("jan", SUBMISSION))
    assert is_accepted(guarded.try_login("karl", SUBMISSION))
    assert is_accepted(guarded.send_message("karl"))


def test_a_freeze_by_hand_cuts_sessions_holds_the_queue_survives_a_reboot_and_ends(guarded: GuardedServer) -> None:
    name, other, waiting = "lena", "mia", "defer@outside.test"
    assert is_accepted(guarded.send_message(name, waiting))
    assert is_accepted(guarded.send_message(other, waiting))
    poll(
        lambda: all(" deferred " in guarded.run_ctl("queue list --account", account) for account in (name, other)),
        20,
        "nothing waits",
    )
    mailbox, session = open_imap(guarded.ip), guarded.open_session(name)
    mailbox.login(address_of(name), guarded.password)

    guarded.server.run("systemctl stop mailkeep-watch")  # it would carry out part of the freeze itself
    start = time.monotonic()
    output = guarded.run_ctl("freeze --why 'sends spam'", name)
    assert "1 message put on hold, 1 session cut." in output
    assert catch_answer(lambda: str(mailbox.noop())).startswith("dropped")
    assert catch_answer(lambda: send_commands(session, *envelope_commands(address_of(name), OUTSIDE))).startswith("521")
    assert catch_answer(lambda: send_commands(session, "NOOP")).startswith("dropped")
    assert time.monotonic() - start < 4
    poll(lambda: not is_accepted(guarded.try_login(name, IMAPS)), 2, "still logs in")
    assert "sends spam" in guarded.run_ctl("limits")
    sample = guarded.server.run(f"cat /var/lib/mailkeep-watch/samples/{address_of(name)}/*").stdout
    assert f"from {name}" in sample

    guarded.server.restart()
    assert not is_accepted(guarded.try_login(name, IMAPS))
    assert not is_accepted(guarded.send_message(name))
    assert is_accepted(guarded.try_login(other, IMAPS))
    assert guarded.run_ctl("queue list --account", name).count(" hold ") == 1
    assert guarded.run_ctl("queue list --account", other).count(" hold ") == 0

    assert "1 message of it still held, to 1 recipient" in guarded.run_ctl("thaw", name)
    poll(lambda: is_accepted(guarded.try_login(name, IMAPS)), 5, "does not log in")
    assert is_accepted(guarded.send_message(name))
    assert "1 message on its way" in guarded.run_ctl("queue release --account", name)
    assert "1 message deleted" in guarded.run_ctl("queue delete --yes --account", other)
    assert "0 messages" in guarded.run_ctl("queue list --account", other)


def test_the_operators_command_freezes_and_thaws_an_account_too(
    guarded: GuardedServer, capfd: pytest.CaptureFixture[str]
) -> None:
    inventory = str(guarded.site.inventory)
    for command, sentence in (("freeze", "is frozen"), ("thaw", "may send and log in again")):
        with pytest.raises(SystemExit) as raised:
            app.app(["account", command, inventory, address_of("mia")])
        assert raised.value.code == 0
        assert sentence in capfd.readouterr().out
        assert guarded.is_frozen("mia") == (command == "freeze")
    with pytest.raises(UserError, match=r"nobody@example\.test is no account of this server\. Its accounts are: anna@"):
        accounts.freeze_account(inventory, "nobody@example.test")


# --- the guard itself -------------------------------------------------------------------------------------------------


@contextmanager
def while_guard_is(guarded: GuardedServer, down: str, up: str) -> Iterator[None]:
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
def test_without_the_guard_nobody_sends_and_everybody_receives(guarded: GuardedServer, down: str, up: str) -> None:
    with while_guard_is(guarded, down, up):
        start = time.monotonic()
        answer = guarded.send_message("karl")
        assert answer[:1] == "4" or answer.startswith("dropped"), answer
        assert time.monotonic() - start < 10
        text = compose_message(STRANGER, address_of("karl"), "while it is down").encode()
        assert guarded.outside.send(STRANGER, address_of("karl"), guarded.ip, text).code == 250
    poll(lambda: is_accepted(guarded.send_message("mia")), 10, "does not come back")


def test_a_killed_guard_is_back_at_once_with_its_counts(guarded: GuardedServer) -> None:
    before = guarded.count_used("karl")
    guarded.server.run("systemctl kill --signal=KILL mailkeep-guard")
    assert is_accepted(guarded.send_message("karl"))  # meanwhile Postfix waits at the guard's sockets
    assert guarded.count_used("karl") == before + 1
