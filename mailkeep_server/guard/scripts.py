"""Decides about mail that the Sieve script of an account sends: redirected messages, and automatic answers.

Strangers set it off, so it counts in the account's limits, and takes at most half of each. Whatever strangers do, the
owner can send the other half. It freezes nobody, and makes no recipient a known one.
"""

from collections.abc import Callable, Collection

from mailkeep_server.common.addresses import hash_text
from mailkeep_server.common.sender_kinds import ANSWER, SCRIPT
from mailkeep_server.guard.config import GuardConfig
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.forwards import ForwardJudge
from mailkeep_server.guard.ledger import Ledger
from mailkeep_server.guard.sliding_window import DAY, Usage

NEW_REDIRECT, HELD_BACK = "new-redirect", "script"
"""Kinds of events."""
NO_MORE_ANSWERS = "550 5.7.1 No more automatic answers for now"
"""For good: the message that it answers would wait with it."""


class ScriptJudge:
    """`read_config` returns the configuration that holds now. `is_refused` says whether an account is gone or
    frozen; `say_later` words a refusal, from reason and time. All methods raise sqlite3.Error."""

    def __init__(
        self,
        read_config: Callable[[], GuardConfig],
        ledger: Ledger,
        database: Database,
        forwards: ForwardJudge,
        is_refused: Callable[[int, str], object],
        say_later: Callable[[str, int], str],
    ) -> None:
        self._read_config, self._ledger, self._database = read_config, ledger, database
        self._forwards, self._is_refused, self._say_later = forwards, is_refused, say_later

    def judge_message(self, now: int, name: str, kind: str, recipients: Collection[str], queue_id: str) -> str | None:
        """`kind` is FORWARD or ANSWER. The refusal; if None, it counts. Only those whom it leaves the server for do."""
        if self._is_refused(now, name):
            return f"450 4.7.1 {name} is frozen, or no account here"  # the script of a frozen account does not run
        reach = self._read_config().reach
        reached = set(filter(reach.is_elsewhere, reach.expand_all(recipients)))
        if not reached:
            return None
        usage = Usage(1, len(reached), 0)
        if refusal := self._find_refusal(now, name, usage):
            return NO_MORE_ANSWERS if kind == ANSWER else refusal
        if kind != ANSWER:
            self._note_new_redirects(now, name, reached)
        self._ledger.count_message(now, name, usage, SCRIPT, queue_id)
        return None

    def _find_refusal(self, now: int, name: str, usage: Usage) -> str | None:
        config, account = self._read_config(), self._ledger.get_account(name)
        exceeded = config.script_limits_of(name).find_exceeded(account.script_history, now, usage)
        exceeded = exceeded or config.limits_of(name).find_exceeded(account.history, now, usage)
        if not exceeded:
            return self._forwards.check_ceilings(now, usage.recipients)
        if account.should_notify(HELD_BACK, now, DAY):
            waits = "redirected mail waits in the queue, automatic answers are dropped"
            self._database.add_event(now, HELD_BACK, name, f"its rules are over {exceeded.limit}: {waits}")
        if config.mode == "learn":
            return None
        return self._say_later(f"The rules of {name} send {exceeded.limit}", exceeded.free_at)

    def _note_new_redirects(self, now: int, name: str, reached: Collection[str]) -> None:
        """It is what a thief sets first. Each address is told once; the database knows it for RECIPIENTS_KEPT."""
        for address in sorted(reached):
            redirect = hash_text(f"redirect {address}")
            if not self._database.knows_recipient(name, redirect):
                self._database.add_event(now, NEW_REDIRECT, name, address)
            self._database.remember_recipient(now, name, redirect)
