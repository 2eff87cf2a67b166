"""What no honest user does freezes an account: on the first try too many, through restarts, until somebody thaws it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from guard_samples import ANNA, BERT, FREEZE, NO_FREEZE, NO_LIMITS, Desk

from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard.policy import DUNNO
from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES

MakeDesk = Callable[..., Desk]


def try_too_much(desk: Desk, times: int) -> None:
    for _ in range(times):
        desk.send()


def test_too_many_refused_tries_freeze(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"messages_per_hour": 2}, freeze=NO_FREEZE | {"refused_tries": 5})
    try_too_much(made, 2 + 4)
    assert not made.frozen()
    assert (
        made.send()
        == "521 5.7.1 anna@example.org is frozen since 2025-11-25 12:00 UTC. Ask postmaster@mail.example.org"
    )
    assert made.frozen() == {ANNA: "5 messages over its limits in 10 minutes"}
    assert [account for account, _ in made.events("frozen")] == [ANNA]


def test_a_try_is_one_however_many_recipients_were_refused(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"recipients_per_hour": 1}, freeze=NO_FREEZE | {"refused_tries": 5})
    for number in range(100):
        made.recipient(f"r{number}@example.net")
    assert not made.frozen()


def test_tries_are_forgotten_after_their_time(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"messages_per_day": 1}, freeze=NO_FREEZE | {"refused_tries": 5})
    for _ in range(5):
        try_too_much(made, 4)
        made.later(TEN_MINUTES)
    assert not made.frozen()


def test_speaking_as_others_freezes(desk: MakeDesk) -> None:
    made = desk(freeze=NO_FREEZE | {"foreign_senders": 4})
    said = [made.judge.reject_unowned_sender(made.now, ANNA, "boss@example.org") for _ in range(4)]
    assert said == ["553 5.7.1 anna@example.org does not own boss@example.org"] * 4
    assert made.frozen() == {ANNA: "4 messages as somebody else in an hour"}
    assert made.events("spoof") == [(ANNA, "tried to send as boss@example.org")]


def test_too_many_networks_freeze_and_one_that_insists_does_not(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"networks_per_hour": 1}, freeze=NO_FREEZE | {"networks": 3})
    made.send(client="192.0.2.1")
    for _ in range(20):
        made.send(client="198.51.100.1")
    made.send(client="203.0.113.1")
    assert not made.frozen()
    assert made.send(client="2001:db8::1").startswith("521")
    assert made.frozen() == {ANNA: "3 networks beyond its limit in an hour"}


def test_too_many_first_time_recipients_freeze_and_one_again_and_again_does_not(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"new_recipients_per_day": 1}, freeze=NO_FREEZE | {"new_recipients": 6})
    made.send(to=["a@example.net"])
    for _ in range(10):
        made.send(to=["again@example.net"])
    assert not made.frozen()
    for number in range(5):
        made.recipient(f"r{number}@example.net")
    assert made.frozen() == {ANNA: "6 first-time recipients over its limit in a day"}


@pytest.mark.parametrize("kind", ["refused", "foreign", "networks", "new"])
def test_tries_count_on_after_a_restart(desk: MakeDesk, kind: str) -> None:
    made = desk(
        limits=NO_LIMITS | {"messages_per_hour": 1, "networks_per_hour": 1, "new_recipients_per_day": 1}, freeze=FREEZE
    )
    tries = {
        "refused": lambda _: made.send(to=["a@example.net"]),
        "foreign": lambda _: made.judge.reject_unowned_sender(made.now, ANNA, "boss@example.org"),
        "networks": lambda n: made.recipient("a@example.net", client=f"198.51.{n}.1", instance="i"),
        "new": lambda n: made.recipient(f"r{n}@example.net", instance="i"),
    }
    made.send(to=["a@example.net"])
    most = {"refused": 5, "foreign": 4, "networks": 3, "new": 6}[kind]
    for number in range(most - 1):
        tries[kind](number)
    assert not made.frozen()
    made.restart()
    tries[kind](most)
    assert made.frozen()


def test_a_freeze_holds_after_a_restart_and_for_nobody_else(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | {"messages_per_hour": 2}, freeze=FREEZE)
    try_too_much(made, 7)
    made.later(30 * DAY)
    made.restart()
    assert made.send().startswith("521")
    assert made.recipient("r@example.net").startswith("521")
    assert made.send(BERT) == DUNNO


def test_a_freeze_by_hand_holds_at_once(desk: MakeDesk) -> None:
    made = desk()
    assert made.send() == DUNNO
    freeze_list.freeze_account(ANNA, "carl", "lost her phone", datetime(2025, 11, 25, 12, tzinfo=UTC), made.frozen_file)
    made.later(1)
    assert made.send().startswith("521 5.7.1 anna@example.org is frozen since 2025-11-25 12:00 UTC")
    assert made.events("frozen") == [(ANNA, "by carl: lost her phone")]


@pytest.mark.parametrize("running", [True, False])
def test_a_thaw_forgives_the_tries_and_not_what_was_sent(desk: MakeDesk, running: bool) -> None:
    made = desk(limits=NO_LIMITS | {"messages_per_hour": 2, "networks_per_hour": 1}, freeze=FREEZE)
    try_too_much(made, 2)
    for _ in range(3):
        made.judge.reject_unowned_sender(made.now, ANNA, "boss@example.org")
    for number in range(3):
        made.send(client=f"198.51.{number}.1")
    assert made.frozen()
    freeze_list.thaw_account(ANNA, made.frozen_file)
    made.later(1)
    if not running:
        made.restart()
    assert not made.frozen()
    assert made.events("thawed") == [(ANNA, "may send and log in again")]
    for again in (False, True):
        if again:
            made.restart()
        assert made.send().startswith("450"), "what was sent still counts"
        assert made.send(client="203.0.113.1").startswith("450")
        assert not made.frozen()
    made.later(HOUR)
    assert made.send() == DUNNO


def test_mode_learn_freezes_nobody_and_says_whom_it_would_have(desk: MakeDesk) -> None:
    made = desk(mode="learn", limits=NO_LIMITS | {"messages_per_hour": 2}, freeze=FREEZE)
    for _ in range(30):
        assert made.send() == DUNNO
    for _ in range(10):
        assert made.judge.reject_unowned_sender(made.now, BERT, "boss@example.org") is None
    assert not made.frozen()
    assert made.events("would-freeze") == [
        (ANNA, "5 messages over its limits in 10 minutes"),
        (BERT, "4 messages as somebody else in an hour"),
    ]


def test_mode_learn_sees_networks_and_first_time_recipients_too(desk: MakeDesk) -> None:
    tight = NO_LIMITS | {"networks_per_hour": 1, "new_recipients_per_day": 1}
    made = desk(mode="learn", limits=tight, freeze=NO_FREEZE | {"networks": 3, "new_recipients": 6})
    for number in range(10):
        assert made.send(ANNA, client=f"198.51.{number}.1") == DUNNO
        assert made.send(BERT, to=[f"r{number}@example.net"]) == DUNNO
    assert made.events("would-freeze") == [
        (ANNA, "3 networks beyond its limit in an hour"),
        (BERT, "6 first-time recipients over its limit in a day"),
    ]


def test_a_freeze_that_cannot_be_written_holds_and_is_written_when_it_can_be(
    desk: MakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, which the spam may have filled."""
    made = desk(limits=NO_LIMITS | {"messages_per_hour": 2}, freeze=FREEZE)
    full = OSError(28, "No space left on device")

    def refuse(*_: object) -> None:
        raise full

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", refuse)
        try_too_much(made, 7)
        made.later(1)
        assert made.send().startswith("521")
        assert not made.frozen_file.exists()
        made.judge.freezer.write_freezes(made.now)
        assert made.send().startswith("521")
    made.judge.freezer.write_freezes(made.now)
    assert list(freeze_list.read_freezes(made.frozen_file)) == [ANNA]
    assert len(made.events("frozen")) == 1


