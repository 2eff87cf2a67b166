"""Logins are read as Dovecot 2.4.1 writes them; text that an attacker chooses is not taken for a login."""

import json
from collections.abc import Callable

import pytest
from watch_samples import Clock

from mailkeep_server.watch import busy_ports, login_monitor
from mailkeep_server.watch.alert_queue import AlertQueue, Notification
from mailkeep_server.watch.login_monitor import MAX_NETWORKS, NEWS_AFTER, LoginMonitor

Wait = Callable[[float], list[Notification]]
ANNA = "anna@example.org"


@pytest.fixture
def monitor(alerts: AlertQueue, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> LoginMonitor:
    monkeypatch.setattr(login_monitor.time, "time", clock)
    return LoginMonitor(alerts, max_failures=100)


def login_line(address: str, account: str = ANNA) -> str:
    return (
        f"imap-login: Logged in: user=<{account}>, method=PLAIN, rip={address}, lip=192.0.2.1, mpid=1, TLS, session=<x>"
    )


def failure_line(address: str, account: str = ANNA, reason: str = "passwd-file: Password mismatch") -> str:
    return f"auth({account},{address},sasl:plain)<SbnpQBxhTrPGM2RB>: {reason}"


def join_texts(notifications: list[Notification]) -> str:
    return "".join(notification.text for notification in notifications)


def test_a_login_from_a_new_network_is_reported_but_not_the_first_one(monitor: LoginMonitor, wait: Wait) -> None:
    for address in ("192.0.2.7", "192.0.2.200", "2001:db8::1", "192.0.2.9"):
        monitor.read_message(login_line(address))
    (notification,) = wait(5)
    assert notification.text.count("\n") == 1
    expected = f"{ANNA} has read mail from a network that is new to it: 2001:db8::1; if that is not its owner, "
    assert f"{expected}`mailkeepctl freeze {ANNA}`" in notification.text


def test_the_first_login_of_an_account_is_reported_once_the_watch_knows_those_in_use(
    monitor: LoginMonitor, alerts: AlertQueue, clock: Clock, wait: Wait
) -> None:
    monitor.read_message(login_line("192.0.2.7"))
    clock.now += NEWS_AFTER + 1
    assert wait(5) == []
    restarted = LoginMonitor(alerts, 100, json.loads(json.dumps(monitor.export_state())))
    restarted.read_message(login_line("192.0.2.7"))
    restarted.read_message(login_line("198.51.100.1", "forgotten@example.org"))
    restarted.read_message(login_line("198.51.100.1", "forgotten@example.org"))
    (notification,) = wait(5)
    assert "forgotten@example.org has read mail for the first time, from 198.51.100.1; if" in notification.text
    assert notification.text.count("\n") == 1


def test_a_botnet_with_the_right_password_is_reported_a_few_times(monitor: LoginMonitor, wait: Wait) -> None:
    for n in range(200):
        monitor.read_message(login_line(f"203.0.{n}.1"))
    lines = join_texts(wait(3600)).splitlines()
    assert len(lines) == 4
    assert "no more alerts of this for six hours" in lines[-1]
    assert len(monitor.export_state()["networks"][ANNA]) <= MAX_NETWORKS


def test_known_networks_outlive_a_restart(monitor: LoginMonitor, alerts: AlertQueue, wait: Wait) -> None:
    monitor.read_message(login_line("192.0.2.7"))
    restarted = LoginMonitor(alerts, 100, json.loads(json.dumps(monitor.export_state())))
    restarted.read_message(login_line("192.0.2.8"))
    assert wait(5) == []
    restarted.read_message(login_line("198.51.100.1"))
    assert len(wait(5)) == 1


@pytest.mark.parametrize(
    "line",
    [
        # A login that was tried, not one that worked.
        "imap-login: Login aborted: Connection closed (auth failed, 1 attempts in 2 secs) (auth_failed): "
        f"user=<imap-login: Logged in: user=<{ANNA}>, method=PLAIN, rip=203.0.113.1,>, rip=192.0.2.9, lip=192.0.2.1",
        f"auth(x imap-login: Logged in: user=<{ANNA}>, method=PLAIN, rip=203.0.113.1, …",
        f"lmtp(1): imap-login: Logged in: user=<{ANNA}>, method=PLAIN, rip=203.0.113.1, lip=192.0.2.1",
        "imap-login: Logged in: user=<>, method=PLAIN, rip=203.0.113.1, lip=192.0.2.1",
        "imap-login: Logged in: user=<anna@example.org>, method=PLAIN, rip=unix:x, lip=192.0.2.1",
    ],
)
def test_no_other_line_is_a_login(monitor: LoginMonitor, line: str) -> None:
    monitor.read_message(line)
    assert monitor.export_state()["networks"] == {}


def test_failures_that_soar_are_reported_once_and_when_they_are_over(
    monitor: LoginMonitor, wait: Wait, clock: Clock
) -> None:
    reasons = ("passwd-file: unknown user", "passwd-file: Password mismatch")
    for n in range(101):
        monitor.read_message(failure_line(f"203.0.113.{n % 20}", reason=reasons[n % 2]))
    for _ in range(10):
        monitor.check_failures()
    (notification,) = wait(5)
    assert "101 logins failed in ten minutes, from 20 addresses; of the last ones 6 from " in notification.text
    assert "`firewall.block` in mail.yml shuts a network out" in notification.text
    clock.now += 700
    monitor.check_failures()
    assert "Few logins fail again" in wait(1200)[0].text


def test_a_hundred_failures_in_a_day_are_nothing(monitor: LoginMonitor, wait: Wait, clock: Clock) -> None:
    for _ in range(101):
        monitor.read_message(failure_line("203.0.113.1"))
        clock.now += 864
        monitor.check_failures()
    assert wait(60) == []


def test_a_frozen_accounts_own_password_is_no_failure(monitor: LoginMonitor) -> None:
    monitor.read_message(failure_line("203.0.113.1", reason="passwd-file-deny: denied"))
    assert monitor.failures.count_recent(0) == (0, {})


REACHED = "service(imap-login): process_limit (100) reached, client connections are being dropped"


@pytest.mark.parametrize("line", [REACHED, f"master: Warning: {REACHED}", REACHED.replace("process", "client")])
def test_a_dovecot_that_accepts_no_more_connections_is_reported_with_what_to_do(
    monitor: LoginMonitor, wait: Wait, line: str
) -> None:
    for _ in range(200):
        monitor.read_message(line)
    text = join_texts(wait(3600))
    assert "Dovecot's imap-login accepts no more connections: " in text
    assert "_limit (100) reached; `doveadm who` says" in text
    assert text.count("\n") == 1, "though there is a line for each"


BUSY = 'warning: service "smtp" (25) has reached its process limit "100": new clients may experience noticeable delays'
CONNECTIONS = """\
0      0      198.51.100.74:25      203.0.113.9:40001
0      0      [2001:db8::1]:25      [2001:db8:7:7::1]:40002
0      0      [2001:db8::1]:25      [2001:db8:7:7::2]:40003
0      0      [::ffff:198.51.100.74]:25      [::ffff:203.0.113.8]:40004
"""


@pytest.mark.parametrize(
    ("line", "port"), [(BUSY, 25), (BUSY.replace("25", "465"), 465), ("error: beginning MaxStartups throttling", 22)]
)
def test_a_port_that_serves_as_many_clients_as_it_can_is_reported_with_who_they_are(
    monitor: LoginMonitor, wait: Wait, monkeypatch: pytest.MonkeyPatch, line: str, port: int
) -> None:
    commands = []

    def run(*command: str, **_: object) -> str:
        commands.append(command)
        return CONNECTIONS

    monkeypatch.setattr(busy_ports, "run", run)
    for _ in range(50):
        monitor.read_message(line)
    text = join_texts(wait(3600))
    assert "2001:db8:7:7::/64 (2), 203.0.113.9 (1), 203.0.113.8 (1). `ss -nt " in text
    assert {command[-1] for command in commands} == {f"sport = :{port}"}
    assert f"sport = :{port}'` on the server lists them" in text
    assert text.count("\n") == 1, "though master says it again and again"


def test_an_account_with_too_many_sessions_is_reported_once(monitor: LoginMonitor, wait: Wait) -> None:
    for _ in range(9):
        monitor.read_message(
            f"imap({ANNA}): Error: Post-login script denied access to user {ANNA} (connection created 91 msecs ago)"
        )
    text = join_texts(wait(3600))
    assert f"{ANNA} has as many IMAP sessions as an account may have" in text
    assert f"`mailkeepctl freeze {ANNA}`" in text
    assert text.count("\n") == 1


def test_a_busy_port_for_forwarded_connections_does_not_accuse_the_machine_that_forwards(
    monitor: LoginMonitor, wait: Wait
) -> None:
    monitor.read_message(BUSY.replace('"smtp" (25)', '"10025" (10025)'))
    text = join_texts(wait(60))
    assert "Port 10025 serves as many clients as it can" in text
    assert "They come through the old machine" in text
    assert "firewall.block" not in text


def test_busy_outgoing_mail_is_no_port(monitor: LoginMonitor, wait: Wait) -> None:
    monitor.read_message(BUSY.replace("(25)", "(private/smtp)"))
    assert wait(60) == []


LOST = "lost connection with mail.example.org[private/dovecot-lmtp] while sending RCPT TO"


def deferred_line(reason: str, to: str = ANNA) -> str:
    delays = "relay=none, delay=0.1, delays=0.1/0/0/0, dsn=4.4.2"
    return f"4Tm1: to=<{to}>, {delays}, status=deferred (delivery temporarily suspended: {reason})"


def test_mail_that_does_not_reach_the_mailboxes_is_reported(monitor: LoginMonitor, wait: Wait) -> None:
    for _ in range(200):
        monitor.read_message(deferred_line(LOST))
    text = join_texts(wait(3600))
    assert (
        f"Mail is not delivered to the mailboxes, and waits in the queue: {LOST}; `systemctl status dovecot` says why"
        in text
    )
    assert text.count("\n") == 1, "though there is a line for each"


REFUSED = "host mx.example.net[192.0.2.1] refused to talk to me: 450"


@pytest.mark.parametrize(
    "line",
    [
        deferred_line("connect to mx.example.net[192.0.2.1]:25: Connection refused"),
        deferred_line(f"{REFUSED} {LOST}"),
        deferred_line(f"{REFUSED} {deferred_line(LOST, '')[:-1]}"),
        deferred_line(f"{REFUSED} {deferred_line(LOST)[12 + len(ANNA) :]}"),
        deferred_line("connect to mx.example.net[192.0.2.1]:25: timed out", to=f'"{deferred_line(LOST)}"@example.net'),
        f"imap-login: Login aborted: user=<{REACHED}>, rip=192.0.2.9",
    ],
)
def test_text_of_another_server_or_client_is_not_taken_for_it(monitor: LoginMonitor, wait: Wait, line: str) -> None:
    monitor.read_message(line)
    assert wait(60) == []


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"MESSAGE": [1, 2]}', b'{"__REALTIME_TIMESTAMP": "1"}'])
def test_a_broken_line_of_the_journal_is_ignored(monitor: LoginMonitor, line: bytes) -> None:
    monitor.read_line(line)
