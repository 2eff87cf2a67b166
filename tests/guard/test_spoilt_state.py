"""State that is spoilt is set aside and told; mail goes on within five seconds, and who is frozen stays frozen."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guard_samples import ANNA, BERT, NO_LIMITS, SupervisedGuard, ask_guard, build_request, wait_until

from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard import daemon
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.policy import DUNNO

CARL, DORA = "carl@example.org", "dora@example.org"
MAX_SILENCE = 5.0
"""Seconds in which nobody can send."""
SENT_BEFORE = 4
LIMIT = 20
"""Messages an hour."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as systemd has it"),
]


@pytest.fixture
def guard() -> Iterator[SupervisedGuard]:
    """A guard of another user's, as systemd runs it: root mends its state before each start. Bert is frozen, and Anna
    has sent four messages. Not below pytest's directory, which only the user who runs it may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        accounts = {account: {"addresses": []} for account in (ANNA, BERT, CARL, DORA)}
        process = SupervisedGuard(
            Path(name) / "guard", accounts=accounts, limits=NO_LIMITS | {"messages_per_hour": LIMIT}
        )
        try:
            process.write_list(f"{BERT}:!:::20251125T120000Z carl lost his phone::\n")
            wait_until(lambda: process.list_events("frozen"))
            with process.open_connection() as client:
                assert [ask_guard(client, build_request()) for _ in range(SENT_BEFORE)] == [DUNNO] * SENT_BEFORE
            yield process
        finally:
            process.stop()


class SilenceClock:
    """Asks for Dora again and again, as Postfix would, and measures the longest time without a good answer."""

    def __init__(self, guard: SupervisedGuard) -> None:
        self.guard, self.longest, self._end = guard, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._measure)

    def __enter__(self) -> SilenceClock:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _measure(self) -> None:
        last_answer = time.monotonic()
        while not self._end.is_set():
            if self._is_answered():
                last_answer = time.monotonic()
            self.longest = max(self.longest, time.monotonic() - last_answer)
            time.sleep(0.02)

    def _is_answered(self) -> bool:
        request = build_request("RCPT", account=DORA, recipient="friend@example.net", recipient_count=0)
        with contextlib.suppress(OSError), self.guard.open_connection(timeout=6) as client:
            return ask_guard(client, request) == DUNNO
        return False


def flip_bytes(file: Path, offset: int, length: int = 4) -> None:
    with file.open("r+b") as stream:
        stream.seek(offset)
        old = stream.read(length)
        stream.seek(offset)
        stream.write(bytes(byte ^ 0xFF for byte in old))


def page_of(database: Path, table: str) -> int:
    """The offset of the table's root page."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    return (page - 1) * 4096


def zero_page(database: Path) -> None:
    with database.open("r+b") as stream:
        stream.seek(page_of(database, "sent"))
        stream.write(bytes(4096))


def replace_by_link(path: Path) -> None:
    target = path.with_name(f"{path.name}.elsewhere")
    path.rename(target)
    path.symlink_to(target)


def replace_by_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "file").write_text("somebody's")


def give_to_root(path: Path, mode: int = 0o600) -> None:
    path.touch()
    os.chown(path, 0, 0)
    path.chmod(mode)


