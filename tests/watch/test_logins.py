"""Logins are read as Dovecot 2.4.1 writes them; what an attacker writes into them is not taken for one."""

import json
from collections.abc import Callable

import pytest
from watch_samples import Clock

from mailkeep_server.watch import login_monitor as logins_module
from mailkeep_server.watch.alert_queue import Desk, Letter
from mailkeep_server.watch.login_monitor import NETWORKS, Logins

Wait = Callable[[float], list[Letter]]
ANNA = "anna@example.org"


@pytest.fixture
def logins(desk: Desk, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Logins:
    monkeypatch.setattr(logins_module.time, "time", clock)
    return Logins(desk, most_failures=100)


def logged_in(address: str, account: str = ANNA) -> str:
    return (
        f"imap-login: Logged in: user=<{account}>, method=PLAIN, rip={address}, lip=192.0.2.1, mpid=1, TLS, session=<x>"
    )


def failed(address: str, account: str = ANNA, why: str = "passwd-file: Password mismatch") -> str:
    return f"auth({account},{address},sasl:plain)<SbnpQBxhTrPGM2RB>: {why}"


def test_a_login_from_a_new_network_is_told_but_not_the_first_one(logins: Logins, letters: Wait) -> None:
    for address in ("192.0.2.7", "192.0.2.200", "2001:db8::1", "192.0.2.9"):
        logins.message(logged_in(address))
    (letter,) = letters(5)
    assert letter.text.count("\n") == 1
    assert f"{ANNA} has read mail from a network that it never used before: 2001:db8::1" in letter.text


def test_a_botnet_with_the_right_password_is_told_a_few_times(logins: Logins, letters: Wait) -> None:
    for n in range(200):
        logins.message(logged_in(f"203.0.{n}.1"))
    told = [line for letter in letters(3600) for line in letter.text.splitlines()]
    assert len(told) == 4
    assert "more of this is not told" in told[-1]
    assert len(logins.state()["networks"][ANNA]) <= NETWORKS


def test_known_networks_outlive_a_restart(logins: Logins, desk: Desk, letters: Wait) -> None:
    logins.message(logged_in("192.0.2.7"))
    again = Logins(desk, 100, json.loads(json.dumps(logins.state())))
    again.message(logged_in("192.0.2.8"))
    assert letters(5) == []
    again.message(logged_in("198.51.100.1"))
    assert len(letters(5)) == 1


@pytest.mark.parametrize(
    "line",
    [
        # What was tried, not what worked.
        "imap-login: Login aborted: Connection closed (auth failed, 1 attempts in 2 secs) (auth_failed): "
        f"user=<imap-login: Logged in: user=<{ANNA}>, method=PLAIN, rip=203.0.113.1,>, rip=192.0.2.9, lip=192.0.2.1",
        f"auth(x imap-login: Logged in: user=<{ANNA}>, method=PLAIN, rip=203.0.113.1, …",
        f"lmtp(1): imap-login: Logged in: user=<{ANNA}>, method=PLAIN, rip=203.0.113.1, lip=192.0.2.1",
        "imap-login: Logged in: user=<>, method=PLAIN, rip=203.0.113.1, lip=192.0.2.1",
        "imap-login: Logged in: user=<anna@example.org>, method=PLAIN, rip=unix:x, lip=192.0.2.1",
    ],
)
def test_no_other_line_is_a_login(logins: Logins, line: str) -> None:
    logins.message(line)
    assert logins.state()["networks"] == {}


def test_failures_that_soar_are_told_once_and_when_they_are_over(logins: Logins, letters: Wait, clock: Clock) -> None:
    for n in range(101):
        logins.message(
            failed(
                f"203.0.113.{n % 20}", why="passwd-file: unknown user" if n % 2 else "passwd-file: Password mismatch"
            )
        )
    for _ in range(10):
        logins.look()
    (letter,) = letters(5)
    assert "101 logins failed in ten minutes, from 20 addresses" in letter.text
    clock.now += 700
    logins.look()
    assert "Few logins fail again" in letters(1200)[0].text


def test_a_hundred_failures_in_a_day_are_nothing(logins: Logins, letters: Wait, clock: Clock) -> None:
    for _ in range(101):
        logins.message(failed("203.0.113.1"))
        clock.now += 864
        logins.look()
    assert letters(60) == []


def test_a_frozen_accounts_own_password_is_no_failure(logins: Logins) -> None:
    logins.message(failed("203.0.113.1", why="passwd-file-deny: denied"))
    assert logins.failures.seen(0) == (0, 0)


REACHED = "service(imap-login): process_limit (100) reached, client connections are being dropped"


@pytest.mark.parametrize("line", [REACHED, f"master: Warning: {REACHED}", REACHED.replace("process", "client")])
def test_that_nobody_gets_in_any_more_is_told_with_what_to_do(logins: Logins, letters: Wait, line: str) -> None:
    for _ in range(200):
        logins.message(line)
    told = "".join(letter.text for letter in letters(3600))
    assert "Dovecot's imap-login takes nobody any more: " in told
    assert "_limit (100) reached; `doveadm who` says" in told
    assert told.count("\n") == 1, "though there is a line for each"


LOST = "lost connection with mail.example.org[private/dovecot-lmtp] while sending RCPT TO"


def deferred(why: str, to: str = ANNA) -> str:
    delays = "relay=none, delay=0.1, delays=0.1/0/0/0, dsn=4.4.2"
    return f"4Tm1: to=<{to}>, {delays}, status=deferred (delivery temporarily suspended: {why})"


def test_that_mail_does_not_reach_the_mailboxes_is_told(logins: Logins, letters: Wait) -> None:
    for _ in range(200):
        logins.message(deferred(LOST))
    told = "".join(letter.text for letter in letters(3600))
    assert f"Mail is not delivered to the mailboxes, and waits in the queue: {LOST}" in told
    assert told.count("\n") == 1, "though there is a line for each"


@pytest.mark.parametrize(
    "line",
    [
        deferred("connect to mx.example.net[192.0.2.1]:25: Connection refused"),
        deferred(f"host mx.example.net[192.0.2.1] refused to talk to me: 450 {LOST}"),
        deferred(f"host mx.example.net[192.0.2.1] refused to talk to me: 450 {deferred(LOST, '')[:-1]}"),
        deferred(f"host mx.example.net[192.0.2.1] refused to talk to me: 450 {deferred(LOST)[12 + len(ANNA) :]}"),
        deferred("connect to mx.example.net[192.0.2.1]:25: timed out", to=f'"{deferred(LOST)}"@example.net'),
        f"imap-login: Login aborted: user=<{REACHED}>, rip=192.0.2.9",
    ],
)
def test_what_others_say_is_not_taken_for_it(logins: Logins, letters: Wait, line: str) -> None:
    logins.message(line)
    assert letters(60) == []


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"MESSAGE": [1, 2]}', b'{"__REALTIME_TIMESTAMP": "1"}'])
def test_a_line_of_the_journal_that_is_none_is_passed_over(logins: Logins, line: bytes) -> None:
    logins._line(line)
