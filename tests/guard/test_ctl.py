"""mailkeepctl shows what the guard knows, and says in a line what could not be done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from guard_samples import ANNA, NO_LIMITS, GuardProcess, ask_guard, build_config, build_request

from mailkeep_server import account_commands, ctl
from mailkeep_server.common import unix_http
from mailkeep_server.freezes import enforce, freeze_list
from mailkeep_server.operator import accounts, guard_answers

Event = dict[str, Any]


@pytest.fixture(autouse=True)
def become_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guard.json").write_text(json.dumps(build_config()))
    monkeypatch.setattr(accounts, "CONFIG", tmp_path / "guard.json")
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_a_freeze_of_which_not_all_was_done_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(freeze_list, "freeze_account", lambda *_: True)
    monkeypatch.setattr(enforce, "enforce_freeze", lambda *_: enforce.Enforcement(2, 0, "", "TimeoutExpired: doveadm"))
    assert ctl.main(["freeze", ANNA]) == 1
    printed = capsys.readouterr()
    assert printed.out.endswith("is frozen: no mail, no login.\n2 messages put on hold, 0 sessions cut.\n")
    assert printed.err == "NOT ALL was done, and the watch tries again: TimeoutExpired: doveadm\n"


def test_a_file_that_cannot_be_written_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse_write(*_: object) -> bool:
        raise PermissionError(13, "Permission denied", "/var/lib/mailkeep-guard/frozen/lock")

    monkeypatch.setattr(freeze_list, "freeze_account", refuse_write)
    assert ctl.main(["freeze", ANNA]) == 1
    assert capsys.readouterr().err == "[Errno 13] Permission denied: '/var/lib/mailkeep-guard/frozen/lock'\n"


def test_an_unknown_account_is_told_from_those_of_the_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(freeze_list, "read_freezes", dict)
    assert ctl.main(["queue", "--account", "nobody@example.org"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("nobody@example.org is no account of this server. Its accounts are: ")
    assert ANNA in error


def test_without_root_nothing_is_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ctl.main(["limits"]) == 1
    assert capsys.readouterr().err == "mailkeepctl needs root: `sudo mailkeepctl …`.\n"


def test_a_guard_that_does_not_answer_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard_answers, "CONTROL_SOCKET", str(tmp_path / "control"))
    for command in ("limits", "events"):
        assert ctl.main([command]) == 1
        error = capsys.readouterr().err
        assert error.startswith("The guard does not answer ([Errno 2] No such file or directory)")
        assert "`systemctl status mailkeep-guard` says why" in error


# --- events


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """The guard's events, of which it gives two at a time."""
    events: list[Event] = []

    def answer(_socket: str, target: str, _timeout: float) -> bytes:
        after = int(target.removeprefix("/events?after="))
        page = [event for event in events if event["id"] > after][:2]
        return json.dumps({"last": events[-1]["id"] if events else 0, "events": page}).encode()

    monkeypatch.setattr(unix_http, "get_body", answer)
    return events


def add_event(events: list[Event], number: int, kind: str = "near", account: str = ANNA) -> None:
    detail = f"has sent {number} of 60 messages"
    events.append({"id": number, "time": 1_764_086_400.25 + number, "kind": kind, "account": account, "detail": detail})


