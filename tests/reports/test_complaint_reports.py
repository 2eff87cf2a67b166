"""Complaints are read as real feedback loops write them, believed if their sender is proven, and told to the guard."""

import io
import json
import random
import sqlite3
import time
import tracemalloc
from base64 import encodebytes
from contextlib import closing
from pathlib import Path

import pytest
from complaint_samples import COMPLAINT_SAMPLES, HOST, ORIGINAL, compose_complaint, compose_report, format_results
from report_samples import DMARC_SAMPLES, NOW

from mailkeep_server.common.message_ids import MAX_IDS, digest_message_ids
from mailkeep_server.reports import store
from mailkeep_server.reports.complaint import find_proven_sender, read_complaint
from mailkeep_server.reports.config import ReportsConfig
from mailkeep_server.reports.intake import store_message
from mailkeep_server.reports.message_parts import MAX_MESSAGE
from mailkeep_server.reports.reader import Reader
from mailkeep_server.reports.store import COMPLAINT, NAMELESS, OVER_BOUND, READ, REPEATED, UNPROVEN
from mailkeep_server.reports.summary import summarise_reports

CONFIG = ReportsConfig("postmaster@mail.example.org", ("example.org",), host=HOST)
MAX_SECONDS, MAX_MEMORY = 5.0, 96 * 2**20
"""Of one message, on a slow machine."""
PASSED = "dmarc=pass header.from=example.net"
FIELDS = "Feedback-Type: abuse\r\nVersion: 1\r\n"


def read_ids(message: bytes) -> tuple[str, ...]:
    complaint = read_complaint(message)
    assert complaint
    assert complaint.counts
    return complaint.messages


# --- what a report says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPLAINT_SAMPLES)
def test_each_feedback_loop_is_understood(name: str) -> None:
    sample = COMPLAINT_SAMPLES[name]
    assert read_ids(sample.message) == tuple(digest_message_ids([sample.message_id]))
    assert find_proven_sender(sample.message, HOST) == sample.sender
    assert read_ids(sample.message.replace(b"\r\n", b"\n")) == read_ids(sample.message)


@pytest.mark.parametrize("kind", ["auth-failure", "not-spam", "opt-out", "virus", "other", "miscategorized", "", "x"])
def test_other_feedback_accuses_nobody(kind: str) -> None:
    complaint = read_complaint(compose_complaint(kind=kind))
    assert complaint
    assert not complaint.counts


def test_two_types_are_none() -> None:
    message = compose_report("a@example.net", "Feedback-Type: abuse\r\nFeedback-Type: not-spam\r\n", ORIGINAL)
    complaint = read_complaint(message)
    assert complaint
    assert not complaint.counts
    assert read_ids(compose_complaint(kind="ABUSE \r\nFeedback-Type: abuse"))


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        ("\r\n <1@example.org>", ["<1@example.org>"]),
        ("<1@exam\r\n ple.org>", ["<1@example.org>"]),
        ("(by (a) program) <1@example.org> (or so)", ["<1@example.org>"]),
        ("(<2@example.org>) <1@example.org>", ["<2@example.org>", "<1@example.org>"]),
        ("<1@example.org>\r\nMessage-Id: <2@example.org>", ["<1@example.org>", "<2@example.org>"]),
        ("\r\nX-Other: 1", []),
        ("x" * 100_000, []),
        ("<1@example.org>\r\n" + "Message-ID: <2@example.org>\r\n" * 1000, ["<1@example.org>", "<2@example.org>"]),
        ("<\udcff\udcfe@example.org>", ["<\udcff\udcfe@example.org>"]),
    ],
)
def test_message_ids_as_thieves_and_servers_write_them(written: str, ids: list[str]) -> None:
    message = compose_report("a@example.net", FIELDS, ORIGINAL.replace("{message_id}", written))
    assert read_ids(message)[:MAX_IDS] == (tuple(digest_message_ids(ids)) if ids else read_ids(message))
    assert len(read_ids(message)) <= MAX_IDS