# --- what the guard's user may have put in root's way -----------------------------------------------------------------

NOBODY = 65_534


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A state directory of another user's, where root freezes by hand: not below a directory of pytest's, which only
    the one who runs it may enter."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        state = Path(made) / "state"
        (state / "frozen").mkdir(parents=True)
        for directory in (state, state / "frozen"):
            os.chown(directory, NOBODY, -1)
        (Path(made) / "secret").write_text("root:!:::secret::\n")
        (Path(made) / "secret").chmod(0o600)
        yield state


def test_what_root_freezes_is_the_guards_to_thaw(elsewhere: Path) -> None:
    file = elsewhere / "frozen" / "accounts"
    assert freeze_list.freeze_account(ANNA, "carl", "lost her phone", datetime.now(UTC), file)
    assert {one.stat().st_uid for one in file.parent.iterdir()} == {NOBODY}
    assert os.geteuid() == 0


@pytest.mark.parametrize("name", ["lock", "accounts", "accounts.new", "frozen"])
def test_no_link_makes_root_give_away_or_change_or_show_a_file(elsewhere: Path, name: str) -> None:
    secret, file = elsewhere.parent / "secret", elsewhere / "frozen" / "accounts"
    before = secret.stat()
    if name == "frozen":
        file.parent.rmdir()
        file.parent.symlink_to(elsewhere.parent)
        secret = secret.rename(elsewhere.parent / "lock")
    else:
        (file.parent / name).symlink_to(secret)
    try:
        freeze_list.freeze_account(ANNA, "carl", "lost her phone", datetime.now(UTC), file)
    except OSError:
        assert os.geteuid() == 0
    after = secret.stat()
    assert (after.st_uid, after.st_mtime_ns, after.st_mode) == (before.st_uid, before.st_mtime_ns, before.st_mode)


def test_only_a_plain_file_is_read(tmp_path: Path) -> None:
    file, target = tmp_path / "accounts", tmp_path / "target"
    target.write_text("root:!:::secret::\n")
    for put in (lambda: file.symlink_to(target), lambda: file.hardlink_to(target), lambda: os.mkfifo(file)):
        put()
        with pytest.raises(OSError):
            freeze_list.read_freezes(file)
        file.unlink()
