"""Which archive is this server's last, when several servers share a repository or a clock was wrong."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from mailkeep_server.backup.borg import BackupError
from mailkeep_server.backup.config import Target
from mailkeep_server.backup.restore import choose_archive
from mailkeep_server.common.backup_archives import Archive, find_clock_fault, find_host, name_archive

HOST = "mail.example.org"
DAY = timedelta(days=1)


def make_archive(age: timedelta, host: str = HOST) -> Archive:
    time = datetime.now(UTC) - age
    return Archive(name_archive(host, time), time)


@dataclass
class Repository:
    """Lists its archives by their dates, as borg does."""

    archives: list[Archive]
    target = Target("disk", "/srv/backup/mail")

    def list_archives(self) -> list[Archive]:
        return sorted(self.archives, key=lambda archive: archive.time)


def choose(archives: list[Archive], name: str = "") -> Archive:
    return choose_archive(Repository(archives), HOST, name)  # type: ignore[arg-type]


def test_the_newest_archive_is_taken_unless_another_is_named() -> None:
    old, new = make_archive(2 * DAY), make_archive(DAY)
    assert choose([old, new]) == new
    assert choose([old, new], old.name) == old


@pytest.mark.parametrize("other", ["mail.example.organ", "mail.example.org-two.example.net", "example.org"])
def test_no_archive_of_another_server_is_taken(other: str) -> None:
    """Even where one name begins with the other."""
    mine, foreign = make_archive(DAY), make_archive(timedelta(), other)
    assert choose([mine, foreign]) == mine
    with pytest.raises(BackupError, match=rf"{foreign.name} is of another server, {other}\. This one is {HOST}"):
        choose([mine, foreign], foreign.name)
    with pytest.raises(BackupError, match=f"it has no archive of {HOST}, but of {other}"):
        choose([foreign])


@pytest.mark.parametrize("suffix", [".checkpoint", ".checkpoint.1", "-copy"])
def test_a_broken_off_archive_is_none(suffix: str) -> None:
    assert find_host(f"{HOST}-20261129T030000Z{suffix}") == ""


def test_a_server_may_be_called_checkpoint() -> None:
    assert find_host("mail.checkpoint.example-20261129T030000Z") == "mail.checkpoint.example"


def test_an_archive_dated_later_than_now_is_taken_only_by_its_name() -> None:
    """It may be older than others: the clock was wrong. Or the machine's clock is wrong now."""
    good, future = make_archive(DAY), make_archive(-30 * DAY)
    with pytest.raises(BackupError, match=rf"{future.name} is dated later than now.*before now is {good.name}"):
        choose([good, future])
    assert choose([good, future], future.name) == future
    assert choose([good, future], good.name) == good


def test_nothing_is_deleted_by_dates_that_are_wrong() -> None:
    """borg keeps what has the latest dates: archives of a wrong clock would stay, and the good ones go."""
    week = [make_archive(age * DAY) for age in range(7, 0, -1)]
    names = {archive.name for archive in week}
    assert find_clock_fault(week, names) == ""
    assert find_clock_fault(week, ()) == ""
    new = make_archive(timedelta())
    assert find_clock_fault([*week, new], names) == ""
    future, past = make_archive(-DAY), make_archive(3 * DAY + DAY / 2)
    assert f"{future.name} is dated later than now" in find_clock_fault([*week, future], names)
    ordered = sorted([*week, past], key=lambda archive: archive.time)
    assert f"later than {past.name}, which was made after it" in find_clock_fault(ordered, names)
