"""Numbers of past days answer when the log no longer can; they are bounded, expire, and lose a name on demand."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mailkeep_server.mail_log import digest, report_command, sources
from mailkeep_server.mail_log.digest import MAX_ROWS, REMOVED, Digest, bound_rows, keep_days

NOW = datetime(2026, 11, 20, 1, 0)
Ask = Callable[..., dict[str, Any]]


def make_day(day: int, account: str = "anna@example.org", fates: tuple[str, ...] = ("sent", "bounced")) -> str:
    lines = []
    for number, fate in enumerate(fates):
        time, queue_id = f"2026-11-{day:02}T12:00:0{number}.000000+00:00", f"{day:02X}0{number}ABCD"
        lines += [
            f"{time} postfix/smtpd[7]: {queue_id}: client=pc[192.0.2.9], sasl_method=PLAIN, sasl_username={account}",
            f"{time} postfix/qmgr[9]: {queue_id}: from=<{account}>, size=500, nrcpt=1 (queue active)",
            f"{time} postfix/smtp[10]: {queue_id}: to=<a@example.net>, relay=mx.example.net[192.0.2.27]:25, delay=1, "
            f"delays=0/0/0/1, dsn=2.0.0, status={fate} (x)",
        ]
    return "".join(f"{line}\n" for line in lines)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server's kept lines of Postfix. Its journal is empty."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "journalctl").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "journalctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(sources, "KEPT_LOGS", tmp_path)
    monkeypatch.setattr(digest, "DATABASE", tmp_path / "history.db")
    monkeypatch.setattr(report_command.os, "nice", lambda _: 0)
    return tmp_path / "postfix.log"


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """`mailkeepctl report`."""

    def ask(*arguments: str) -> dict[str, Any]:
        assert report_command.main([*arguments, "--json"]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return ask


def keep(days: int = 400) -> None:
    with closing(Digest(digest.DATABASE)) as history:
        keep_days(history, days, NOW)


@pytest.mark.parametrize("by", ["day", "account", "remote"])
def test_a_report_says_the_same_when_the_log_has_lost_those_days(log: Path, ask: Ask, by: str) -> None:
    days = [make_day(day) for day in range(10, 20)]
    log.write_text("".join(days))
    keep()
    whole = ask("--since=2026-11-11", f"--by={by}")
    assert whole["totals"]["delivered"] == 9
    log.write_text("".join(days[6:]))  # from the 16th on
    shorter = ask("--since=2026-11-11", f"--by={by}")
    assert (shorter["totals"], shorter["rows"]) == (whole["totals"], whole["rows"])
    assert ask("--since=2026-11-12", "--until=2026-11-13")["totals"]["delivered"] == 2
    assert ask()["totals"]["delivered"] == 4, "without --since, what the log has"


def test_a_day_is_counted_anew_while_the_log_has_it(log: Path, ask: Ask) -> None:
    log.write_text(make_day(10) + make_day(12, fates=("deferred",)))
    keep()
    delivery = make_day(13, fates=("sent",)).replace("0D00ABCD", "0C00ABCD").splitlines(keepends=True)[2]
    log.write_text(log.read_text() + delivery + make_day(14))
    keep()
    log.write_text(make_day(15))
    totals = ask("--since=2026-11-11", "--until=2026-11-14")["totals"]
    assert (totals["deferred"], totals["deferrals"], totals["delivered"]) == (0, 1, 2)


def test_days_expire(log: Path) -> None:
    log.write_text("".join(make_day(day) for day in range(10, 20)))
    keep(days=3)
    with closing(Digest(digest.DATABASE)) as history:
        assert {day for day, _, _ in history.read_days("2026-01-01", "2027-01-01")} == {
            *("2026-11-17", "2026-11-18", "2026-11-19"),
        }


def test_a_removed_account_leaves_its_numbers_without_its_name(log: Path, ask: Ask) -> None:
    log.write_text(make_day(10) + make_day(12) + make_day(13, "bert@example.org"))
    keep()
    with closing(Digest(digest.DATABASE)) as history:
        assert history.remove_account("bert@example.org") == 1
    keep()  # the log still has the name
    assert b"bert" not in digest.DATABASE.read_bytes()
    log.write_text(make_day(15))
    rows = {row["key"]: row for row in ask("--since=2026-11-11", "--by=account")["rows"]}
    assert rows[REMOVED]["delivered"] == 1
    assert "bert@example.org" not in rows


@pytest.mark.slow
def test_a_year_of_attacks_takes_less_than_10_mb(tmp_path: Path) -> None:
    """50 accounts, and each day thousands of servers and of names that somebody has tried."""
    rows = Counter(
        {(f"user{number % 50}@example.org", f"mx{number}.example.net", "sent"): number for number in range(5000)}
    )
    rows |= Counter({(f"guess{number}", "", "failed_logins"): 1 for number in range(5000)})
    path = tmp_path / "history.db"
    with closing(Digest(path)) as history:
        for month in range(1, 11):
            history.replace_days({f"2026-{month:02}-01": rows})
    assert path.stat().st_size / 10 * 365 < 10e6
    kept = bound_rows(rows)
    assert len(kept) <= MAX_ROWS
    assert kept.total() == rows.total()
