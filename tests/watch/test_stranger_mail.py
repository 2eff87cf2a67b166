"""The guard hears what became of deliveries; and what was on hold for a day goes back to its owner, once."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from mailkeep_server.common import unix_http
from mailkeep_server.common.addresses import hash_text
from mailkeep_server.watch import owner_notice, stranger_mail
from mailkeep_server.watch.stranger_mail import BATCH, NOT_ON_HOLD, WENT_BACK, HeldMail, OutcomeReporter, give_back

LINE = (
    "4dGk000001: to=<You+x@example.net>, relay=mx.example.net[192.0.2.27]:25, delay=1, dsn=5.1.1, status=bounced (no)"
)


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The targets that were asked for; the watch gets the answer at the end of `answers`."""
    targets: list[str] = []

    def get_body(_socket: str, target: str, _timeout: float) -> bytes:
        targets.append(target)
        if target == "/held":
            rows = [("Q1", True, True), ("Q2", False, False), ("Q3", False, True)]
            held = [
                {"queue_id": q, "account": "anna@example.org", "is_due": d, "is_released": False, "is_settled": s}
                for q, d, s in rows
            ]
            return json.dumps({"messages": held}).encode()
        return b"{}"

    monkeypatch.setattr(unix_http, "get_body", get_body)
    monkeypatch.setattr(stranger_mail, "ON_HOLD", tmp_path)
    for queue_id in ("Q1", "Q3"):
        (tmp_path / queue_id).touch()
    return targets


def test_outcomes_are_reported_in_their_order_and_once(guard: list[str]) -> None:
    reporter = OutcomeReporter("control")
    for number in range(BATCH + 1):
        reporter.read_message(LINE.replace("4dGk000001", f"4dGk{number}"))
    reporter.read_message("4dGk9: removed")
    for _ in range(2):
        assert reporter.find_troubles() == {}
    outcomes = [text for target in guard for text in parse_qs(urlsplit(target).query)["o"]]
    assert outcomes == [f"4dGk{number} dead {hash_text('you+x@example.net')}" for number in range(BATCH + 1)]


def test_a_request_with_the_longest_addresses_fits(guard: list[str]) -> None:
    reporter = OutcomeReporter("control")
    for number in range(BATCH):
        queue_id, local_part = f"4ljM2F7X3szlM{number:03}", "\u00e4" * 1000
        reporter.read_message(LINE.replace("You+x", local_part).replace("4dGk000001", queue_id))
    assert len(reporter.waiting) == BATCH
    reporter.find_troubles()
    assert max(map(len, guard)) < 4096 - 20


def test_while_the_guard_is_silent_outcomes_wait(monkeypatch: pytest.MonkeyPatch, guard: list[str]) -> None:
    reporter = OutcomeReporter("control")
    reporter.read_message(LINE)
    with monkeypatch.context() as patch:
        patch.setattr(unix_http, "get_body", _raise_error)
        assert reporter.find_troubles() == {}
    assert guard == []
    reporter.find_troubles()
    assert len(guard) == 1


def _raise_error(*_arguments: object) -> bytes:
    raise ConnectionRefusedError


def run_once(sensor: HeldMail) -> dict[str, tuple[str, str]]:
    sensor.find_troubles()
    assert sensor.worker
    sensor.worker.join(10)
    troubles = sensor.find_troubles()
    sensor.worker.join(10)
    return troubles


def test_what_is_due_goes_back_and_the_guard_is_told(guard: list[str]) -> None:
    returned: list[tuple[str, str]] = []

    def return_message(account: str, queue_id: str) -> str:
        returned.append((account, queue_id))
        return "it is back"

    sensor = HeldMail("control", return_message)
    sensor.find_troubles()
    assert sensor.worker
    sensor.worker.join(10)
    assert returned == [("anna@example.org", "Q1")]
    assert guard[-1] == "/returned?queue_id=Q1&result=it+is+back"


def test_what_the_operator_has_deleted_counts_no_more(guard: list[str], tmp_path: Path) -> None:
    for queue_id in ("Q1", "Q3"):
        (tmp_path / queue_id).unlink()
    run_once(HeldMail("control", lambda account, queue_id: give_back("mail.example.org", account, queue_id)))
    assert {target for target in guard if "returned" in target} == {
        f"/returned?queue_id={queue_id}&result=" for queue_id in ("Q1", "Q3")
    }


