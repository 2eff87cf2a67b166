"""Alerts leave when Postfix's queue has no byte and no inode left: room was kept for them."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mailkeep_server.watch import channels, mail_reserve
from mailkeep_server.watch.alert_queue import Notification
from mailkeep_server.watch.channels import NotSentError
from mailkeep_server.watch.config import WatchConfig
from mailkeep_server.watch.mail_reserve import FILE_BYTES, FILES, FILES_PER_ALERT, MailReserveSensor, give_up_room

FREE = {"f_files": 1000, "f_favail": 900, "f_bavail": 1 << 20, "f_frsize": 4096}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What statvfs(3) says of the queue's disk."""
    numbers = dict(FREE)
    monkeypatch.setattr(mail_reserve, "SPOOL", tmp_path)
    monkeypatch.setattr(mail_reserve, "os", SimpleNamespace(statvfs=lambda _: SimpleNamespace(**numbers)))
    return numbers


def count_kept(spool: Path) -> int:
    files = [*(spool / mail_reserve.DIRECTORY).glob("*")]
    assert all(os.stat(file).st_size >= FILE_BYTES for file in files)  # noqa: PTH116 - the module's os is another
    return len(files)


@pytest.mark.usefixtures("disk")
def test_room_is_kept_while_there_is_some(tmp_path: Path) -> None:
    assert MailReserveSensor().find_troubles() == {}
    assert count_kept(tmp_path) == FILES
    assert (tmp_path / mail_reserve.DIRECTORY).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("lack", [{"f_bavail": 0}, {"f_favail": 0}])
def test_room_is_given_up_for_one_alert_at_a_time(disk: dict[str, int], tmp_path: Path, lack: dict[str, int]) -> None:
    MailReserveSensor().find_troubles()
    assert not give_up_room(), "something else stops the alert"
    disk.update(lack)
    assert give_up_room()
    assert count_kept(tmp_path) == FILES - FILES_PER_ALERT
    MailReserveSensor().find_troubles()
    assert count_kept(tmp_path) == FILES - FILES_PER_ALERT, "what it takes now would be taken from the alert"
    assert [give_up_room() for _ in range(FILES // FILES_PER_ALERT)] == [True, True, True, False]
    disk.update(FREE)
    MailReserveSensor().find_troubles()
    assert count_kept(tmp_path) == FILES


def test_an_alert_that_finds_no_room_is_sent_again_with_it(
    disk: dict[str, int], config: WatchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    MailReserveSensor().find_troubles()
    disk.update(f_bavail=0)
    tries: list[str] = []

    def send(path: str, *_: Any) -> str:
        tries.append(path)
        if len(tries) < 3:
            raise NotSentError("Postfix: 452 4.3.1 Insufficient system storage")
        return "sent"

    monkeypatch.setattr(channels, "_send_by", send)
    assert channels.send_mail(Notification(1, 0.0, "subject", "text", urgent=False), config) == "sent"
    assert tries == [config.smtp_socket, config.unsigned_smtp_socket, config.unsigned_smtp_socket]
