"""What pflogsumm is known to get wrong, by its FAQ and by public reports, comes out right here."""

from datetime import datetime
from pathlib import Path

import pytest
from mail_log_samples import count_rows, report_text, write

from mailkeep_server.mail_log.line_words import Needs
from mailkeep_server.mail_log.parallel import count_files
from mailkeep_server.mail_log.report import Query, build_report, parse_time

ARRIVAL = "{time} mail {instance}/smtpd[7]: {id}: client=pc[192.0.2.9]\n"
ACTIVE = "{time} mail {instance}/qmgr[9]: {id}: from=<a@example.net>, size=500, nrcpt=1 (queue active)\n"
FATE = (
    "{time} mail {instance}/smtp[10]: {id}: to=<b@example.net>, relay=mx.example.net[192.0.2.27]:25, delay=1, "
    "delays=0/0/0/1, dsn=2.0.0, status={status} (ok)\n"
)


def make_lines(*lines: str, time: str = "2026-05-12T00:01:47Z", **fields: str) -> bytes:
    defaults = {"time": time, "id": "B06C6757", "status": "sent", "instance": "postfix"}
    return "".join(line.format(**{**defaults, **fields}) for line in lines).encode()


def test_years_in_one_form_and_none_in_the_other_are_told_apart() -> None:
    """github.com/docker-mailserver/docker-mailserver, pull request 4709: logs over a change of the form of time."""
    old = make_lines(ARRIVAL, ACTIVE, FATE, time="Dec 30 10:00:00")
    new = make_lines(ARRIVAL, ACTIVE, FATE, time="2025-12-30T10:00:00+01:00")
    days = count_rows(old + new, "day")
    assert {day: row["delivered"] for day, row in days.items()} == {"2026-12-30": 1, "2025-12-30": 1}


def test_a_message_from_before_the_log_is_no_new_one() -> None:
    """FAQ 9, "orphaned" messages: their size is not known, and their account neither."""
    report = report_text(make_lines(ACTIVE, FATE), by="account")
    assert (report["totals"]["messages"], report["totals"]["bytes"], report["totals"]["delivered"]) == (0, 0, 1)
    assert [row["key"] for row in report["rows"]] == ["(before this log)"]


def test_an_hour_has_what_came_in_it_however_long_the_log_is() -> None:
    """FAQ 16: hourly numbers were averaged over days that the log does not have."""
    text = make_lines(ARRIVAL, ACTIVE, FATE) + make_lines(ARRIVAL, ACTIVE, FATE, time="2026-05-14T00:01:47Z")
    hours = count_rows(text, "hour")
    assert {hour: row["delivered"] for hour, row in hours.items()} == {"2026-05-12 00:00": 1, "2026-05-14 00:00": 1}


@pytest.mark.parametrize(
    "now", [datetime(2026, 3, 29, 0, 30), datetime(2026, 10, 26, 0, 30), datetime(2026, 3, 1, 0, 0)]
)
def test_yesterday_is_the_day_before_also_when_clocks_change(now: datetime) -> None:
    """FAQ 24: a day is not always 24 hours long."""
    since, until = parse_time("yesterday", now), parse_time("yesterday", now, is_end=True)
    assert until == now.strftime("%Y-%m-%dT00:00:00")
    assert (datetime.fromisoformat(until).date() - datetime.fromisoformat(since).date()).days == 1


def test_a_tried_recipient_is_one_recipient() -> None:
    """FAQ 15, numbers that do not add up: each recipient has one fate, and all fates make the recipients."""
    waits = make_lines(FATE, status="deferred")
    text = make_lines(ARRIVAL, ACTIVE) + waits * 5 + make_lines(FATE)
    totals = report_text(text)["totals"]
    assert (totals["people"], totals["attempted"], totals["delivered"], totals["deferred"]) == (1, 1, 1, 0)
    assert totals["deferrals"] == 5


def test_any_name_of_an_instance_is_postfix(tmp_path: Path) -> None:
    """pflogsumm has to be told each name (--syslog-name)."""
    text = b"".join(
        make_lines(ARRIVAL, ACTIVE, FATE, instance=name)
        for name in ("postfix", "postfix-out", "mx1", "postfix/submission")
    )
    tally = count_files([write(tmp_path, "mail.log", text)], Needs(), 1)
    assert build_report(tally, Query())["totals"]["delivered"] == 4
