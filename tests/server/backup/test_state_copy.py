"""Copies of databases are of one moment, and no link leads a copy elsewhere."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from mailkeep_server.backup.state_copy import copy_state


def copy_directory(state: Path, stage: Path) -> Path:
    copy_state([str(state)], stage)
    return stage / state.relative_to("/")


@pytest.mark.parametrize("journal_mode", ["WAL", "DELETE"])
def test_a_database_that_is_being_written_is_copied_with_all_that_is_committed(
    tmp_path: Path, journal_mode: str
) -> None:
    """The guard's is locked by the guard alone."""
    state = tmp_path / "state"
    state.mkdir()
    with closing(sqlite3.connect(state / "guard.db")) as database:
        if journal_mode == "WAL":
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute(f"PRAGMA journal_mode={journal_mode}")
        database.execute("CREATE TABLE counts (number INTEGER)")
        database.executemany("INSERT INTO counts VALUES (?)", [(number,) for number in range(1000)])
        database.commit()
        database.execute("INSERT INTO counts VALUES (-1)")  # not committed
        copy = copy_directory(state, tmp_path / "stage")
    assert sorted(path.name for path in copy.iterdir()) == ["guard.db"]
    with closing(sqlite3.connect(copy / "guard.db")) as database:
        assert database.execute("SELECT count(*), min(number) FROM counts").fetchone() == (1000, 0)


class Writer(threading.Thread):
    """Moves amounts between two rows, in one transaction each, with a log that begins anew all the time."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self.stop = file, threading.Event()

    def run(self) -> None:
        with closing(sqlite3.connect(self.file)) as database:
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA wal_autocheckpoint=50")
            while not self.stop.is_set():
                with database:
                    database.execute("UPDATE amounts SET amount = amount - 1 WHERE id < 100")
                    database.execute("UPDATE amounts SET amount = amount + 1 WHERE id >= 100")
                self.stop.wait(0.002)


@pytest.mark.slow
def test_a_copy_is_of_one_moment(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with closing(sqlite3.connect(state / "guard.db")) as database:
        database.execute("CREATE TABLE amounts (id INTEGER PRIMARY KEY, amount INTEGER, filler TEXT)")
        database.executemany("INSERT INTO amounts VALUES (?, 0, ?)", [(id_, "x" * 900) for id_ in range(200)])
        database.commit()
    writer = Writer(state / "guard.db")
    writer.start()
    try:
        while not (state / "guard.db-wal").exists():
            writer.stop.wait(0.01)
        for _ in range(30):
            copy = copy_directory(state, tmp_path / "stage")
            with closing(sqlite3.connect(copy / "guard.db")) as database:
                assert database.execute("SELECT sum(amount) FROM amounts").fetchone() == (0,)
    finally:
        writer.stop.set()
        writer.join()


def test_files_keep_mode_and_content_and_links_are_left_out(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "samples").mkdir(parents=True)
    (state / "samples" / "first.eml").write_bytes(b"\x00mail")
    (state / "samples" / "first.eml").chmod(0o640)
    (tmp_path / "secret").write_text("secret")
    (state / "planted").symlink_to(tmp_path / "secret")
    copy = copy_directory(state, tmp_path / "stage")
    assert (copy / "samples/first.eml").read_bytes() == b"\x00mail"
    assert (copy / "samples/first.eml").stat().st_mode & 0o7777 == 0o640
    assert not (copy / "planted").exists()


def test_a_path_that_is_not_there_is_left_out_and_an_old_copy_goes(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "old").write_text("x")
    copy = copy_directory(state, tmp_path / "stage")
    (state / "old").unlink()
    copy_state([str(state), str(tmp_path / "missing")], tmp_path / "stage")
    assert [*copy.iterdir()] == []
