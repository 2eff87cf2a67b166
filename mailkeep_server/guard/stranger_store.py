"""The database's rows about first-time recipients, and about mail on hold. All methods raise sqlite3.Error."""

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from mailkeep_server.guard.database import STRANGERS_KEPT, Database
from mailkeep_server.guard.habits import Habits
from mailkeep_server.guard.outcomes import Fate, count_voice
from mailkeep_server.guard.sliding_window import DAY

SHOWN_EVENTS = 5
MAX_KEYS, MAX_SAME_MESSAGES, MAX_STRANGERS = 5, 100, 1000
"""That are looked at for one complaint."""
NOT_YET = ""
"""In place of a fate."""
OUTCOMES, UNUSUAL, RELEASED = "outcomes", "unusual", "released"
"""Causes of a hold."""


class Hold(NamedTuple):
    """A row of `holds`: why mail of an account is put on hold, or when that ended."""

    account: str
    time: int
    cause: str
    """OUTCOMES, UNUSUAL or RELEASED."""
    network: str
    """Where the first message came from, if that is the cause."""
    program: str
    """By which program (`habits.Source.program_text`)."""
    reasons: str


class HeldMessage(NamedTuple):
    """A row of `held`: a message that Postfix has on hold."""

    queue_id: str
    time: int
    account: str
    recipients: str
    """First-time recipients, as JSON."""
    is_released: int = 0
    """Whether its owner has released it: the watch is to send it."""

    def list_recipients(self) -> list[str]:
        recipients: list[str] = json.loads(self.recipients)
        return recipients


class Confirmation(NamedTuple):
    """A row of `confirmations`: what ends the hold of an account."""

    account: str
    time: int
    digest: str
    """Of the code."""
    shown: str
    """The address elsewhere that got the code, shortened."""


class FateCounts(NamedTuple):
    """Of an account's first-time recipients. `dead` and `refused` count voices (`count_voice`)."""

    recipients: int
    dead: int
    refused: int
    complained: int
    """Voices or messages, whichever are fewer: a message counts once, and so does a voice."""
    complaining_domains: int
    """As `complained`, by domain: somebody with many mailboxes at a large provider counts once."""


class SentMessage(NamedTuple):
    """A row of `message_ids`."""

    time: int
    account: str
    queue_id: str


class Stranger(NamedTuple):
    """A row of `strangers`: a first-time recipient of a message."""

    id: int
    fate: str
    voice: str


class StrangerStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    # --- first-time recipients ----------------------------------------------------------------------------------------

    def add_stranger(self, time: int, account: str, queue_id: str, recipient: str, key: int) -> None:
        """`key` is the recipient's hash."""
        statement = "INSERT INTO strangers (time, account, queue_id, recipient, fate, voice) VALUES (?, ?, ?, ?, ?, ?)"
        self._database.add_row(statement, (time, account, queue_id, key, NOT_YET, count_voice(recipient)))

    def set_fate(self, queue_id: str, key: int, fate: Fate) -> str:
        """The account whose first-time recipient it is; "" if it is nobody's, or has a fate already."""
        query = "SELECT id, account FROM strangers WHERE queue_id = ? AND recipient = ? AND fate = ?"
        if not (row := self._database.read(query, queue_id, key, NOT_YET).fetchone()):
            return ""
        self._database.change("UPDATE strangers SET fate = ? WHERE id = ?", str(fate), row[0])
        return str(row[1])

    def count_fates(self, now: int, account: str) -> FateCounts:
        """Since STRANGERS_KEPT, or since the account's mail was released."""
        hold = self.find_hold(account)
        since = max(now - STRANGERS_KEPT, hold.time if hold and hold.cause == RELEASED else 0)
        query = (
            "SELECT count(*), count(DISTINCT CASE WHEN fate = ? THEN voice END), "
            "count(DISTINCT CASE WHEN fate IN (?, ?) THEN voice END) FROM strangers WHERE account = ? AND time > ?"
        )
        fates = (str(Fate.DEAD), str(Fate.REFUSED), str(Fate.SLOWED))
        recipients, dead, refused = self._database.read(query, *fates, account, since).fetchone()
        return FateCounts(recipients, dead, refused, *self._count_complaints(account, since))

    def _count_complaints(self, account: str, since: int) -> tuple[int, int]:
        """Those of all voices, and of all domains."""
        query = (
            "SELECT count(DISTINCT queue_id), count(DISTINCT voice), "
            "count(DISTINCT substr(voice, 1, instr(voice || ' ', ' ') - 1)) "
            "FROM strangers WHERE account = ? AND time > ? AND fate = ?"
        )
        messages, voices, domains = self._database.read(query, account, since, str(Fate.COMPLAINED)).fetchone()
        return min(messages, voices), min(messages, domains)

    # --- complaints ---------------------------------------------------------------------------------------------------

    def list_message_keys(self) -> list[str]:
        """In hexadecimal digits. A database that was begun anew has its own, and those that it took over."""
        return [row[0] for row in self._database.read("SELECT key FROM message_keys ORDER BY key LIMIT ?", MAX_KEYS)]

    def add_message_id(self, time: int, account: str, queue_id: str, message: int) -> None:
        """`message` is the keyed hash of a Message-ID."""
        statement = "INSERT INTO message_ids (time, account, queue_id, message) VALUES (?, ?, ?, ?)"
        self._database.add_row(statement, (time, account, queue_id, message))

    def find_messages(self, message: int) -> list[SentMessage]:
        """With the keyed hash of this Message-ID, the newest first: a sender may give it to many messages."""
        query = "SELECT time, account, queue_id FROM message_ids WHERE message = ? ORDER BY id DESC LIMIT ?"
        return [SentMessage(*row) for row in self._database.read(query, message, MAX_SAME_MESSAGES)]

    def list_strangers(self, queue_id: str) -> list[Stranger]:
        query = "SELECT id, fate, voice FROM strangers WHERE queue_id = ? ORDER BY id LIMIT ?"
        return [Stranger(*row) for row in self._database.read(query, queue_id, MAX_STRANGERS)]

    def note_complaint(self, stranger: Stranger) -> None:
        self._database.change("UPDATE strangers SET fate = ? WHERE id = ?", str(Fate.COMPLAINED), stranger.id)

    # --- habits -------------------------------------------------------------------------------------------------------

    def note_births(self, now: int, accounts: Collection[str]) -> None:
        """From now on, an account that has never sent has an age.

        In a database that is older than this, those that never sent are as old as it is.
        """
        began, today = self._database.began_at // DAY, now // DAY
        is_first = not self._database.read("SELECT 1 FROM births LIMIT 1").fetchone()
        senders = {row[0] for row in self._database.read("SELECT DISTINCT account FROM networks")} if is_first else ()
        rows = ((name, began if is_first and began and name not in senders else today) for name in accounts)
        self._database.insert_rows("births", rows)

    def find_birth(self, now: int, account: str) -> int:
        """A day since the epoch."""
        row = self._database.read("SELECT day FROM births WHERE account = ?", account).fetchone()
        return int(row[0]) if row else now // DAY

    def load_habits(self, account: str) -> Habits:
        """Empty ones, if there are none or their row is damaged."""
        row = self._database.read("SELECT model FROM habits WHERE account = ?", account).fetchone()
        with suppress(ValueError, TypeError, KeyError):
            return Habits.from_json(row[0]) if row else Habits()
        return Habits()

    def save_habits(self, account: str, habits: Habits) -> None:
        self._database.add_row("INSERT OR REPLACE INTO habits VALUES (?, ?)", (account, habits.to_json()))

    def last_events(self, account: str) -> list[tuple[str, str]]:
        """Kind and detail, the latest first."""
        query = "SELECT kind, detail FROM events WHERE account = ? ORDER BY id DESC LIMIT ?"
        return self._database.read(query, account, SHOWN_EVENTS).fetchall()

    # --- mail on hold -------------------------------------------------------------------------------------------------

    def find_hold(self, account: str) -> Hold | None:
        row = self._database.read("SELECT * FROM holds WHERE account = ?", account).fetchone()
        return Hold(*row) if row else None

    def set_hold(self, hold: Hold) -> None:
        self._database.add_row("INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?, ?)", hold)

    def end_hold(self, now: int, account: str) -> bool:
        """Whether there was one. Its code is good no more."""
        self.remove_confirmation(account)
        hold = self.find_hold(account)
        if not hold or hold.cause == RELEASED:
            return False
        self.set_hold(Hold(account, now, RELEASED, "", "", ""))
        return True

    def add_held(self, time: int, account: str, queue_id: str, recipients: Collection[str]) -> None:
        row = HeldMessage(queue_id, time, account, json.dumps(sorted(recipients)))
        self._database.add_row("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?)", row)

    def list_held(self, account: str = "") -> Iterator[HeldMessage]:
        """Of one account, or of all."""
        where, values = ("WHERE account = ?", (account,)) if account else ("", ())
        rows = self._database.read(f"SELECT * FROM held {where} ORDER BY time", *values).fetchall()  # noqa: S608
        return map(HeldMessage._make, rows)

    def mark_released(self, messages: Iterable[HeldMessage]) -> None:
        for message in messages:
            self._database.change("UPDATE held SET is_released = 1 WHERE queue_id = ?", message.queue_id)

    def keep_held(self, account: str) -> None:
        """Of what the owner has released, what was not sent before a freeze goes back to the owner, too."""
        self._database.change("UPDATE held SET is_released = 0 WHERE account = ?", account)

    def set_confirmation(self, confirmation: Confirmation) -> None:
        """In place of another one of the account."""
        self._database.add_row("INSERT OR REPLACE INTO confirmations VALUES (?, ?, ?, ?)", confirmation)

    def remove_confirmation(self, account: str) -> None:
        self._database.change("DELETE FROM confirmations WHERE account = ?", account)

    def find_confirmation(self, digest: str) -> Confirmation | None:
        row = self._database.read("SELECT * FROM confirmations WHERE digest = ?", digest).fetchone()
        return Confirmation(*row) if row else None

    def count_held(self, account: str) -> int:
        return int(self._database.read("SELECT count(*) FROM held WHERE account = ?", account).fetchone()[0])

    def remove_held(self, queue_id: str) -> str:
        """The account whose message it was; "" if there is no such message."""
        row = self._database.read("SELECT account FROM held WHERE queue_id = ?", queue_id).fetchone()
        self._database.change("DELETE FROM held WHERE queue_id = ?", queue_id)
        return str(row[0]) if row else ""