def test_a_report_without_a_message_id_names_nothing() -> None:
    assert read_ids(compose_report("a@example.net", FIELDS, "Subject: x\r\n\r\nMessage-ID: <1@example.org>\r\n")) == ()


def test_an_encoded_original_is_decoded() -> None:
    original = encodebytes(ORIGINAL.format(message_id="<1@example.org>").encode()).decode()
    message = compose_report(
        "a@example.net",
        encodebytes(FIELDS.encode()).decode(),
        original,
        part_headers="Content-Transfer-Encoding: base64\r\n",
    )
    assert read_ids(message) == tuple(digest_message_ids(["<1@example.org>"]))


def test_other_mail_is_no_complaint() -> None:
    assert read_complaint(b"Subject: lunch\r\n\r\nFeedback-Type: abuse\r\n") is None
    assert read_complaint(compose_complaint().replace(b"message/feedback-report", b"text/plain")) is None
    assert read_complaint(b"") is None


# --- who says it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "results",
    [
        "",
        format_results("example.net", "fail"),
        format_results("example.net", "none"),
        format_results("other.example"),
        format_results("example.net", host="mx.elsewhere.example"),
        format_results("example.net", host=f"{HOST}.elsewhere.example"),
        format_results("example.net") * 2,
        f"Authentication-Results : {HOST}; {PASSED}\r\n",
        f'Authentication-Results: {HOST}; spf=none smtp.mailfrom="x; {PASSED}"; dmarc=none\r\n',
        f'Authentication-Results: {HOST}; spf=none smtp.mailfrom="\\"; {PASSED};"; dkim=none\r\n',
        f"Authentication-Results: {HOST}; spf=pass {PASSED}\r\n",
        f"ARC-Authentication-Results: i=1; {HOST}; {PASSED}\r\n",
        f"Received: by {HOST} (Postfix, from userid 33)\r\n\tid 4dGk\r\n{format_results('example.net')}",
    ],
)
def test_only_our_own_verdict_proves_a_sender(results: str) -> None:
    assert find_proven_sender(compose_complaint(results=results), HOST) == ""


def test_a_verdict_about_another_author_or_in_the_body_proves_nothing() -> None:
    for sender in ("example.com", "example.net"):
        two = f"{format_results('example.net')}From: a@{sender}\r\n"
        for other in ("example.com", "example.net"):
            assert find_proven_sender(compose_complaint(sender=other, results=two), HOST) == ""
    several = compose_report("a@example.net, b@other.example", FIELDS, ORIGINAL, results=format_results("example.net"))
    assert find_proven_sender(several, HOST) == ""
    body = compose_complaint(results="").replace(b"This is an", format_results("example.net").encode())
    assert find_proven_sender(body, HOST) == ""
    assert find_proven_sender(compose_complaint(), HOST) == "example.net"
    assert find_proven_sender(compose_complaint(), "") == ""


# --- the reader -------------------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "new").mkdir()
    return tmp_path


def read_all(state: Path, *messages: bytes, now: float = NOW) -> Reader:
    """One run of the reader."""
    for message in messages:
        assert store_message(io.BytesIO(message), state / "new") == ""
    run = Reader(state, CONFIG)
    run.read_spool(now)
    run.write_complaints(now)
    return run


def read_outcomes(state: Path) -> dict[str, int]:
    with closing(sqlite3.connect(state / "reports.db")) as database:
        return dict(database.execute("SELECT outcome, sum(number) FROM outcomes GROUP BY outcome"))


def list_written(state: Path) -> list[tuple[str, int]]:
    """Reporter and number of message IDs of each complaint for the guard."""
    content = json.loads((state / "complaints.json").read_text())
    assert content["last"] == content["complaints"][-1]["id"]
    return [(complaint["reporter"], len(complaint["messages"])) for complaint in content["complaints"]]


