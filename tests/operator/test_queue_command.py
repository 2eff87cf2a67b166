"""`mailkeepctl queue` changes the chosen messages, and no others, whatever Postfix does meanwhile."""

import json
import os
import sys
from pathlib import Path

import pytest
from fake_queue import FakeQueue

from mailkeep_server import ctl
from mailkeep_server.freezes import freeze_list
from mailkeep_server.freezes.freeze_list import FrozenAccounts, parse_entry
from mailkeep_server.operator import queue_changes, queue_command, queue_summary
from mailkeep_server.operator.queue_summary import generalise_reason

ANNA, BERT, FRIEND = "anna@example.org", "bert@example.org", "friend@example.net"


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> FrozenAccounts:
    accounts: FrozenAccounts = {}
    monkeypatch.setattr(freeze_list, "read_freezes", lambda: accounts)
    return accounts


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: FrozenAccounts) -> FakeQueue:
    assert not frozen
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(queue_command, "find_addresses", lambda account: frozenset({account, "info@example.org"}))
    queue = FakeQueue(tmp_path, monkeypatch)
    queue.add_message("A1", ANNA, FRIEND, login=ANNA)
    queue.add_message("A2", "info@example.org", FRIEND, "x@example.com", login=ANNA)
    queue.add_message("B1", "info@example.org", FRIEND, login=BERT)
    queue.add_message("C1", "MAILER-DAEMON", FRIEND)
    return queue


def run_queue(*arguments: str) -> int:
    return ctl.main(["queue", *arguments])


