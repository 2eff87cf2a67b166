"""Abuse freezes an account: on the first violation too many, through restarts, until somebody thaws it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from guard_samples import ANNA, BERT, FREEZE, NO_FREEZE, NO_LIMITS, JudgeSetup

from mailkeep_server.common import spoilt_files
from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard.policy import DUNNO
from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES

NewSetup = Callable[..., JudgeSetup]


def send_messages(setup: JudgeSetup, number: int) -> None:
    for _ in range(number):
        setup.send_message()


def test_too_many_refused_tries_freeze(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"messages_per_hour": 2}, freeze=NO_FREEZE | {"refused_tries": 5})
    send_messages(setup, 2 + 4)
    assert not setup.freeze_reasons()
    assert (
        setup.send_message()
        == "521 5.7.1 anna@example.org is frozen since 2025-11-25 12:00 UTC. Ask postmaster@mail.example.org"
    )
    assert setup.freeze_reasons() == {ANNA: "5 messages over its limits in 10 minutes, last from 192.0.2.1"}
    assert [account for account, _ in setup.list_events("frozen")] == [ANNA]


def test_a_message_is_one_violation_however_many_recipients_were_refused(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"recipients_per_hour": 1}, freeze=NO_FREEZE | {"refused_tries": 5})
    for number in range(100):
        setup.ask_recipient(f"r{number}@example.net")
    assert not setup.freeze_reasons()


def test_violations_are_forgotten_after_their_time(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"messages_per_day": 1}, freeze=NO_FREEZE | {"refused_tries": 5})
    for _ in range(5):
        send_messages(setup, 4)
        setup.advance_clock(TEN_MINUTES)
    assert not setup.freeze_reasons()


def test_unowned_senders_freeze(new_setup: NewSetup) -> None:
    setup = new_setup(freeze=NO_FREEZE | {"foreign_senders": 4})
    refusals = [setup.judge.reject_unowned_sender(setup.now, ANNA, "boss@example.org", "2001:db8::9") for _ in range(4)]
    assert refusals == ["553 5.7.1 anna@example.org does not own boss@example.org"] * 4
    assert setup.freeze_reasons() == {ANNA: "4 messages as somebody else in an hour, last from 2001:db8::9"}
    assert setup.list_events("spoof") == [
        (ANNA, "tried to send as boss@example.org; 1 such message in an hour, 4 freeze it, last from 2001:db8::9")
    ]


def test_many_messages_that_look_like_spam_freeze_and_a_few_go(new_setup: NewSetup) -> None:
    setup = new_setup(freeze=NO_FREEZE | {"spam_messages": 3})
    assert [setup.judge.judge_spam(setup.now, ANNA, "192.0.2.9") for _ in range(2)] == [None, None]
    assert not setup.freeze_reasons()
    assert setup.list_events("spam") == [
        (ANNA, "sent what looks like spam; 1 such message in an hour, 3 freeze it, last from 192.0.2.9")
    ]
    refusal = setup.judge.judge_spam(setup.now, ANNA, "192.0.2.9")
    assert refusal
    assert refusal.startswith("521 5.7.1 anna@example.org is frozen")
    assert setup.freeze_reasons() == {ANNA: "3 messages that look like spam in an hour, last from 192.0.2.9"}
    assert setup.judge.judge_spam(setup.now, BERT) is None
    freeze_list.thaw_account(ANNA, setup.frozen_file)
    setup.advance_clock(1)
    assert setup.judge.judge_spam(setup.now, ANNA) is None, "a thaw forgets it"


def test_in_mode_learn_spam_freezes_nobody_and_is_reported(new_setup: NewSetup) -> None:
    setup = new_setup(mode="learn", freeze=NO_FREEZE | {"spam_messages": 2})
    assert [setup.judge.judge_spam(setup.now, ANNA) for _ in range(3)] == [None] * 3
    assert not setup.freeze_reasons()
    assert setup.list_events("would-freeze") == [(ANNA, "2 messages that look like spam in an hour")]


def test_spam_is_forgotten_after_an_hour(new_setup: NewSetup) -> None:
    setup = new_setup(freeze=NO_FREEZE | {"spam_messages": 2})
    for _ in range(3):
        assert setup.judge.judge_spam(setup.now, ANNA) is None
        setup.advance_clock(HOUR)


def test_an_account_that_was_removed_or_is_yet_to_come_does_not_spoof_itself(new_setup: NewSetup) -> None:
    """As in a session that is open while a deploy removes it, or before a deploy has restarted the guard."""
    setup = new_setup(freeze=NO_FREEZE | {"foreign_senders": 2})
    for _ in range(3):
        refusal = setup.judge.reject_unowned_sender(setup.now, "dora@example.org", "dora@example.org")
        assert refusal == "450 4.7.1 dora@example.org is no account here"
    assert setup.list_events("spoof") == []
    assert not setup.freeze_reasons()


def test_too_many_networks_freeze_and_a_single_one_that_insists_does_not(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"networks_per_hour": 1}, freeze=NO_FREEZE | {"networks": 3})
    setup.send_message(client="192.0.2.1")
    for _ in range(20):
        setup.send_message(client="198.51.100.1")
    setup.send_message(client="203.0.113.1")
    assert not setup.freeze_reasons()
    assert setup.send_message(client="2001:db8::1").startswith("521")
    assert setup.freeze_reasons() == {ANNA: "3 networks beyond its limit in an hour, last from 2001:db8::1"}


def test_too_many_first_time_recipients_freeze_and_the_same_again_and_again_does_not(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"new_recipients_per_day": 1}, freeze=NO_FREEZE | {"new_recipients": 6})
    setup.send_message(to=["a@example.net"])
    for _ in range(10):
        setup.send_message(to=["again@example.net"])
    assert not setup.freeze_reasons()
    for number in range(5):
        setup.ask_recipient(f"r{number}@example.net")
    assert setup.freeze_reasons() == {ANNA: "6 first-time recipients over its limit in a day, last from 192.0.2.1"}


@pytest.mark.parametrize("kind", ["refused", "foreign", "networks", "new", "spam"])
def test_violations_count_on_after_a_restart(new_setup: NewSetup, kind: str) -> None:
    setup = new_setup(
        limits=NO_LIMITS | {"messages_per_hour": 1, "networks_per_hour": 1, "new_recipients_per_day": 1}, freeze=FREEZE
    )
    tries = {
        "refused": lambda _: setup.send_message(to=["a@example.net"]),
        "foreign": lambda _: setup.judge.reject_unowned_sender(setup.now, ANNA, "boss@example.org"),
        "networks": lambda n: setup.ask_recipient("a@example.net", client=f"198.51.{n}.1", instance="i"),
        "new": lambda n: setup.ask_recipient(f"r{n}@example.net", instance="i"),
        "spam": lambda _: setup.judge.judge_spam(setup.now, ANNA),
    }
    setup.send_message(to=["a@example.net"])
    most = {"refused": 5, "foreign": 4, "networks": 3, "new": 6, "spam": 3}[kind]
    for number in range(most - 1):
        tries[kind](number)
    assert not setup.freeze_reasons()
    setup.restart()
    tries[kind](most)
    assert setup.freeze_reasons()


def test_a_freeze_holds_after_a_restart_and_for_nobody_else(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | {"messages_per_hour": 2}, freeze=FREEZE)
    send_messages(setup, 7)
    setup.advance_clock(30 * DAY)
    setup.restart()
    assert setup.send_message().startswith("521")
    assert setup.ask_recipient("r@example.net").startswith("521")
    assert setup.send_message(BERT) == DUNNO


def test_a_freeze_by_hand_holds_at_once(new_setup: NewSetup) -> None:
    setup = new_setup()
    assert setup.send_message() == DUNNO
    freeze_list.freeze_account(
        ANNA, "carl", "lost her phone", datetime(2025, 11, 25, 12, tzinfo=UTC), setup.frozen_file
    )
    setup.advance_clock(1)
    assert setup.send_message().startswith("521 5.7.1 anna@example.org is frozen since 2025-11-25 12:00 UTC")
    assert setup.list_events("frozen") == [(ANNA, "by carl: lost her phone")]


@pytest.mark.parametrize("running", [True, False])
def test_a_thaw_resets_violations_and_not_what_was_sent(new_setup: NewSetup, running: bool) -> None:
    setup = new_setup(limits=NO_LIMITS | {"messages_per_hour": 2, "networks_per_hour": 1}, freeze=FREEZE)
    send_messages(setup, 2)
    for _ in range(3):
        setup.judge.reject_unowned_sender(setup.now, ANNA, "boss@example.org")
    for number in range(3):
        setup.send_message(client=f"198.51.{number}.1")
    assert setup.freeze_reasons()
    freeze_list.thaw_account(ANNA, setup.frozen_file)
    setup.advance_clock(1)
    if not running:
        setup.restart()
    assert not setup.freeze_reasons()
    assert setup.list_events("thawed") == [(ANNA, "may send and log in again")]
    for again in (False, True):
        if again:
            setup.restart()
        assert setup.send_message().startswith("450"), "what was sent still counts"
        assert setup.send_message(client="203.0.113.1").startswith("450")
        assert not setup.freeze_reasons()
    setup.advance_clock(HOUR)
    assert setup.send_message() == DUNNO


def test_mode_learn_freezes_nobody_and_notes_whom_it_would_have_frozen(new_setup: NewSetup) -> None:
    setup = new_setup(mode="learn", limits=NO_LIMITS | {"messages_per_hour": 2}, freeze=FREEZE)
    for _ in range(30):
        assert setup.send_message() == DUNNO
    for _ in range(10):
        assert setup.judge.reject_unowned_sender(setup.now, BERT, "boss@example.org") is None
    assert not setup.freeze_reasons()
    assert setup.list_events("would-freeze") == [
        (ANNA, "5 messages over its limits in 10 minutes, last from 192.0.2.1"),
        (BERT, "4 messages as somebody else in an hour"),
    ]


def test_mode_learn_notes_networks_and_first_time_recipients_too(new_setup: NewSetup) -> None:
    tight = NO_LIMITS | {"networks_per_hour": 1, "new_recipients_per_day": 1}
    setup = new_setup(mode="learn", limits=tight, freeze=NO_FREEZE | {"networks": 3, "new_recipients": 6})
    for number in range(10):
        assert setup.send_message(ANNA, client=f"198.51.{number}.1") == DUNNO
        assert setup.send_message(BERT, to=[f"r{number}@example.net"]) == DUNNO
    assert setup.list_events("would-freeze") == [
        (ANNA, "3 networks beyond its limit in an hour, last from 198.51.3.1"),
        (BERT, "6 first-time recipients over its limit in a day, last from 192.0.2.1"),
    ]


def test_a_freeze_that_cannot_be_written_holds_and_is_written_when_it_can_be(
    new_setup: NewSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, which the spam may have filled."""
    setup = new_setup(limits=NO_LIMITS | {"messages_per_hour": 2}, freeze=FREEZE)
    full = OSError(28, "No space left on device")

    def refuse_sync(*_: object) -> None:
        raise full

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", refuse_sync)
        send_messages(setup, 7)
        setup.advance_clock(1)
        assert setup.send_message().startswith("521")
        assert not setup.frozen_file.exists()
        setup.judge.freezer.write_freezes(setup.now)
        assert setup.send_message().startswith("521")
    setup.judge.freezer.write_freezes(setup.now)
    assert list(freeze_list.read_freezes(setup.frozen_file)) == [ANNA]
    assert len(setup.list_events("frozen")) == 1


