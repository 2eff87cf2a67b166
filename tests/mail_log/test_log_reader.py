"""The log reader takes every form of a log, and says the same of each."""

import bz2
import gzip
import json
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mail_log_samples import LAST_DAY, count_rows, has_totals, make_small_log, report_text, write

from mailkeep_server.mail_log import parallel, queue_state
from mailkeep_server.mail_log.line_words import Needs
from mailkeep_server.mail_log.logins import read_logins
from mailkeep_server.mail_log.parallel import count_files
from mailkeep_server.mail_log.report import Query, build_report
from mailkeep_server.mail_log.sources import MAX_LINE, Chunk, LogError, order_files, read_files, refuse_other_files

ISO, TOTALS = make_small_log()
MESSAGE = (
    "%(time)s mail postfix/smtpd[7]: %(id)s: client=pc[192.0.2.9], sasl_method=PLAIN, sasl_username=anna@example.org\n"
    "%(time)s mail postfix/cleanup[8]: %(id)s: message-id=<1@pc>\n"
    "%(time)s mail postfix/qmgr[9]: %(id)s: from=<anna@example.org>, size=500, nrcpt=1 (queue active)\n"
    "%(time)s mail postfix/smtp[10]: %(id)s: to=<a@example.net>, relay=mx.example.net[192.0.2.27]:25, delay=1, "
    "delays=0/0/0/1, dsn=2.0.0, status=sent (250 2.0.0 Ok)\n"
    "%(time)s mail postfix/qmgr[9]: %(id)s: removed\n"
)


def make_message(time: str, queue_id: str = "B06C6757") -> bytes:
    return (MESSAGE % {"time": time, "id": queue_id}).encode()


def make_export(text: bytes) -> bytes:
    """As `journalctl --output export` has the lines; the message in binary form."""
    entries = []
    for number, line in enumerate(text.splitlines()):
        program, _, message = line.split(b" ", 2)[2].partition(b": ")
        name, process = program[:-1].split(b"[")
        fields = b"__CURSOR=s\n__REALTIME_TIMESTAMP=%d\nSYSLOG_IDENTIFIER=%b\n_PID=%b\n" % (
            1_778_544_000_000_000 + number,
            name,
            process,
        )
        entries.append(fields + b"MESSAGE\n" + len(message).to_bytes(8, "little") + message + b"\n\n")
    return b"".join(entries)


def make_json(text: bytes) -> bytes:
    """As `journalctl --output json`: a message with bytes that are no UTF-8 is a list of bytes."""
    entries = []
    for line in text.splitlines():
        program, _, message = line.split(b" ", 2)[2].partition(b": ")
        name, process = program[:-1].split(b"[")
        entry = {
            "__REALTIME_TIMESTAMP": "1778544000000000",
            "SYSLOG_IDENTIFIER": name.decode(),
            "_PID": process.decode(),
        }
        entries.append(json.dumps({**entry, "MESSAGE": list(message)}))
    return "\n".join(entries).encode()


def make_rfc5424(text: bytes) -> bytes:
    """As FreeBSD's `syslogd -O rfc5424` and rsyslog's RSYSLOG_SyslogProtocol23Format write it."""
    head = rb'<22>1 \1 \2 \3 \4 - [a@1 b="\]"] ' + "\ufeff".encode()
    return re.sub(rb"(?m)^(\S+) (\S+) (\S+?)\[(\d+)\]: ", lambda match: match.expand(head), text)


@pytest.mark.parametrize("by", ["", "result"])
def test_the_probe_of_an_address_is_no_fate(by: str) -> None:
    """verify(8) writes `status=deliverable`, which begins as `deferred` does."""
    text = make_message("2026-11-29T02:00:00.000000+00:00").replace(b"status=sent", b"status=deliverable")
    assert report_text(text, by=by)["totals"]["deferred"] == 0


@pytest.mark.parametrize("by", ["", "hour", "network", "remote", "domain", "result"])
def test_a_report_has_the_numbers_of_the_log(by: str) -> None:
    report = report_text(ISO, by=by)
    assert has_totals(report, TOTALS)
    rows = [row for row in report["rows"] if row["key"] != "-"]
    assert not by or sum(row["deferrals"] for row in rows) == TOTALS.numbers["deferrals"]


