"""With no byte and no inode free, accounts are frozen and thawed by hand, and the guard answers."""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from guard_samples import ANNA, BERT, FREEZE, NO_LIMITS, GuardProcess, ask_guard, build_request, wait_until

from mailkeep_server.common import mail_queue
from mailkeep_server.common.mail_queue import QueuedMessage
from mailkeep_server.freezes import enforce, freeze_list

CARL = "carl@example.org"
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture(params=["bytes", "inodes"])
def full_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A small file system, and a function that fills it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,nr_inodes=60", "tmpfs", disk], check=False).returncode:
        pytest.skip("needs the right to mount")

    def fill() -> None:
        with contextlib.suppress(OSError):
            if request.param == "bytes":
                with (disk / "filler").open("wb", buffering=0) as file:
                    while True:
                        file.write(b"x" * 512)
            for number in range(10_000):
                (disk / f"filler{number}").touch()

    yield disk, fill
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_accounts_are_frozen_and_thawed_by_hand(full_disk: tuple[Path, Callable[[], None]]) -> None:
    disk, fill = full_disk
    file = disk / "frozen" / "accounts"
    file.parent.mkdir()
    freeze_list.create_if_missing(file)
    for change in (
        lambda: freeze_list.freeze_account(ANNA, "root", "sends spam", NOW, file),
        lambda: freeze_list.freeze_account(BERT, "root", "sends spam", NOW, file),
        lambda: freeze_list.thaw_account(ANNA, file),
        lambda: freeze_list.freeze_account(CARL, "root", "sends spam", NOW, file),
    ):
        fill()  # what a change has freed is taken at once
        assert change()
        assert file.stat().st_mode & 0o777 == 0o640
    assert list(freeze_list.read_freezes(file)) == [BERT, CARL]
    assert file.read_text().endswith("::\n")


@pytest.mark.slow
def test_the_guard_freezes_and_answers_at_its_control_socket(full_disk: tuple[Path, Callable[[], None]]) -> None:
    disk, fill = full_disk
    guard = GuardProcess(disk / "guard", limits=NO_LIMITS | {"messages_per_hour": 1}, freeze=FREEZE)
    try:
        fill()
        freeze_list.freeze_account(BERT, "root", "sends spam", NOW, guard.state / "frozen" / "accounts")
        wait_until(lambda: BERT in guard.get_target("/status")["frozen"])
        assert "events" in guard.get_target("/events?after=0")
        with guard.open_connection() as client:
            assert ask_guard(client, build_request(account=BERT)).startswith("521")
    finally:
        guard.stop()


def test_no_sample_on_a_full_disk_is_no_failure(
    full_disk: tuple[Path, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages themselves are held."""
    disk, fill = full_disk
    monkeypatch.setattr(enforce, "SAMPLE_DIRECTORY", disk / "samples")
    monkeypatch.setattr(enforce, "cut_sessions", lambda _: 0)
    monkeypatch.setattr(mail_queue, "hold_messages", lambda _: None)
    message = QueuedMessage("A1", "active", ANNA, (BERT,), 100, 0)
    monkeypatch.setattr(enforce, "_queued_from", lambda *_: [message])
    monkeypatch.setattr(enforce, "_sent_by", lambda *_: iter([[message]]))

    @contextlib.contextmanager
    def open_message(*_: str) -> Iterator[object]:
        yield io.BytesIO(b"x" * 10_000)

    monkeypatch.setattr(enforce, "stream_output", open_message)
    fill()
    assert enforce.enforce_freeze(ANNA, [ANNA]) == enforce.Enforcement(1, 0, "", "")
