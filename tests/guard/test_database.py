# ruff: noqa: S608
"""What has expired is forgotten, in steps that are too short for anybody to wait."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from guard_samples import ANNA, BERT, NOON

from mailkeep_server.guard import database as database_module
from mailkeep_server.guard.database import RECIPIENTS_KEPT, Database
from mailkeep_server.guard.schema import TABLES
from mailkeep_server.guard.sliding_window import DAY

NOW = 1_800_000_000_000
OLD = NOW - RECIPIENTS_KEPT - 1
EXPIRING = TABLES.keys() - {"births", "habits", "holds", "held", "confirmations", "message_keys"}
"""The others have a row for an account, or end otherwise."""


def count_rows(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as reader:
        return {table: reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in EXPIRING}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with 50 expired and 50 lasting rows in each table."""
    path = tmp_path / "guard.db"
    Database(path).close()
    with closing(sqlite3.connect(path)) as writer, writer:
        for number in range(100):
            account, is_old = f"user{number % 7}@example.org", number < 50
            at, seen = (NOW - DAY - 1, OLD) if is_old else (NOW - 1, NOW)
            writer.execute("INSERT INTO sent VALUES (?, ?, ?, 1, 0, '', '')", (number + 1, at, account))
            writer.execute("INSERT INTO tries VALUES (?, ?, ?, 'refused', '')", (number + 1, at, account))
            writer.execute(
                "INSERT INTO events VALUES (?, ?, 'over', ?, '')", (number + 1, OLD if is_old else at, account)
            )
            key = number * 37 % 101  # the order of the keys is not that of the times
            writer.execute("INSERT INTO recipients VALUES (?, ?, ?)", (account, key - 50, seen))
            writer.execute(
                "INSERT INTO strangers VALUES (?, ?, ?, 'Q', 1, '', '')", (number + 1, OLD if is_old else at, account)
            )
            writer.execute(
                "INSERT INTO message_ids VALUES (?, ?, ?, 'Q', 1)", (number + 1, OLD if is_old else at, account)
            )
            writer.execute("INSERT INTO received VALUES (?, ?, ?, 1, 0, 0)", (number + 1, at, account))
            writer.execute("INSERT INTO senders VALUES (?, ?, ?)", (account, key - 50, seen))
            writer.execute("INSERT INTO networks VALUES (?, ?, ?)", (account, f"192.0.2.{key}/32", seen))
    return path


def test_what_was_counted_moves_to_a_renamed_account(tmp_path: Path) -> None:
    database = Database(tmp_path / "guard.db")
    for account, recipient, network in (
        (ANNA, 1, "192.0.2.0/24"),
        (BERT, 1, "192.0.2.0/24"),
        (BERT, 2, "198.51.100.0/24"),
    ):
        database.add_message(NOON, account, 1, 1, network, "Q")
        database.remember_recipient(NOON, account, recipient)
        database.remember_network(NOON, account, network)
        database.add_violation(NOON, account, "refused", "x")
        database.remember_sender(NOON, account, recipient)
    database.rename_account(BERT, ANNA)
    assert [message.account for message in database.messages_since(0)] == [ANNA] * 3
    assert {violation.account for violation in database.violations_since(0)} == {ANNA}
    assert database.knows_recipient(ANNA, 2)
    assert not database.knows_recipient(BERT, 1)
    assert database.sender_time(ANNA, 2) == NOON
    assert not database.knows_senders(BERT)
    assert database.networks_of(ANNA) == {"192.0.2.0/24", "198.51.100.0/24"}
    database.close()


def test_what_has_expired_is_forgotten_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "ROWS_A_STEP", 10)
    database = Database(path)
    steps = sum(1 for _ in database.forget_expired(NOW))
    database.close()
    assert count_rows(path) == dict.fromkeys(EXPIRING, 50)
    with closing(sqlite3.connect(path)) as reader:
        oldest = [reader.execute(f"SELECT min(time) FROM {table}").fetchone()[0] for table in EXPIRING]
    assert min(oldest) == NOW - 1
    assert steps == 1 + 3 * 10


def test_a_step_reads_a_bounded_number_of_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "ROWS_A_STEP", 10)
    database = Database(path)
    steps = database.forget_expired(NOW)
    next(steps)
    before = database._db.total_changes
    for _ in steps:
        assert database._db.total_changes - before <= 11
        before = database._db.total_changes
    database.close()


def test_all_is_forgotten_after_a_long_time(path: Path) -> None:
    database = Database(path)
    list(database.forget_expired(NOW + 2 * RECIPIENTS_KEPT))
    database.close()
    assert count_rows(path) == dict.fromkeys(EXPIRING, 0)