def test_each_account_has_its_own_numbers() -> None:
    rows = count_rows(ISO, "account")
    assert rows["android"]["delivered"] == TOTALS.by_account["android", "sent"]
    assert rows["android"]["deferred"] == TOTALS.by_account["android", "waiting"]
    assert rows["user4@example.org"]["delivered"] == TOTALS.by_account["user4@example.org", "sent"]
    assert rows["(this server)"]["messages"] == TOTALS.by_account["(notices)", "messages"]
    assert rows["(no login)"]["delivered"] == 50
    only = report_text(ISO, account="android")["totals"]
    assert only["bounced"] == TOTALS.by_account["android", "bounced"] == rows["android"]["bounced"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("mail.log.2.gz", gzip.compress),
        ("mail.log.xz", lzma.compress),
        ("mail.log.bz2", bz2.compress),
        ("journal.export", make_export),
        ("journal.json", make_json),
        ("protocol.log", make_rfc5424),
        ("protocol.log.gz", lambda text: gzip.compress(make_rfc5424(text))),
    ],
)
def test_packed_and_exported_logs_say_the_same(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    tally = count_files([write(tmp_path, name, pack(ISO))], Needs(), 1)
    assert has_totals(build_report(tally, Query()), TOTALS)


@pytest.mark.skipif(not shutil.which("zstd"), reason="needs zstd")
def test_zstd_is_unpacked(tmp_path: Path) -> None:
    path = write(tmp_path, "mail.log", ISO)
    subprocess.run(["zstd", "-q", str(path)], check=True)
    assert has_totals(build_report(count_files([tmp_path / "mail.log.zst"], Needs(), 1), Query()), TOTALS)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "mail.log.gz", gzip.compress(ISO)[:-900])
    with pytest.raises(LogError, match="the compressed file is damaged"):
        list(read_files([path]))


@pytest.mark.parametrize(
    "line", ["no log at all", "From: anna@example.org", "2026-05-12,postfix/smtp,sent", "\x00\xff"]
)
def test_a_file_of_which_nothing_can_be_read_is_no_silence(tmp_path: Path, line: str) -> None:
    log, other = write(tmp_path, "mail.log", ISO), write(tmp_path, "other", f"{line}\n".encode() * 3)
    refuse_other_files([log, write(tmp_path, "empty", b"")])
    with pytest.raises(LogError, match=r"other: no line of it is a log's\. These are read: what syslog writes"):
        refuse_other_files([log, other])


def test_a_pipe_cannot_be_read_twice_and_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LogError, match="pipe is no file"):
        refuse_other_files([tmp_path / "pipe"])


def test_the_older_of_rotated_files_is_read_first(tmp_path: Path) -> None:
    half = ISO.index(b"\n", len(ISO) // 2) + 1
    paths = [write(tmp_path, "mail.log", ISO[half:]), write(tmp_path, "mail.log.1", ISO[:half])]
    for path in paths:
        os.utime(path, (1_780_000_000, 1_780_000_000))
    assert order_files(paths) == paths[::-1]
    assert has_totals(build_report(count_files(paths, Needs(), 1), Query()), TOTALS)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3, 9])
@pytest.mark.parametrize("needs", [Needs(), Needs(hours=True, remotes=True, networks=True)])
def test_several_processes_count_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, needs: Needs
) -> None:
    """Messages, sessions and waits lie across the borders of the parts."""
    monkeypatch.setattr(parallel, "MIN_PART", 20_000)
    path = write(tmp_path, "mail.log", ISO)
    assert len(list(parallel.split_files([path], processes))) == processes
    single, split = count_files([path], needs, 1), count_files([path], needs, processes)
    assert +single.fates == +split.fates
    assert (single.deferrals, single.arrivals, single.logins) == (split.deferrals, split.arrivals, split.logins)


@pytest.mark.parametrize(
    "time",
    [
        "2026-05-12T00:01:47.723271+00:00",
        "2026-05-12T00:01:47Z",
        "2026-05-12T00:01:47+0200",
        "2026-05-12 00:01:47",
        "May 12 00:01:47",
        "May 12 00:01:47.723271",
        "May 12 2026 00:01:47",
        "Tue 2026-05-12 00:01:47 UTC",
        "1778544107.723271",
        "May 12 00:01:47 <mail.info>",
        "<22>May 12 00:01:47",
    ],
)
def test_every_form_of_time_is_read(time: str) -> None:
    assert count_rows(make_message(time), "hour")["2026-05-12 00:00"]["delivered"] == 1


def test_the_day_before_the_tenth_has_two_spaces() -> None:
    text = make_message("May  9 23:59:59", "A1") + make_message("May 10 00:00:01", "A2")
    assert {day: row["delivered"] for day, row in count_rows(text, "day").items()} == {"2026-05-09": 1, "2026-05-10": 1}


def test_a_log_over_new_year_has_two_years(tmp_path: Path) -> None:
    path = write(tmp_path, "mail.log", make_message("Dec 31 23:59:59", "A1") + make_message("Jan  1 00:00:01", "A2"))
    os.utime(path, (1_798_765_200, 1_798_765_200))  # 2027-01-01
    report = build_report(count_files([path], Query(by="day").needs, 1), Query(by="day"))
    assert [row["key"] for row in report["rows"] if row["delivered"]] == ["2026-12-31", "2027-01-01"]


def test_only_the_time_asked_for_counts_and_what_came_before_is_known() -> None:
    text = make_message("2026-05-12T23:59:59+00:00").replace(
        b"2026-05-12T23:59:59+00:00 mail postfix/smtp[", b"2026-05-13T00:00:01+00:00 mail postfix/smtp["
    )
    assert count_rows(text, "account", since="2026-05-13T00:00:00") == {
        "anna@example.org": {"attempted": 1, "delivered": 1}
    }
    assert report_text(text, until="2026-05-13T00:00:00")["totals"]["messages"] == 1