# --- links that the guard's user may have put in root's way -----------------------------------------------------------

NOBODY = 65_534


@pytest.fixture
def foreign_state() -> Iterator[Path]:
    """A state directory of another user's, where root freezes by hand. Not below pytest's directory, which only the
    user who runs it may enter."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name)
        parent.chmod(0o755)
        state = parent / "state"
        (state / "frozen").mkdir(parents=True)
        for directory in (state, state / "frozen"):
            os.chown(directory, NOBODY, -1)
        (parent / "secret").write_text("root:!:::secret::\n")
        (parent / "secret").chmod(0o600)
        yield state


def test_the_guard_can_thaw_an_account_that_root_froze(foreign_state: Path) -> None:
    file = foreign_state / "frozen" / "accounts"
    assert freeze_list.freeze_account(ANNA, "carl", "lost her phone", datetime.now(UTC), file)
    assert {path.stat().st_uid for path in file.parent.iterdir()} == {NOBODY}
    assert os.geteuid() == 0


@pytest.mark.parametrize("name", ["lock", "accounts", "accounts.new", "frozen"])
def test_no_link_makes_root_give_away_or_change_or_show_a_file(foreign_state: Path, name: str) -> None:
    secret, file = foreign_state.parent / "secret", foreign_state / "frozen" / "accounts"
    before = secret.stat()
    if name == "frozen":
        file.parent.rmdir()
        file.parent.symlink_to(foreign_state.parent)
        os.chown(file.parent, NOBODY, -1, follow_symlinks=False)
        secret = secret.rename(foreign_state.parent / "lock")
    else:
        (file.parent / name).symlink_to(secret)
    try:
        freeze_list.freeze_account(ANNA, "carl", "lost her phone", datetime.now(UTC), file)
    except OSError:
        assert os.geteuid() == 0
    after = secret.stat()
    assert (after.st_uid, after.st_mtime_ns, after.st_mode) == (before.st_uid, before.st_mtime_ns, before.st_mode)


def test_the_repair_of_a_file_follows_no_link_in_its_directorys_place(foreign_state: Path) -> None:
    """The guard's user may put one there between two repairs."""
    secret, frozen = foreign_state.parent / "accounts", foreign_state / "frozen"
    (foreign_state.parent / "secret").rename(secret)
    frozen.rmdir()
    frozen.symlink_to(foreign_state.parent)
    with pytest.raises(OSError):
        spoilt_files.mend_file(frozen / "accounts", spoilt_files.Access(NOBODY, NOBODY))
    assert secret.stat().st_uid == 0


