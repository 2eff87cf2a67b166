"""A database and a freeze list that version 0.1.0 wrote are read as they are, and go on from there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from guard_samples import ANNA, BERT, NO_FREEZE, NO_LIMITS, NOON, JudgeSetup

from mailkeep_server.common.addresses import hash_text

# Schema and rows as version 0.1.0 (commit b7a50b5) wrote them. They must not follow the names in today's code.
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE sent (
    id INTEGER PRIMARY KEY, time INTEGER NOT NULL, account TEXT NOT NULL, recipients INTEGER NOT NULL,
    new INTEGER NOT NULL, network TEXT NOT NULL, queue_id TEXT NOT NULL
);
CREATE TABLE tries (
    id INTEGER PRIMARY KEY, time INTEGER NOT NULL, account TEXT NOT NULL, kind TEXT NOT NULL, what TEXT NOT NULL
);
CREATE TABLE recipients (
    account TEXT NOT NULL, recipient INTEGER NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (account, recipient)
) WITHOUT ROWID;
CREATE TABLE networks (
    account TEXT NOT NULL, network TEXT NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (account, network)
) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, kind TEXT NOT NULL, account TEXT NOT NULL,
    detail TEXT NOT NULL
);
"""
EARLIER = NOON - 300_000
ROWS = {
    "sent": [
        (1, EARLIER, ANNA, 4, 2, "192.0.2.0/24", "Q1"),
        (2, EARLIER, BERT, 1, 1, "192.0.2.0/24", "Q2"),
        (3, EARLIER, "local", 5, 0, "", "Q3"),
    ],
    "tries": [
        (1, EARLIER, BERT, "refused", "may send 1 messages in an hour"),
        (2, EARLIER, BERT, "foreign", "boss@example.org in the From: line"),
        (3, EARLIER, BERT, "network", "203.0.113.0/24"),
        (4, EARLIER, BERT, "new", "-8832602733994217650"),
    ],
    "recipients": [(ANNA, 8208613210583301227, EARLIER)],
    "networks": [(ANNA, "192.0.2.0/24", EARLIER), (BERT, "192.0.2.0/24", EARLIER)],
    "events": [
        (6, EARLIER, "spoof", BERT, "tried to send as boss@example.org in the From: line"),
        (7, EARLIER, "frozen", ANNA, "by guard: 5 messages over its limits in 10 minutes"),
    ],
}
FREEZE_LIST = f"{ANNA}:!:::20251125T115500Z guard 5 messages over its limits in 10 minutes::\n"


@pytest.fixture
def former_setup(tmp_path: Path, new_setup: Callable[..., JudgeSetup]) -> Callable[..., JudgeSetup]:
    """A judge that starts with the former state; arguments are changes of `build_config()`."""
    database = sqlite3.connect(tmp_path / "guard.db")
    database.executescript(SCHEMA)
    for table, rows in ROWS.items():
        database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)  # noqa: S608
    database.commit()
    database.close()
    (tmp_path / "frozen").mkdir()
    (tmp_path / "frozen" / "accounts").write_text(FREEZE_LIST)
    return new_setup


def test_messages_of_all_senders_count_on(former_setup: Callable[..., JudgeSetup]) -> None:
    setup = former_setup(limits=NO_LIMITS | {"messages_per_hour": 2})
    ledger = setup.judge.ledger
    assert (setup.usage_of(ANNA), setup.usage_of(BERT)) == ((1, 4, 2), (1, 1, 1))
    assert ledger.local.usage_within(setup.now, 600_000) == (1, 5, 0)
    assert ledger.server.usage_within(setup.now, 600_000) == (3, 10, 3)
    assert [setup.send_message(BERT)[:3] for _ in range(2)] == ["DUN", "450"]


def test_known_recipients_and_networks_stay_known(former_setup: Callable[..., JudgeSetup]) -> None:
    setup = former_setup()
    known = hash_text("r1@example.net")
    assert known == 8208613210583301227
    assert setup.database.knows_recipient(ANNA, known)
    assert not setup.database.knows_recipient(BERT, known)
    assert setup.database.networks_of(BERT) == {"192.0.2.0/24"}


@pytest.mark.parametrize(
    ("threshold", "violate"),
    [
        ("refused_tries", lambda setup: setup.ask_recipient("r@example.net", BERT)),
        ("foreign_senders", lambda setup: setup.judge.reject_unowned_sender(setup.now, BERT, "boss@example.org")),
        ("networks", lambda setup: setup.ask_recipient("r@example.net", BERT, client="198.51.100.1")),
        ("new_recipients", lambda setup: setup.ask_recipient("r@example.net", BERT)),
    ],
)
def test_each_kind_of_violation_counts_on(
    former_setup: Callable[..., JudgeSetup], threshold: str, violate: Callable[[JudgeSetup], str]
) -> None:
    """The threshold is 2: the former violation, and a single new one."""
    tight = {"messages_per_hour": 1, "networks_per_hour": 1, "new_recipients_per_day": 1}
    setup = former_setup(limits=NO_LIMITS | tight, freeze=NO_FREEZE | {threshold: 2})
    assert BERT not in setup.freeze_reasons()
    violate(setup)
    assert setup.freeze_reasons()[BERT].startswith("2 ")


def test_a_freeze_holds_and_its_thaw_is_noted(former_setup: Callable[..., JudgeSetup]) -> None:
    setup = former_setup()
    assert setup.freeze_reasons() == {ANNA: "5 messages over its limits in 10 minutes"}
    assert setup.send_message(ANNA).startswith("521 5.7.1 anna@example.org is frozen since 2025-11-25 11:55 UTC.")
    assert [event.id for event in setup.database.events_after(0)] == [6, 7]
    setup.frozen_file.write_text("")
    setup.restart()
    assert setup.list_events("thawed") == [(ANNA, "may send and log in again")]
    assert setup.database.last_event_id() == 8
