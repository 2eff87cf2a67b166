"""`mailkeepctl logins` sums up who logged in from where, and says how far back it can know."""

import json
import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest

from mailkeep_server import ctl
from mailkeep_server.common import refused_logins
from mailkeep_server.mail_log.sources import Chunk
from mailkeep_server.operator import login_log, logins_command

ANNA, HOME, ELSEWHERE = "anna@example.org", "203.0.113.7", "198.51.100.66"
NOW = datetime.now(UTC)
Fill = Callable[..., None]


def stamp(hours: float) -> str:
    """So many hours ago, as the log has it."""
    return (NOW - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S")


def write_imap(hours: float, address: str = HOME, account: str = ANNA) -> str:
    text = f"imap-login: Logged in: user=<{account}>, method=PLAIN, rip={address}, lip=192.0.2.1, mpid=1, TLS"
    return f"{stamp(hours)}.000000+00:00 dovecot[7]: {text}"


def write_failure(hours: float, address: str, account: str) -> str:
    reason = "Disconnected: Connection closed (auth failed, 3 attempts in 9 secs)"
    text = f"imap-login: {reason}: user=<{account}>, method=PLAIN, rip={address}, lip=192.0.2.1, TLS, session=<x>"
    return f"{stamp(hours)}.000000+00:00 dovecot[7]: {text}"


def write_smtp(hours: float, address: str) -> str:
    text = f"4fA1: client=unknown[{address}], sasl_method=PLAIN, sasl_username={ANNA}"
    return f"{stamp(hours)}.000000+00:00 postfix/submissions/smtpd[9]: {text}"


@pytest.fixture
def fill_log(monkeypatch: pytest.MonkeyPatch) -> Fill:
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def fill(*lines: str, first: str = "2020-01-01T00:00:00") -> None:
        text = "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr(login_log, "read_server_log", lambda _: [Chunk(text, date(2030, 1, 1))])
        monkeypatch.setattr(login_log, "find_first_time", lambda _: first)

    return fill


def read_rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[tuple[object, ...]]:
    assert ctl.main(["logins", "--json", *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)["logins"]
    return [tuple(row[name] for name in ("account", "address", "service", "good", "failed")) for row in rows]


def test_logins_are_summed_by_account_address_and_service(fill_log: Fill, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [write_imap(30), write_imap(2, account=ANNA.upper()), write_smtp(3, ELSEWHERE), write_smtp(1, ELSEWHERE)]
    fill_log(*lines, write_failure(4, ELSEWHERE, ANNA), write_imap(24 * 9, "192.0.2.5"))
    good = [(ANNA, HOME, "imap", 2, 0), (ANNA, ELSEWHERE, "smtp", 2, 0)]
    assert read_rows(capsys) == good
    assert read_rows(capsys, "--failed") == [good[0], (ANNA, ELSEWHERE, "imap", 0, 3), good[1]]
    assert read_rows(capsys, "--days", "10")[0] == (ANNA, "192.0.2.5", "imap", 1, 0)
    assert ctl.main(["logins"]) == 0
    head, first, *_, hidden, times = capsys.readouterr().out.splitlines()
    assert head.split() == ["account", "from", "by", "first", "last", "good", "failed"]
    assert first.split()[:3] == [ANNA, HOME, "imap"]
    assert first.split()[3:7] == [*stamp(30)[:16].split("T"), *stamp(2)[:16].split("T")]
    assert hidden == "1 line of failed logins alone: --failed shows them."
    assert times.startswith("Times are UTC, since ")


@pytest.mark.parametrize(
    ("who", "addresses"),
    [
        (ANNA, {HOME, ELSEWHERE}),
        (HOME, {HOME}),
        ("198.51.100.0/24", {ELSEWHERE, "198.51.100.9"}),
        ("2001:db8::/32", set()),
    ],
)
def test_one_account_or_one_network_is_shown(
    who: str, addresses: set[str], fill_log: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_log(write_imap(1), write_smtp(1, ELSEWHERE), write_imap(1, "198.51.100.9", "bert@example.org"))
    assert {row[1] for row in read_rows(capsys, who)} == addresses


def test_the_server_s_own_proofs_of_the_jails_are_no_logins(fill_log: Fill, capsys: pytest.CaptureFixture[str]) -> None:
    fill_log(write_failure(1, ELSEWHERE, refused_logins.NAME), write_failure(1, ELSEWHERE, "test"))
    assert read_rows(capsys, "--failed") == [("test", ELSEWHERE, "imap", 0, 3)]


def test_what_the_log_no_longer_has_is_said(fill_log: Fill, capsys: pytest.CaptureFixture[str]) -> None:
    fill_log(write_imap(1), first=stamp(5))
    assert ctl.main(["logins"]) == 0
    assert f"The log reaches back to {stamp(5)[:15]}".replace("T", " ") in capsys.readouterr().out.replace("T", " ")
    fill_log(first="")
    assert ctl.main(["logins"]) == 0
    assert "nothing is known" in capsys.readouterr().out


def test_a_guesser_fills_neither_memory_nor_terminal(
    fill_log: Fill, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logins_command, "MAX_ROWS", 3)
    guesses = [write_failure(2, f"198.51.100.{number}", f"\x1b[2J{'a' * 99}{number}") for number in range(9)]
    fill_log(*guesses, write_imap(1))
    rows = read_rows(capsys, "--failed")
    assert ("(others)", "(others)", "imap", 0, 6 * 3) in rows
    assert (ANNA, HOME, "imap", 1, 0) in rows
    assert len(rows) == 5
    assert ctl.main(["logins", "--failed"]) == 0
    assert "\x1b" not in capsys.readouterr().out
