"""A report reproduces the tables of both incident reports, and says in a line what is wrong with its arguments."""

import io
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from incident_log import DAY, INCIDENT_A, TRIES_A, Mail, Totals, Writer, make_incident_a
from mail_log_samples import make_small_log, report_text, write

from mailkeep_server.mail_log import report_command, trace_command
from mailkeep_server.mail_log.report import parse_time
from mailkeep_server.mail_log.report_text import WIDTH, format_report

NOW = datetime(2026, 11, 29, 14, 30)


@pytest.mark.slow
def test_the_six_numbers_of_incident_a_come_out() -> None:
    file, totals = io.BytesIO(), Totals()
    writer = Writer(file, totals, 13, classic=False)
    make_incident_a(Mail(writer), 0, DAY)
    writer.run_until(float("inf"))
    report = report_text(file.getvalue(), by="network")
    [row] = [row for row in report["rows"] if row["key"] == "198.51.100.0/24"]
    assert (row["attempted"], row["delivered"], row["bounced"], row["rejected"], row["deferred"], row["unknown"]) == (
        TRIES_A,
        *(INCIDENT_A[name] for name in ("sent", "bounced", "rejected", "waiting", "unknown")),
    )
    assert TRIES_A == 68_354


def test_the_text_fits_a_terminal_and_names_each_number() -> None:
    report = report_text(make_small_log()[0], by="account")
    lines = list(format_report(report))
    assert max(len(line) for line in lines[:9]) <= WIDTH
    assert f"delivered   {report['totals']['delivered']:>12,}  another server, or a mailbox here, has it" in lines
    assert any(line.startswith("android ") for line in lines)


def test_bars_are_as_long_as_their_numbers() -> None:
    report = report_text(make_small_log()[0], by="hour")
    lines = list(format_report(report, has_plot=True))
    bars = {line.rpartition(" ")[2] for line in lines if line.startswith("2026-")}
    assert max(map(len, bars)) == WIDTH - len("2026-05-12 00:00") - 12
    assert all(set(bar) <= set("█▓▒░") for bar in bars if bar)


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("2026-11-29", "2026-11-29T00:00:00", "2026-11-30T00:00:00"),
        ("2026-11-29 02:00", "2026-11-29T02:00:00", "2026-11-29T02:00:00"),
        ("yesterday", "2026-11-28T00:00:00", "2026-11-29T00:00:00"),
        ("3 days ago", "2026-11-26T14:30:00", "2026-11-26T14:30:00"),
        ("12h", "2026-11-29T02:30:00", "2026-11-29T02:30:00"),
        ("@1796002264", "2026-11-30T01:31:04", "2026-11-30T01:31:04"),
    ],
)
def test_times_are_read_as_people_write_them(text: str, since: str, until: str) -> None:
    assert parse_time(text, NOW) == since
    assert parse_time(text, NOW, is_end=True) == until


def test_the_program_prints_json_and_refuses_what_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, totals = make_small_log()
    path = write(tmp_path, "mail.log", log)
    assert report_command.main([f"--file={path}", "--json", "--processes=1"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["delivered"] == totals.numbers["sent"]
    for wrong in ("--since=someday", "--since=@9999999999999999", "--since=@", "--by=colour"):
        with pytest.raises(SystemExit):
            report_command.main([f"--file={path}", wrong])
        assert wrong.partition("=")[0] in capsys.readouterr().err


@pytest.mark.slow
def test_a_time_that_ends_before_it_begins_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "mail.log", make_small_log()[0])
    assert report_command.main([f"--file={path}", "--since=2026-12-01", "--until=2026-11-01"]) == 1
    assert capsys.readouterr().err.startswith("--until ends at 2026-11-02 00:00:00, and --since begins at 2026-12-01")
    assert report_command.main([f"--file={path}", "--since=2026-12-01", "--until=2026-12-01"]) == 0, "a day is a time"


@pytest.mark.parametrize(
    ("main", "names"),
    [(report_command.main, []), (trace_command.main, ["friend@example.net"])],
    ids=["report", "trace"],
)
def test_a_file_that_is_no_log_is_no_empty_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int], names: list[str]
) -> None:
    path = write(tmp_path, "letter", b"Dear Anna,\nsee you on Thursday.\n")
    assert main([f"--file={path}", *names]) == 1
    output = capsys.readouterr()
    assert (output.out, f"{path}: no line of it is a log's." in output.err) == ("", True)