def test_all_events_are_shown_however_many_the_guard_gives_at_a_time(
    events: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (3, 4, 7, 8, 9):
        add_event(events, number)
    assert ctl.main(["events", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"last": 9, "events": events}
    assert ctl.main(["events", "--json", "--after", "7"]) == 0
    assert json.loads(capsys.readouterr().out) == {"last": 9, "events": events[3:]}
    assert ctl.main(["events", "--json", "--after", "9"]) == 0
    assert json.loads(capsys.readouterr().out) == {"last": 9, "events": []}


def test_events_are_lines_for_people_with_the_number_to_continue_after(
    events: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    add_event(events, 1, "over")
    assert ctl.main(["events"]) == 0
    assert capsys.readouterr().out == (
        f"     1  2025-11-25 16:00:01 UTC  over           {ANNA}  has sent 1 of 60 messages\n"
        "1 event; `--after 1` shows later ones.\n"
    )


@pytest.mark.slow
def test_events_of_the_guard_itself(
    start_guard: Callable[..., GuardProcess], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = start_guard(limits=NO_LIMITS | {"messages_per_hour": 1})
    monkeypatch.setattr(guard_answers, "CONTROL_SOCKET", str(running.directory / "run" / "control"))
    with running.open_connection() as client:
        for _ in range(2):
            ask_guard(client, build_request())
    assert ctl.main(["events", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    kinds = ("first-use-expected", "near", "over")
    assert [(event["kind"], event["account"]) for event in answer["events"]] == [(kind, ANNA) for kind in kinds]
    assert ctl.main(["events", "--after", str(answer["last"])]) == 0
    assert capsys.readouterr().out.startswith("0 events; ")
    assert ctl.main(["limits"]) == 0
    assert f"  100%  {ANNA}" in capsys.readouterr().out


def test_a_rename_moves_the_freeze_first_and_the_rest_after_the_deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, frozen, asked, commands = "old@example.org", ANNA, tmp_path / "frozen" / "accounts", [], []
    users: list[str] = []
    frozen.parent.mkdir()
    for function in (freeze_list.read_freezes, freeze_list.thaw_account):
        monkeypatch.setattr(function, "__defaults__", (frozen,))
    monkeypatch.setattr(freeze_list.freeze_account, "__defaults__", (frozen,))
    monkeypatch.setattr(enforce, "cut_sessions", lambda _: 0)
    monkeypatch.setattr(account_commands.mailbox_move, "find_home", lambda account: tmp_path / account)
    monkeypatch.setattr(account_commands.mailbox_move, "act_as", lambda user: nullcontext(users.append(user)))
    monkeypatch.setattr(account_commands, "ask_guard", asked.append)
    monkeypatch.setattr(account_commands, "run", lambda *command, **_: commands.append(command))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    freeze_list.freeze_account(old, "carl", "sends spam: 3", datetime.now(UTC), frozen)
    (tmp_path / old / "Maildir").mkdir(parents=True)
    assert ctl.main(["rename", old, "declared-later@example.org"]) == 1
    assert "deploy, then run this again" in capsys.readouterr().err
    assert {*freeze_list.read_freezes(frozen)} == {old, "declared-later@example.org"}
    assert (tmp_path / old).exists()
    assert ctl.main(["rename", old, new]) == 0
    assert not (tmp_path / old).exists()
    assert (tmp_path / new / "Maildir").exists()
    assert users == ["vmail"]
    assert {*freeze_list.read_freezes(frozen)} == {new, "declared-later@example.org"}
    assert freeze_list.read_freezes(frozen)[new].why == "sends spam: 3"
    assert asked == ["/rename?old=old%40example.org&new=anna%40example.org"]
    assert commands == [("systemctl", "restart", "mailkeep-guard.service")]


@pytest.mark.slow
def test_only_folders_that_the_guard_has_filled_are_emptied(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    start_guard: Callable[..., GuardProcess],
) -> None:
    """`doveadm` is a script that notes its arguments."""
    rows = [{"mailbox": name, "messages": "2"} for name in ("Bulk 2026-11-30", "Bulk offers", "Bulk 2026-11-29")]
    doveadm = tmp_path / "doveadm"
    doveadm.write_text(
        f"#!/bin/sh\necho \"$@\" >> {tmp_path}/calls\n[ $1 = -f ] && echo '{json.dumps(rows)}'; exit 0\n"
    )
    doveadm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    guard = start_guard()
    monkeypatch.setattr(guard_answers, "CONTROL_SOCKET", str(guard.directory / "run" / "control"))
    assert ctl.main(["bulk"]) == 0
    assert f"{ANNA}: 2 messages in Bulk 2026-11-30; `mailkeepctl unsort {ANNA}`" in capsys.readouterr().out
    assert ctl.main(["unsort", ANNA]) == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    moves = [call for call in calls if call.startswith("move")]
    assert moves == [f"move -u {ANNA} INBOX mailbox Bulk 2026-11-{day} all" for day in (29, 30)]
    assert not [call for call in calls if call.startswith("mailbox delete") and " -e " not in call]