def test_what_cannot_go_back_is_a_trouble_and_stays_on_hold(guard: list[str]) -> None:
    def fail(_account: str, _queue_id: str) -> str:
        raise OSError("the mailbox is full")

    troubles = run_once(HeldMail("control", fail))
    assert "Message Q1 of anna@example.org, which its owner does not get back" in troubles["Q1"][0]
    assert "the mailbox is full" in troubles["Q1"][0]
    assert not any(target.startswith("/returned") for target in guard)


class _Postfix:
    """`postcat` and `postsuper`, of one message."""

    def __init__(self, text: bytes) -> None:
        self.text, self.commands = text, list[tuple[str, ...]]()

    def run(self, *command: str, **_options: object) -> str:
        self.commands.append(command)
        return ""

    def stream(self, *command: str, **_options: object) -> object:
        self.commands.append(command)
        return contextlib.nullcontext(io.BytesIO(self.text))


@pytest.fixture
def postfix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[bytes], _Postfix]:
    def install(text: bytes) -> _Postfix:
        fake = _Postfix(text)
        monkeypatch.setattr(stranger_mail, "run", fake.run)
        monkeypatch.setattr(stranger_mail, "stream_output", fake.stream)
        monkeypatch.setattr(stranger_mail, "ON_HOLD", tmp_path)
        return fake

    return install


def test_a_message_is_stored_before_it_is_deleted(
    postfix: Callable[[bytes], _Postfix], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = postfix(b"Subject: hello\n\n.dot\nM\xfcller\n")
    (tmp_path / "Q1").touch()
    stored: list[list[bytes]] = []

    def deliver(_host: str, account: str, lines: object, **_options: object) -> None:
        assert account == "anna@example.org"
        assert all(command[0] != "postsuper" for command in fake.commands)
        stored.append(list(lines))  # type: ignore[call-overload]

    monkeypatch.setattr(stranger_mail, "deliver_lines", deliver)
    assert give_back("mail.example.org", "anna@example.org", "Q1") == WENT_BACK
    assert fake.commands[-1] == ("postsuper", "-d", "Q1", "hold")
    text = b"\n".join(stored[0])
    assert b"\nSubject: hello\n\n.dot\nM\xfcller\n" in text
    assert text.startswith(b"From: Mail server <postmaster@mail.example.org>\n")


def test_a_message_that_the_operator_has_sent_is_left_alone(postfix: Callable[[bytes], _Postfix]) -> None:
    fake = postfix(b"")
    assert give_back("mail.example.org", "anna@example.org", "Q1") == NOT_ON_HOLD
    assert fake.commands == []


def test_dots_are_doubled() -> None:
    assert b"".join(owner_notice._join_lines([b".", b"a", b"..b"])) == b"..\r\na\r\n...b\r\n"


def test_nothing_waits_for_a_thread_that_hangs(guard: list[str]) -> None:
    end = threading.Event()

    def hang(_account: str, _queue_id: str) -> str:
        end.wait(10)
        return "x"

    sensor = HeldMail("control", hang)
    for _ in range(3):
        sensor.find_troubles()
    assert guard.count("/held") == 1
    end.set()
    assert sensor.worker
    sensor.worker.join(10)


def test_what_its_owner_has_released_is_sent(
    postfix: Callable[[bytes], _Postfix], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = postfix(b"")
    (tmp_path / "Q1").touch()
    rows = [
        {"queue_id": queue_id, "account": "anna@example.org", "is_due": True, "is_released": True, "is_settled": False}
        for queue_id in ("Q1", "Q4")
    ]
    targets: list[str] = []

    def get_body(_socket: str, target: str, _timeout: float) -> bytes:
        targets.append(target)
        return json.dumps({"messages": rows}).encode()

    monkeypatch.setattr(unix_http, "get_body", get_body)
    rows[1]["is_due"] = False  # Postfix has accepted it, and is about to put it on hold
    sensor = HeldMail("control", lambda *_: "it went back")
    sensor.find_troubles()
    assert sensor.worker
    sensor.worker.join(10)
    assert fake.commands == [("postsuper", "-H", "Q1"), ("postqueue", "-i", "Q1")]
    assert targets == ["/held", "/returned?queue_id=Q1&result="]