def test_only_a_plain_file_is_read(tmp_path: Path) -> None:
    file, target = tmp_path / "accounts", tmp_path / "target"
    target.write_text("anna@example.org:!:::secret::\n")
    for put in (lambda: file.symlink_to(target), lambda: os.mkfifo(file), lambda: file.mkdir()):
        put()
        with pytest.raises(OSError):
            freeze_list.read_freezes(file)
        file.rmdir() if file.is_dir() else file.unlink()


def test_a_file_with_another_name_is_read_if_it_is_the_guards(foreign_state: Path) -> None:
    """A backup by hard links (`cp -al`) must not stop the guard. Another's file could be one of root's secrets."""
    file, backup = foreign_state / "frozen" / "accounts", foreign_state / "backup"
    backup.write_text("anna@example.org:!:::20251125T115500Z guard why::\n")
    file.hardlink_to(backup)
    with pytest.raises(PermissionError):
        freeze_list.read_freezes(file)
    os.chown(backup, NOBODY, -1)
    assert list(freeze_list.read_freezes(file)) == [ANNA]


def test_a_list_that_is_removed_is_made_anew_even_if_nobody_is_frozen(new_setup: NewSetup) -> None:
    setup = new_setup()
    freeze_list.create_if_missing(setup.frozen_file)
    setup.send_message()
    setup.frozen_file.unlink()
    setup.advance_clock(1000)
    assert setup.send_message() == DUNNO
    assert setup.frozen_file.read_text() == ""
    assert any("frozen as before: nobody" in detail for _, detail in setup.list_events("state"))
