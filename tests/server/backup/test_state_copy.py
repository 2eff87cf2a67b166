"""Copies of databases are of one moment, and no link leads a copy elsewhere."""

import sqlite3
from contextlib import closing
from pathlib import Path

from mailkeep_server.backup.state_copy import copy_state


def copy_directory(state: Path, stage: Path) -> Path:
    copy_state([str(state)], stage)
    return stage / state.relative_to("/")


def test_a_database_that_is_being_written_is_copied_with_all_that_is_committed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with closing(sqlite3.connect(state / "guard.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE counts (number INTEGER)")
        database.executemany("INSERT INTO counts VALUES (?)", [(number,) for number in range(1000)])
        database.commit()
        database.execute("INSERT INTO counts VALUES (-1)")  # not committed
        copy = copy_directory(state, tmp_path / "stage")
    assert sorted(path.name for path in copy.iterdir()) == ["guard.db"]
    with closing(sqlite3.connect(copy / "guard.db")) as database:
        assert database.execute("SELECT count(*), min(number) FROM counts").fetchone() == (1000, 0)


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