def give_all_to_root(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        os.chown(path, 0, 0)


def drop_column(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.executescript("DROP TABLE sent; CREATE TABLE sent (id INTEGER PRIMARY KEY, time INTEGER)")


Damage = Callable[[Path], object]
"""Takes the state directory."""
DB, FROZEN, LIST, LOCK = "guard.db", "frozen", "frozen/accounts", "frozen/lock"

# By kind: the damage, what is told of it, and how many of Anna's messages still count.
OF_A_STOPPED_GUARD: dict[str, tuple[Damage, str, int]] = {
    "database cut in half": (lambda state: os.truncate(state / DB, 10_000), "could not be read", -1),
    "database cut to nothing": (lambda state: os.truncate(state / DB, 0), "it is empty", 0),
    "database removed": (lambda state: (state / DB).unlink(), "it is missing", 0),
    "four bytes of its header flipped": (lambda state: flip_bytes(state / DB, 0), "could not be read", 0),
    "four bytes of a page flipped": (
        lambda state: flip_bytes(state / DB, page_of(state / DB, "sent")),
        "could not be read",
        0,
    ),
    "a page zeroed": (lambda state: zero_page(state / DB), "could not be read", 0),
    "database of noise": (lambda state: (state / DB).write_bytes(os.urandom(50_000)), "could not be read", 0),
    "database of another program": (lambda state: drop_column(state / DB), "could not be read", 0),
    "database a directory": (lambda state: replace_by_directory(state / DB), "guard.db was a directory", 0),
    "database a symbolic link": (lambda state: replace_by_link(state / DB), "guard.db was a symbolic link", 0),
    "database of root's": (lambda state: give_to_root(state / DB), "guard.db was 0:0 0600", SENT_BEFORE),
    "database without rights": (lambda state: (state / DB).chmod(0), "0000 (owner:group mode)", SENT_BEFORE),
    "WAL of root's": (lambda state: give_to_root(state / f"{DB}-wal"), "guard.db-wal was 0:0 0600", SENT_BEFORE),
    "WAL a directory": (lambda state: (state / f"{DB}-wal").mkdir(), "guard.db-wal was a directory", SENT_BEFORE),
    "all of it root's": (give_all_to_root, "guard.db was 0:0", SENT_BEFORE),
    "directory of the list root's": (lambda state: os.chown(state / FROZEN, 0, 0), "frozen was 0:0", SENT_BEFORE),
    "directory of the list a link": (
        lambda state: replace_by_link(state / FROZEN),
        "frozen was a symbolic link",
        SENT_BEFORE,
    ),
    "directory of the list removed": (lambda state: shutil.rmtree(state / FROZEN), "was missing", SENT_BEFORE),
}
OF_A_RUNNING_GUARD: dict[str, tuple[Damage, str]] = {
    "list with a Latin-1 byte": (
        lambda state: (state / LIST).write_bytes((state / LIST).read_bytes() + b"jos\xe9@example.org:!:::by hand::\n"),
        "line 2 of ",
    ),
    "list in UTF-16": (
        lambda state: (state / LIST).write_bytes((state / LIST).read_bytes() + f"{CARL}\n".encode("utf-16")),
        "line 2 of ",
    ),
    "list a symbolic link": (lambda state: replace_by_link(state / LIST), "could not be read"),
    "list a directory": (lambda state: replace_by_directory(state / LIST), "is a directory"),
    "list of root's": (lambda state: give_to_root(state / LIST), "accounts was 0:0 0600"),
    "list removed": (lambda state: (state / LIST).unlink(), "No such file"),
    "list of noise": (
        lambda state: (state / LIST).write_bytes((state / LIST).read_bytes() + os.urandom(300)),
        "names no account",
    ),
}
OF_BOTH: dict[str, tuple[Damage, str]] = {
    "lock of root's": (lambda state: give_to_root(state / LOCK), "lock was 0:0 0600"),
    "lock a directory": (lambda state: replace_by_directory(state / LOCK), "lock was a directory"),
    "a directory where the list is written": (lambda state: (state / f"{LIST}.new").mkdir(), ""),
    "list with a backup's name": (lambda state: (state / "backup").hardlink_to(state / LIST), ""),
}


def check_service(guard: SupervisedGuard, told: str) -> None:
    """Others send, Bert does not, a freeze by hand holds, and the damage is told."""
    with guard.open_connection() as client:
        assert ask_guard(client, build_request(account=DORA)) == DUNNO
        assert ask_guard(client, build_request(account=BERT)).startswith("521")
    assert freeze_list.freeze_account(CARL, "root", "by hand", freeze_list._UNKNOWN_TIME, guard.state / LIST)
    assert {BERT, CARL} <= {*freeze_list.read_freezes(guard.state / LIST)}
    assert (guard.state / LIST).stat().st_uid == guard.user
    assert (guard.state / LIST).stat().st_gid == guard.reader_group
    events = [detail for kind in ("state", "counts-lost") for _, detail in guard.list_events(kind)]
    assert not told or any(told in detail for detail in events), (events, guard.log.read_text())


@pytest.mark.parametrize("kind", OF_A_STOPPED_GUARD)
def test_what_was_spoilt_while_the_guard_was_down_costs_seconds(guard: SupervisedGuard, kind: str) -> None:
    damage, told, counted = OF_A_STOPPED_GUARD[kind]
    guard.pause()
    damage(guard.state)
    with SilenceClock(guard) as clock:
        guard.resume()
        wait_until(guard.is_answering, MAX_SILENCE)
        check_service(guard, told)
        assert counted in (-1, guard.usage_of(ANNA))
    assert clock.longest < MAX_SILENCE
    if "could not be read" in told:
        assert [*guard.state.glob("guard.db.spoilt-*")], "it is kept"
        assert guard.get_target("/status")["careful_until"]
    starts = guard.starts
    time.sleep(0.5)
    assert guard.starts == starts, "it does not start again and again"


@pytest.mark.parametrize("kind", {**OF_A_RUNNING_GUARD, **OF_BOTH})
def test_what_is_spoilt_while_the_guard_runs_costs_seconds(guard: SupervisedGuard, kind: str) -> None:
    damage, told = (OF_A_RUNNING_GUARD | OF_BOTH)[kind]
    with SilenceClock(guard) as clock:
        damage(guard.state)
        if kind in OF_A_RUNNING_GUARD:
            wait_until(lambda: is_told(guard, told), MAX_SILENCE)
            assert guard.usage_of(ANNA) == SENT_BEFORE
        else:  # nothing looks at these until a list is written
            check_service(guard, "")
            guard.kill()
            wait_until(guard.is_answering)
            freeze_list.thaw_account(CARL, guard.state / LIST)
        check_service(guard, told if kind in OF_A_RUNNING_GUARD else "")
    assert clock.longest < MAX_SILENCE
    assert guard.starts <= 2


def is_told(guard: SupervisedGuard, told: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return any(told in detail for _, detail in guard.list_events("state"))
    return False


@pytest.mark.parametrize(
    "line",
    [
        f" {CARL}:!:::by hand::",
        f"{CARL.upper()}:!:::by hand::",
        CARL,
        f"\t{CARL} sends spam",
        f"\ufeff{CARL}\r",
        f"{CARL}:",
    ],
)
def test_what_a_person_wrote_by_hand_freezes_and_dovecot_reads_it(guard: SupervisedGuard, line: str) -> None:
    """Dovecot compares the first field letter by letter."""
    guard.write_list(f"{line}\n")
    wait_until(lambda: (guard.state / LIST).read_text().startswith(f"{CARL}:!:::"), 3)
    with guard.open_connection() as client:
        assert ask_guard(client, build_request(account=CARL)).startswith("521")
        assert ask_guard(client, build_request(account=BERT)) == DUNNO, "who is not in it is thawed"
    assert not guard.list_events("state")


def test_a_database_that_is_spoilt_while_it_runs_is_left_for_another(guard: SupervisedGuard) -> None:
    """Seen when a message is counted: no restart of the machine is needed for it."""
    with contextlib.closing(socket.socket()), SilenceClock(guard) as clock:
        guard.pause()
        for table in ("recipients", "networks"):
            flip_bytes(guard.state / DB, page_of(guard.state / DB, table))
        guard.resume()
        wait_until(guard.is_answering)
        request = build_request("RCPT", account=CARL, recipient="friend@example.net", recipient_count=0)
        with contextlib.suppress(OSError), guard.open_connection() as client:
            ask_guard(client, request)
        wait_until(lambda: _has_lost_counts(guard), MAX_SILENCE)
        check_service(guard, "could not be read")
        assert guard.usage_of(ANNA) == SENT_BEFORE, "rows that could be read are taken over"
    assert clock.longest < MAX_SILENCE


@pytest.mark.parametrize(("code", "is_kept"), [(sqlite3.SQLITE_CANTOPEN, True), (sqlite3.SQLITE_CORRUPT, False)])
def test_only_an_error_of_the_database_itself_sets_it_aside(tmp_path: Path, code: int, is_kept: bool) -> None:
    database, end, error = Database(tmp_path / DB), daemon._End(), sqlite3.OperationalError("while it runs")
    error.sqlite_errorcode = code
    end.restart_for(error)
    assert end.close_state(database, tmp_path / DB) == 1, "systemd starts the guard again"
    assert is_kept == (not [*tmp_path.glob(f"{DB}.spoilt-*")])


def _has_lost_counts(guard: SupervisedGuard) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return bool(guard.list_events("counts-lost"))
    return False


def test_after_lost_counts_accounts_send_half_for_a_day(guard: SupervisedGuard) -> None:
    guard.pause()
    (guard.state / DB).write_bytes(b"noise" * 1000)
    guard.resume()
    wait_until(guard.is_answering)
    with guard.open_connection() as client:
        answers = [ask_guard(client, build_request())[:5] for _ in range(LIMIT)]
    assert answers.count("DUNNO") == LIMIT // 2
    config = guard.get_target("/config")
    assert config["limits.messages_per_hour"] == LIMIT, "verify compares it with what is declared"
    assert config["careful_until"] == guard.get_target("/status")["careful_until"] != ""