def test_the_guard_hears_of_each_proven_complaint_once(state: Path) -> None:
    samples = [sample.message for sample in COMPLAINT_SAMPLES.values()]
    others = (compose_complaint(kind="not-spam"), DMARC_SAMPLES["Google"].message)
    read_all(state, *samples, samples[0], *others, compose_complaint(results=""))
    assert list_written(state) == [(sample.sender, 1) for sample in COMPLAINT_SAMPLES.values()]
    assert read_outcomes(state) == {COMPLAINT: len(samples), REPEATED: 1, UNPROVEN: 1, READ: 1}
    read_all(state, compose_complaint("<next@example.org>"), compose_report("a@example.net", FIELDS, "Subject: x\r\n"))
    assert list_written(state)[len(samples) :] == [("example.net", 1)]
    assert read_outcomes(state)[NAMELESS] == 1
    shown = summarise_reports(state / "reports.db", CONFIG, 0)["outcomes"]
    assert shown == {REPEATED: 1, UNPROVEN: 1, NAMELESS: 1}


def test_a_run_without_complaints_writes_no_file(state: Path) -> None:
    read_all(state, compose_complaint(results=""))
    assert not (state / "complaints.json").exists()


def test_complaints_of_a_day_are_bounded(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_SENDER_COMPLAINTS", 3)
    monkeypatch.setattr(store, "MAX_COMPLAINTS", 5)
    read_all(state, *(compose_complaint(f"<{n}@example.org>") for n in range(5)))
    read_all(state, *(compose_complaint(f"<{n}@example.org>", "example.com") for n in range(5)))
    assert list_written(state) == [("example.net", 1)] * 3 + [("example.com", 1)] * 2
    assert read_outcomes(state) == {COMPLAINT: 5, OVER_BOUND: 5}
    run = read_all(state, compose_complaint("<9@example.org>"), now=NOW + 2 * store.DAY)
    assert list_written(state) == [("example.net", 1)], "the guard has heard of the others"
    with run.store.transaction():
        run.store.forget_expired(NOW + 200 * store.DAY)
    assert run.store.database.execute("SELECT count(*) FROM complaints").fetchone() == (0,)


@pytest.mark.slow
def test_each_hostile_complaint_is_read_within_its_bounds() -> None:
    part = "--part1_13d.2e68ed54_boundary\r\nContent-Type: message/feedback-report\r\n\r\n"
    size = MAX_MESSAGE - 4096
    hostile = {
        "headers": b"Message-ID: <1@example.org>\r\n" * (size // 29),
        "parts": compose_report("a@example.net", FIELDS, part * (size // len(part))),
        "fields": compose_report("a@example.net", "Feedback-Type: abuse\r\n" * (size // 22), ORIGINAL),
        "message IDs": compose_report("a@example.net", FIELDS, "Message-ID: " + "<1@b>" * (size // 5)),
        "brackets": compose_report("a@example.net", FIELDS, "Message-ID: " + "<" * size),
        "folds": compose_report("a@example.net", FIELDS, "Message-ID:" + "\r\n " * (size // 3)),
        "empty lines": compose_report("a@example.net", "\r\n" * (size // 2), ORIGINAL),
        "quotes": compose_complaint(results=f"Authentication-Results: {HOST}; " + '"\\' * 30_000 + "\r\n"),
        "domains": compose_report("@" * 60_000, FIELDS, ORIGINAL),
        "base64": compose_report(
            "a@example.net", "=" * size, ORIGINAL, part_headers="Content-Transfer-Encoding: base64\r\n"
        ),
    }
    for name, message in hostile.items():
        tracemalloc.start()
        begin = time.monotonic()
        read_complaint(message)
        find_proven_sender(message, HOST)
        assert time.monotonic() - begin < MAX_SECONDS, name
        assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY, name
        tracemalloc.stop()


@pytest.mark.slow
def test_damaged_complaints_raise_nothing() -> None:
    dice = random.Random(5)  # noqa: S311
    for _ in range(1500):
        message = bytearray(dice.choice([*COMPLAINT_SAMPLES.values()]).message)
        for _ in range(dice.randrange(1, 40)):
            at = dice.randrange(len(message))
            message[at : at + dice.randrange(20)] = dice.randbytes(dice.randrange(20))
        read_complaint(bytes(message))
        find_proven_sender(bytes(message), HOST)
