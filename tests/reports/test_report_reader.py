"""From the copy of a message to rows: the intake stands in nobody's way, and the reader ends at no message."""

import gzip
import io
import json
import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from report_samples import DMARC_SAMPLES, MAILRU_TLS, NOW, compose_body_report, compose_xml
from store_samples import count_rows

from mailkeep_server.reports import intake, reader
from mailkeep_server.reports.config import ReportsConfig
from mailkeep_server.reports.intake import store_message
from mailkeep_server.reports.message_parts import MAX_MESSAGE
from mailkeep_server.reports.reader import Reader
from mailkeep_server.reports.store import OVERFLOW, READ, REPEATED, UNREADABLE

CONFIG = ReportsConfig("postmaster@mail.example.org", ("example.org",))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "new").mkdir()
    return tmp_path


def take_in(state: Path, *messages: bytes) -> list[str]:
    return [store_message(io.BytesIO(message), state / "new") for message in messages]


def read_outcomes(state: Path) -> dict[str, int]:
    with closing(sqlite3.connect(state / "reports.db")) as database:
        return dict(database.execute("SELECT outcome, sum(number) FROM outcomes GROUP BY outcome"))


def test_all_that_waits_is_read_once(state: Path) -> None:
    messages = [sample.message for sample in DMARC_SAMPLES.values()]
    assert set(take_in(state, *messages, MAILRU_TLS, messages[0], b"Subject: lunch\n\nAt noon?\n")) == {""}
    run = Reader(state, CONFIG)
    assert run.read_spool(NOW) == len(messages) + 3
    assert run.read_spool(NOW) == 0
    assert read_outcomes(state) == {READ: len(messages) + 1, REPEATED: 1}
    assert sorted(path.name for path in state.iterdir()) == ["new", "reports.db"]


def test_a_message_that_ends_the_reader_does_not_end_the_next(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    take_in(state, DMARC_SAMPLES["Google"].message, DMARC_SAMPLES["Yahoo"].message)
    real = reader.read_report_mail
    monkeypatch.setattr(reader, "read_report_mail", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Reader(state, CONFIG).read_spool(NOW)
    monkeypatch.setattr(reader, "read_report_mail", real)
    assert Reader(state, CONFIG).read_spool(NOW) == 1
    assert read_outcomes(state) == {READ: 1, UNREADABLE: 1}
    assert "the reader ended while it read a message" in capsys.readouterr().err


def test_a_spoilt_database_is_set_aside(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "reports.db").write_bytes(b"this is no database, and long enough to be looked at" * 100)
    take_in(state, DMARC_SAMPLES["Google"].message)
    Reader(state, CONFIG).read_spool(NOW)
    assert read_outcomes(state) == {READ: 1}
    assert any(path.name.startswith("reports.db.spoilt-") for path in state.iterdir())
    assert "a new one begins" in capsys.readouterr().err


def test_a_failure_is_announced_once(state: Path) -> None:
    take_in(state, DMARC_SAMPLES["Microsoft"].message, MAILRU_TLS)
    run = Reader(state, CONFIG)
    run.read_spool(NOW)
    run.announce(NOW)
    run.announce(NOW + 60)
    texts = [entry["text"] for entry in json.loads((state / "announcements.json").read_text())["announcements"]]
    assert len(texts) == 2
    assert "mail failed DMARC from a new source: 192.0.2.66" in texts[0]
    assert "the MTA-STS policy could not be fetched (MTA-STS): 1 session" in texts[1]


def test_the_spool_is_bounded(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_WAITING", 3)
    results = take_in(state, *[b"x"] * 5)
    assert results == ["", "", "", *["3 messages wait for the reader already"] * 2]
    Reader(state, CONFIG).read_spool(NOW)
    assert read_outcomes(state) == {OVERFLOW: 2}
    assert take_in(state, b"x") == [""]


def test_a_large_message_is_left_out_and_leaves_nothing(state: Path) -> None:
    [reason] = take_in(state, b"x" * (MAX_MESSAGE + 1))
    assert "more than 5 MB" in reason
    assert [path.name for path in state.rglob("*")] == ["new"]


def test_what_a_killed_intake_left_goes(state: Path) -> None:
    old, new = state / "partial.1.2", state / "partial.3.4"
    old.touch()
    new.touch()
    os.utime(old, (NOW - 7200, NOW - 7200))
    os.utime(new, (NOW - 60, NOW - 60))
    Reader(state, CONFIG).read_spool(NOW)
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("fault", ["no directory", "no fault"])
def test_the_intake_always_says_that_all_is_well(state: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    logged: list[str] = []
    monkeypatch.setattr(intake, "SPOOL", state / ("none" if fault == "no directory" else "new"))
    monkeypatch.setattr(intake.syslog, "syslog", lambda _priority, text: logged.append(text))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Subject: x\n\nx\n" * 10_000)))
    assert intake.main([]) == 0
    assert bool(logged) == (fault == "no directory")
    assert not sys.stdin.buffer.read(), "Postfix would see a broken pipe"


def test_no_more_than_some_lines_go_to_the_journal(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = compose_body_report("a@example.net", gzip.compress(compose_xml())[:-9], "application/gzip")
    take_in(state, *[broken] * 60)
    Reader(state, CONFIG).read_spool(NOW)
    assert len(capsys.readouterr().err.splitlines()) == reader.MAX_LOGGED
    assert read_outcomes(state) == {UNREADABLE: 60}


@pytest.mark.slow
def test_ten_thousand_reports_are_read_in_minutes(state: Path) -> None:
    """A day of a flood, as far as the spool has it."""
    for number in range(10_000):
        text = compose_body_report(f"a@s{number % 700}.example", gzip.compress(compose_xml("x", str(number))), "a/gzip")
        (state / "new" / f"{number:05}").write_bytes(text)
    run, begin = Reader(state, CONFIG), time.monotonic()
    assert run.read_spool(NOW) == 10_000
    assert time.monotonic() - begin < 120
    assert count_rows(run.store)["reports"] == 500