@pytest.mark.parametrize("queue_id", ["B06C6757", "4fXyZ12345z1Bc9", "3B"])
@pytest.mark.parametrize("program", ["postfix/smtp", "postfix-out/smtp", "postfix/relay/smtp", "mx/smtp"])
def test_long_queue_ids_and_instances_are_read(queue_id: str, program: str) -> None:
    text = make_message("2026-05-12T00:01:47Z", queue_id)
    instance = program.partition("/")[0].encode()
    text = text.replace(b" postfix/smtp[", f" {program}[".encode()).replace(b" postfix/", b" " + instance + b"/")
    assert count_rows(text, "account")["anna@example.org"]["delivered"] == 1


def test_two_instances_may_use_one_queue_id_at_a_time() -> None:
    text = make_message("2026-05-12T00:01:47Z")
    other = text.replace(b" postfix/", b" postfix-out/").replace(b"sasl_username=anna", b"sasl_username=bert")
    mixed = b"".join(line + b"\n" for pair in zip(text.splitlines(), other.splitlines(), strict=True) for line in pair)
    rows = count_rows(mixed, "account")
    assert rows["anna@example.org"]["delivered"] == rows["bert@example.org"]["delivered"] == 1


def test_a_line_of_100_kb_costs_its_own_end_only(tmp_path: Path) -> None:
    long_line = b"2026-05-12T00:01:47Z mail postfix/smtpd[7]: warning: " + b"x" * 3_000_000 + b"\n"
    path = write(tmp_path, "mail.log", long_line + make_message("2026-05-12T00:01:48Z") + long_line[:-1])
    chunks = list(read_files([path]))
    assert max(len(chunk.text) for chunk in chunks) < 1_000_000 + 2 * MAX_LINE
    assert build_report(count_files([path], Needs(), 1), Query())["totals"]["delivered"] == 1


def test_an_entry_that_only_claims_to_be_postfix_is_left_out(tmp_path: Path) -> None:
    fake = make_export(make_message("2026-05-12T00:01:47Z")).replace(
        b"_PID=", b"_SYSTEMD_UNIT=user@1000.service\n_PID="
    )
    assert build_report(count_files([write(tmp_path, "x", fake)], Needs(), 1), Query())["totals"]["messages"] == 0


def test_logins_of_both_versions_of_dovecot_are_read() -> None:
    text = (
        "2026-05-12T00:00:01Z mail dovecot: imap-login: Login: user=<anna@example.org>, method=PLAIN, rip=192.0.2.1, "
        "lip=192.0.2.2, mpid=1, TLS, session=<a>\n"
        "2026-05-12T00:00:02Z mail dovecot[1]: pop3-login: Disconnected: Connection closed (auth failed, 3 attempts in "
        "9 secs): user=<bert@example.org>, method=PLAIN, rip=192.0.2.1, lip=192.0.2.2, TLS, session=<b>\n"
        "May 12 00:00:03 imap-login: Info: Logged in: user=<eva@example.org>, method=PLAIN, rip=2001:db8::1, "
        "lip=2001:db8::2, mpid=1, TLS, session=<c>\n"
        "2026-05-12T00:00:04Z mail postfix/submission/smtpd[1]: warning: unknown[192.0.2.66]: SASL LOGIN "
        "authentication failed: UGFzc3dvcmQ6, sasl_username=anna@example.org\n"
    )
    logins = list(read_logins([Chunk(text.encode(), LAST_DAY)]))
    assert [(login.account.partition("@")[0], login.service, login.is_good, login.attempts) for login in logins] == [
        ("anna", "imap", True, 1),
        ("bert", "pop3", False, 3),
        ("eva", "imap", True, 1),
        ("anna", "smtp", False, 1),
    ]
    assert report_text(text.encode())["totals"]["failed_logins"] == 4


def test_of_too_many_waiting_messages_none_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten, and known again by their next try."""
    monkeypatch.setattr(queue_state, "MAX_WEIGHT", 2000)
    monkeypatch.setattr(queue_state, "FORGET", 5)
    waiting = [
        make_message("2026-05-12T00:01:47Z", f"A{number:05X}").replace(b"status=sent", b"status=deferred")
        for number in range(40)
    ]
    lines = [line for text in waiting for line in text.splitlines(keepends=True) if b"removed" not in line]
    tries = [line for line in lines if b"to=<" in line]
    report = report_text(b"".join([*lines, *tries]))
    assert report["not_followed"] > 0
    totals = report["totals"]
    assert 0 < totals["deferred"] <= len(waiting) == totals["people"]
    assert totals["deferrals"] == 2 * len(waiting)
    later = report_text(b"".join(tries))  # a log that begins later: no message has a beginning
    assert later["not_followed"] > 0
    assert 0 < later["totals"]["deferred"] < later["totals"]["deferrals"] == len(waiting)
