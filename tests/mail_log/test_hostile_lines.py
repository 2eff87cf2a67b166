"""Log lines are text of strangers: no wrong attribution, no traceback, no order to a terminal."""

import pytest
from log_fuzz import HEAD, LogFuzzer, check_attribution, check_no_crash
from mail_log_samples import LAST_DAY, count_rows, report_text

from mailkeep_server.mail_log.sources import Chunk
from mailkeep_server.mail_log.trace import TraceQuery, trace_messages

SENT = (
    "postfix/smtp[1]: {}: to=<{}>, relay=mx.example.net[192.0.2.27]:25, delay=1, delays=0/0/0/1, dsn={}, status={} ({})"
)


def make_log(*lines: str) -> bytes:
    return "".join(f"{HEAD}{line}\n" for line in lines).encode()


def make_message(delivery: str, *, queue_id: str = "B06C6757", account: str = "anna@example.org") -> list[str]:
    return [
        f"postfix/smtpd[7]: {queue_id}: client=pc[192.0.2.9], sasl_method=PLAIN, sasl_username={account}",
        f"postfix/qmgr[9]: {queue_id}: from=<{account}>, size=500, nrcpt=1 (queue active)",
        delivery,
    ]


@pytest.mark.parametrize(
    ("address", "status", "words", "fate"),
    [
        ("a@example.net", "bounced", "host mx said: 550 no, status=sent (250 ok)", "bounced"),
        ("a@example.net", "deferred", "host mx said: 450 x>, relay=x[1]:25, dsn=2.0.0, status=sent (250", "unclear"),
        (
            "x>, relay=evil[192.0.2.66]:25, delay=0, dsn=2.0.0, status=sent (250 @example.net",
            "bounced",
            "no",
            "unclear",
        ),
        ('"a b>, status=sent ("@example.net', "bounced", "no", "bounced"),
        ('"x>, relay=evil[192.0.2.66]:25, dsn=2.0.0, status=sent (250 "@example.net', "bounced", "no", "bounced"),
        ("a,status=sent@example.net", "bounced", "no", "bounced"),
    ],
)
def test_a_fate_is_postfixs_own_word(address: str, status: str, words: str, fate: str) -> None:
    text = make_log(*make_message(SENT.format("B06C6757", address, "5.0.0", status, words)))
    for by in ("account", "domain"):
        totals = report_text(text, by=by)["totals"]
        assert totals[fate] == totals["attempted"] == 1


def test_a_helo_name_is_no_login() -> None:
    helo = "x> sasl_method=PLAIN sasl_username=bert@example.org"
    text = make_log(
        f"postfix/smtpd[7]: NOQUEUE: reject: RCPT from x[192.0.2.9]: 554 5.7.1 <a@example.net>: Relay access denied; "
        f"from=<e@example.net> to=<a@example.net> proto=ESMTP helo=<{helo}>"
    )
    assert set(count_rows(text, "account")) == {"(no login)"}


def test_a_short_queue_id_that_comes_again_is_another_message() -> None:
    first = make_message(SENT.format("3B", "a@example.net", "2.0.0", "sent", "ok"), queue_id="3B")
    second = make_message(
        SENT.format("3B", "a@example.net", "5.0.0", "bounced", "no"), queue_id="3B", account="eva@example.org"
    )
    for lines in ([*first, *second], [*first[:2], *second]):  # also when the end of the first is lost
        rows = count_rows(make_log(*lines), "account")
        assert rows["eva@example.org"]["bounced"] == 1
        assert "bounced" not in rows["anna@example.org"]


def test_lines_that_the_journal_left_out_change_nobody_elses_fate() -> None:
    delivery = SENT.format("B06C6757", "a@example.net", "2.0.0", "sent", "ok")
    lines = make_message(delivery)
    for missing in range(3):
        rows = count_rows(make_log(*lines[:missing], *lines[missing + 1 :]), "account")
        assert set(rows) <= {"anna@example.org", "(before this log)"}
        assert sum(row.get("delivered", 0) for row in rows.values()) == (missing != 2)


def test_the_answer_of_a_remote_connects_nobody_with_a_message() -> None:
    words = "host mx said: 550 <bert@example.org> from=<bert@example.org>, to=<bert@example.org>, status=sent"
    text = make_log(*make_message(SENT.format("B06C6757", "a@example.net", "5.0.0", "bounced", words)))
    trace = trace_messages(TraceQuery("bert@example.org"), lambda: iter([Chunk(text, LAST_DAY)]))
    assert not trace.stories
    assert trace_messages(TraceQuery("a@example.net"), lambda: iter([Chunk(text, LAST_DAY)])).stories


def test_an_hour_that_comes_twice_counts_twice() -> None:
    """At the end of summer time, 02:30 comes twice; a clock may go back any time."""
    deliveries = make_message(SENT.format("A1", "a@example.net", "2.0.0", "sent", "ok"), queue_id="A1")
    later = make_message(SENT.format("A2", "a@example.net", "2.0.0", "sent", "ok"), queue_id="A2")
    text = make_log(*deliveries).replace(b"+00:00", b"+02:00") + make_log(*later).replace(b"+00:00", b"+01:00")
    assert count_rows(text, "hour")["2026-05-12 00:00"]["delivered"] == 2
    back = make_log(*deliveries) + make_log(*later).replace(b"2026-05-12T00", b"2020-01-01T00")
    assert report_text(back, since="2026-01-01T00:00:00")["totals"]["delivered"] == 1


def test_hostile_text_in_every_field_changes_no_fate() -> None:
    fuzzer = LogFuzzer(1)
    for _ in range(60):
        check_attribution(fuzzer.make_log(8))


@pytest.mark.slow
def test_broken_lines_end_no_program() -> None:
    fuzzer = LogFuzzer(2)
    for _ in range(60):
        log = fuzzer.make_log(4).text
        check_no_crash(log)
        check_no_crash(fuzzer.mutate(log))