def test_an_account_s_mail_is_deleted_and_nobody_else_s(queue: FakeQueue, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_queue("delete", "--account", ANNA, "--yes") == 0
    assert queue.list_queues() == {"B1": "deferred", "C1": "deferred"}
    assert capsys.readouterr().out == "2 messages deleted.\n"


def test_to_a_remote_only_mail_without_other_recipients_is_changed(
    queue: FakeQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_queue("hold", "--remote", "Example.NET") == 0
    assert queue.list_queues() == {"A1": "hold", "A2": "deferred", "B1": "hold", "C1": "hold"}
    assert capsys.readouterr().out == ("3 messages on hold.\n1 message left alone: other recipients are in it, too.\n")


def test_a_queue_id_that_another_message_got_meanwhile_deletes_no_mail(
    queue: FakeQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the second look, B's new message would be deleted."""
    row = (queue.rows / "A1").read_text().replace(ANNA, BERT).replace('"arrival_time": 1', '"arrival_time": 9')
    queue.change_before_next_command(f"cat >{queue.rows}/A1 <<'ROW'\n{row}ROW\n")
    assert run_queue("delete", "--account", ANNA, "--yes") == 0
    assert queue.list_queues() == {"A1": "deferred", "B1": "deferred", "C1": "deferred"}
    assert capsys.readouterr().out == "1 message deleted.\n1 message had left the queue before.\n"


def test_a_message_that_has_left_meanwhile_is_said(queue: FakeQueue, capsys: pytest.CaptureFixture[str]) -> None:
    queue.change_before_next_command(f"rm {queue.rows}/A1\n")
    assert run_queue("hold", "--sender", ANNA, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"action": "hold", "changed": 0, "left": 1, "shared": 0, "frozen": 0}


def test_nothing_is_deleted_without_a_yes(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = queue.list_queues()
    assert run_queue("delete", "--account", ANNA) == 1
    assert "There is no terminal to ask at" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert run_queue("delete", "--account", ANNA) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("2 messages to 3 recipients, 2 KB: 2 deferred.")
    assert printed.err == "Nothing was deleted.\n"
    assert queue.list_queues() == before
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    assert run_queue("delete", "--account", ANNA) == 0
    assert queue.list_queues() == {"B1": "deferred", "C1": "deferred"}


def test_only_what_was_counted_is_deleted(queue: FakeQueue, capsys: pytest.CaptureFixture[str]) -> None:
    """The operator's machine counts first, and deletes after the answer."""
    assert run_queue("delete", "--sender", ANNA, "--dry-run", "--json") == 0
    counted = json.loads(capsys.readouterr().out)
    assert (counted["messages"], counted["recipients"], counted["shared"]) == (1, 1, 0)
    queue.add_message("A9", ANNA, FRIEND, login=ANNA, arrived=int(counted["until"]) + 5)
    assert run_queue("delete", "--sender", ANNA, "--yes", "--until", str(counted["until"])) == 0
    assert queue.list_queues() == {"A2": "deferred", "A9": "deferred", "B1": "deferred", "C1": "deferred"}


@pytest.mark.parametrize(
    "arguments", [("hold",), ("release",), ("retry",), ("delete",), ("delete", "--all"), ("show",)]
)
def test_a_change_of_everything_must_be_asked_for_and_deletion_never(
    arguments: tuple[str, ...], queue: FakeQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    before = queue.list_queues()
    assert run_queue(*arguments) == 1
    assert capsys.readouterr().err.startswith("Say w")
    assert queue.list_queues() == before


@pytest.mark.slow
def test_the_mail_of_a_frozen_account_stays_on_hold(
    queue: FakeQueue, frozen: FrozenAccounts, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_queue("hold", "--all") == 0
    frozen[ANNA] = parse_entry("")
    capsys.readouterr()
    assert run_queue("release", "--all") == 0
    assert capsys.readouterr().out == "2 messages on its way.\n2 messages of frozen accounts left on hold.\n"
    assert queue.list_queues() == {"A1": "hold", "A2": "hold", "B1": "deferred", "C1": "deferred"}
    assert run_queue("release", "--account", ANNA) == 1
    assert "is frozen: `mailkeepctl thaw" in capsys.readouterr().err
    frozen.clear()
    assert run_queue("release", "--account", ANNA) == 0
    assert "hold" not in queue.list_queues().values()


def test_waiting_mail_is_tried_again_and_too_much_is_refused(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    queue.add_message("A3", ANNA, FRIEND, login=ANNA, queue="hold")
    assert run_queue("retry", "--account", ANNA) == 0
    assert (queue.directory / "retried").read_text() == "-i A1\n-i A2\n"
    monkeypatch.setattr(queue_changes, "MAX_RETRIED", 1)
    assert run_queue("retry", "--account", ANNA) == 1
    assert "`mailkeepctl queue retry --all`" in capsys.readouterr().err
    assert run_queue("retry", "--all") == 0
    assert (queue.directory / "retried").read_text().endswith("-f\n")


def test_the_queue_is_summed_by_sender_remote_and_reason(queue: FakeQueue, capsys: pytest.CaptureFixture[str]) -> None:
    refused = "connect to mx{0}.example.net[192.0.2.{0}]:25: Connection refused"
    for number in (5, 6):
        queue.add_message(f"D{number}", ANNA, FRIEND, "y@example.net", login=ANNA, reason=refused.format(number))
    assert run_queue("--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["messages"], summary["recipients"], summary["by_queue"]) == (6, 9, {"deferred": 6})
    assert summary["by_sender"][0] == {"name": ANNA, "messages": 3, "recipients": 5}
    assert summary["by_remote"] == [
        {"name": "example.net", "messages": 6, "recipients": 8},
        {"name": "example.com", "messages": 1, "recipients": 1},
    ]
    assert summary["by_reason"] == [
        {"name": "not tried yet", "messages": 4, "recipients": 5},
        {"name": "connect to …: Connection refused", "messages": 2, "recipients": 4},
    ]
    assert run_queue("list", "--reason", "connection refused") == 0
    assert capsys.readouterr().out.endswith("2 messages, 4 recipients.\n")
    assert run_queue() == 0
    assert "by reason\n       4           5  not tried yet\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reason", "general"),
    [
        (
            "host mx.example.net[192.0.2.75] said: 421 4.7.0 [TSS05] Messages from 192.0.2.1 temporarily deferred",
            "host … said: 421 4.7.0 [TSS05] Messages from 192.0.2.1 temporarily deferred",
        ),
        ("delivery temporarily suspended: connect to a.example[2001:db8::1]:25: No route", "connect to …: No route"),
        ("Host or domain name not found. Name service error for name=x.example type=MX", None),
        ("said: 450 <x@example.net>: try later (id 4fA93bC2d1)", "said: 450 …: try later (id …"),
    ],
)
def test_a_reason_is_the_same_for_all_messages(reason: str, general: str | None) -> None:
    assert generalise_reason(reason) == (general or reason.replace("name=x.example", "name=…"))


def test_a_stranger_s_senders_and_reasons_are_bounded_and_harmless(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(queue_summary, "MAX_GROUPS", 2)
    queue.add_message("E1", "\x1b[2Jevil\u202e@example.net", FRIEND, reason="\x1b]0;x\x07")
    assert run_queue() == 0
    assert run_queue("list") == 0
    assert run_queue("show", "--message", "E1") == 0
    text = capsys.readouterr().out
    assert "(others)" in text
    assert not {"\x1b", "\x07", "\u202e"} & {*text}


@pytest.mark.usefixtures("queue")
def test_headers_are_shown_and_the_rest_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_queue("show", "--message", "A1") == 0
    assert "  Subject: \ufffd[2Jred\n" in capsys.readouterr().out
    assert run_queue("show", "--message", "A1", "--body") == 0
    assert "  the body\n" in capsys.readouterr().out
    assert run_queue("show", "--message", "A11") == 0
    assert capsys.readouterr().out == "No message in the queue fits.\n"
