"""Decides about an account's mail to strangers: people whom it has never written to.

A thief writes to strangers. Much of a bought list does not exist, and others refuse it as spam. So the guard hears of
each first-time recipient what became of it. Beyond a share, further mail to strangers is accepted and put on hold, and
the operator is told. So it is if a message to strangers is unlike what the account sends (`habits`). Mail to all others
goes on.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, NamedTuple

from mailkeep_server.common.addresses import hash_text
from mailkeep_server.common.wording import count_noun
from mailkeep_server.guard.config import GuardConfig, HoldThresholds
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.freezer import Freezer
from mailkeep_server.guard.habits import Habits, Source
from mailkeep_server.guard.ledger import Ledger, bound_size
from mailkeep_server.guard.mail_program import describe_greeting
from mailkeep_server.guard.outcomes import Fate
from mailkeep_server.guard.policy import PolicyRequest
from mailkeep_server.guard.sliding_window import DAY, HOUR
from mailkeep_server.guard.stranger_store import (
    OUTCOMES,
    RELEASED,
    UNUSUAL,
    FateCounts,
    HeldMessage,
    Hold,
    StrangerStore,
)

HOLD, WOULD_HOLD, RELEASE, CONFIRMED, RETURNED = "hold", "would-hold", "release", "confirmed", "returned"
"""Kinds of events."""
HELD_FOR = DAY
"""Then a message on hold goes back to its owner."""
TRUST_AFTER_RELEASE = DAY
"""In which nothing is unusual for the account."""
MAX_HELD = 50
"""Messages of one account: more would fill the disk."""
_PER_CENT, _PER_MILLE = 100, 1000


class Verdict(NamedTuple):
    """Of a message that nothing else refuses. Both are empty if it may leave."""

    hold: str = ""
    """Why Postfix puts it on hold."""
    refusal: str = ""


class StrangerJudge:
    """`read_config` returns the configuration that holds now. All methods raise sqlite3.Error."""

    def __init__(
        self, read_config: Callable[[], GuardConfig], ledger: Ledger, database: Database, freezer: Freezer
    ) -> None:
        self._read_config, self._ledger, self._database, self._freezer = read_config, ledger, database, freezer
        self._store = StrangerStore(database)
        self._requests: OrderedDict[str, PolicyRequest] = OrderedDict()
        """By queue id, of messages that the milter has not judged yet."""

    # --- a message ----------------------------------------------------------------------------------------------------

    def note_request(self, request: PolicyRequest) -> None:
        """Of a message that nothing else refuses: Postfix tells no milter how the client greets, and the size."""
        self._requests[request.queue_id] = request
        bound_size(self._requests)

    def judge_message(self, now: int, name: str, recipients: Collection[str], queue_id: str, source: Source) -> Verdict:
        """Of a person's message, as the last thing before Postfix accepts it. `recipients` are as in its envelope."""
        size = 0
        if request := self._requests.pop(queue_id, None):
            source, size = replace(source, greeting=describe_greeting(request.greeting)), request.size
        strangers = self._find_strangers(name, recipients)
        habits = self._store.load_habits(name)
        if reason := self._find_reason(now, name, habits, source, len(strangers), size):
            if self._store.count_held(name) >= MAX_HELD:
                return Verdict(refusal=f"450 4.7.1 {name} has {MAX_HELD} messages on hold. Ask {self._contact}")
            self._ledger.message_held(queue_id)
            self._store.add_held(now, name, queue_id, strangers)
            return Verdict(f"mail to strangers is on hold: {reason}")
        for recipient, key in strangers.items():
            self._store.add_stranger(now, name, queue_id, recipient, key)
        habits.learn(now, self._store.find_birth(now, name), source, len(strangers), size)
        self._store.save_habits(name, habits)
        return Verdict()

    def _find_reason(self, now: int, name: str, habits: Habits, source: Source, strangers: int, size: int) -> str:
        """Why the message is to be held; "" if it may leave."""
        hold = self._store.find_hold(name)
        if hold and hold.cause != RELEASED:
            return hold.reasons if _is_held(now, hold, habits, source, strangers) else ""
        if not strangers or (hold and now < hold.time + TRUST_AFTER_RELEASE):
            return ""
        reasons = habits.find_reasons(now, self._store.find_birth(now, name), source, strangers, size)
        if sum(reason.points for reason in reasons) < self._read_config().hold_thresholds.strangeness:
            return ""
        text = "; ".join(reason.sentence for reason in sorted(reasons, reverse=True))
        hold = Hold(name, now, UNUSUAL, source.network, source.program_text, text)
        return text if self._begin_hold(now, hold) else ""

    def _find_strangers(self, name: str, recipients: Collection[str]) -> dict[str, int]:
        """Those elsewhere to whom the account writes for the first time, with their hashes."""
        reach = self._read_config().reach
        reached = {member: hash_text(member) for member in reach.expand_all(recipients) if reach.is_elsewhere(member)}
        known = self._database.find_known_recipients(name, [*reached.values()])
        return {member: key for member, key in reached.items() if key not in known}

    def _find_hold(self, name: str) -> str:
        hold = self._store.find_hold(name)
        return hold.reasons if hold and hold.cause != RELEASED else ""

    @property
    def _contact(self) -> str:
        return self._read_config().contact

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def note_outcome(self, now: int, queue_id: str, key: int, fate: Fate) -> None:
        """`key` is the recipient's hash. Each recipient's counts once, however often Postfix tries."""
        name = self._store.set_fate(queue_id, key, fate)
        if name and fate != Fate.SENT:
            self.judge_outcomes(now, name)

    def judge_outcomes(self, now: int, name: str) -> None:
        config, counts = self._read_config(), self._store.count_fates(now, name)
        reason = describe_fates(counts)
        if is_to_freeze(counts, config.hold_thresholds):
            self._freezer.freeze_for(now, name, self._ledger.get_account(name), config, reason)
        if is_to_hold(counts, config.hold_thresholds) and not self._find_hold(name):
            self._begin_hold(now, Hold(name, now, OUTCOMES, "", "", reason))

    def count_complaints(self, now: int, name: str) -> int:
        return self._store.count_fates(now, name).complained

    def _begin_hold(self, now: int, hold: Hold) -> bool:
        """False in mode `learn`."""
        is_learning = self._read_config().mode == "learn"
        if is_learning:
            if self._ledger.get_account(hold.account).should_notify(WOULD_HOLD, now, DAY):
                self._database.add_event(now, WOULD_HOLD, hold.account, hold.reasons)
            return False
        self._store.set_hold(hold)
        self._database.add_event(now, HOLD, hold.account, hold.reasons)
        return True

    # --- the operator -------------------------------------------------------------------------------------------------

    def release(self, now: int, name: str) -> list[str]:
        """Ends the hold. Whom the messages on hold are to, the account knows from now on, and what became of its mail
        before counts no more. Where they came from is usual for it. Returns the queue ids."""
        messages = [*self._store.list_held(name)]
        self._learn_released(now, self._store.find_hold(name), messages)
        for message in messages:
            self._store.remove_held(message.queue_id)
        if self._store.end_hold(now, name):
            self._database.add_event(now, RELEASE, name, f"{count_noun(len(messages), 'message')} on hold released")
        return [message.queue_id for message in messages]

    def confirm(self, now: int, name: str, shown: str) -> None:
        """As `release`, by the owner: what was on hold before a freeze stays so. The watch sends what is released.

        `shown` is where the owner has confirmed it.
        """
        if not (hold := self._store.find_hold(name)):
            return
        messages = [message for message in self._store.list_held(name) if message.time >= hold.time]
        self._learn_released(now, hold, messages)
        self._store.mark_released(messages)
        self._store.end_hold(now, name)
        detail = f"its owner confirmed it at {shown}, {count_noun(len(messages), 'message')} on hold released"
        self._database.add_event(now, CONFIRMED, name, detail)

    def _learn_released(self, now: int, hold: Hold | None, messages: list[HeldMessage]) -> None:
        if hold and hold.cause == UNUSUAL:
            self._learn_usual(now, hold, messages)
        for message in messages:
            for recipient in message.list_recipients():
                key = hash_text(recipient)
                self._database.remember_recipient(now, message.account, key)
                self._store.add_stranger(now + 1, message.account, message.queue_id, recipient, key)

    def _learn_usual(self, now: int, hold: Hold, messages: list[HeldMessage]) -> None:
        source = Source.from_text(hold.network, hold.program)
        habits = self._store.load_habits(hold.account)
        birth = self._store.find_birth(now, hold.account)
        for message in messages:
            habits.learn(now, birth, source, len(message.list_recipients()))
        habits.trust(now, source)
        self._store.save_habits(hold.account, habits)

    def list_held(self, now: int) -> list[dict[str, Any]]:
        """The messages on hold; `is_due` says which of them go back to their owners, `is_released` which are sent.

        Postfix has had enough time to put those that are `is_settled` on hold.
        """
        frozen = self._freezer.frozen_accounts(now)
        return [
            {
                "queue_id": message.queue_id,
                "account": message.account,
                "time": message.time / 1000,
                # Of a frozen account they are evidence.
                "is_due": message.time <= now - HELD_FOR and message.account not in frozen,
                "is_released": bool(message.is_released) and message.account not in frozen,
                "is_settled": message.time <= now - HOUR,
            }
            for message in self._store.list_held()
        ]

    def note_returned(self, now: int, queue_id: str, result: str) -> None:
        """The message is on hold no more. `result` says what became of it; it is empty if the operator knows."""
        name = self._store.remove_held(queue_id)
        if result and name and self._ledger.get_account(name).should_notify(RETURNED, now, DAY):
            self._database.add_event(now, RETURNED, name, f"message {queue_id} was on hold for a day: {result}")

    def explain(self, now: int, name: str) -> dict[str, Any]:
        """For `mailkeepctl why`."""
        hold = self._store.find_hold(name)
        return {
            "hold": hold._asdict() | {"time": hold.time / 1000} if hold else None,
            "held": self._store.count_held(name),
            "outcomes": describe_fates(self._store.count_fates(now, name)),
            "usual": self._store.load_habits(name).describe(now // DAY),
            "events": [f"{kind}: {detail}" for kind, detail in self._store.last_events(name)],
        }


def _is_held(now: int, hold: Hold, habits: Habits, source: Source, strangers: int) -> bool:
    """While mail is held: that to strangers, unless it is from where the account usually sends; and all mail from the
    source that began it."""
    if hold.cause == OUTCOMES:
        return bool(strangers)
    began = Source.from_text(hold.network, hold.program)
    if (source.network, source.program) == (began.network, began.program):
        return bool(strangers) or not habits.is_usual(now, source)
    return bool(strangers) and not habits.is_nearly_usual(now, source)


def describe_fates(counts: FateCounts) -> str:
    return (
        f"of {count_noun(counts.recipients, 'first-time recipient')} in a week, {counts.dead} do not exist, "
        f"{counts.refused} name spam or too much mail, and {counts.complained} complain"
    )


def is_to_hold(counts: FateCounts, thresholds: HoldThresholds) -> bool:
    return (
        _is_many(counts, counts.dead, thresholds.dead, thresholds.share, _PER_CENT)
        or _is_many(counts, counts.refused, thresholds.refused, thresholds.share, _PER_CENT)
        or _is_many(counts, counts.complained, thresholds.complaints, thresholds.complaint_share, _PER_MILLE)
    )


def is_to_freeze(counts: FateCounts, thresholds: HoldThresholds) -> bool:
    complaints = thresholds.freeze_complaints, thresholds.freeze_complaint_share
    return (
        _is_many(counts, counts.dead, thresholds.freeze_dead, thresholds.freeze_share, _PER_CENT)
        or _is_many(counts, counts.refused, thresholds.freeze_refused, thresholds.freeze_share, _PER_CENT)
        or _is_many(counts, counts.complaining_domains, *complaints, _PER_MILLE)
    )


def _is_many(counts: FateCounts, number: int, minimum: int, share: int, whole: int) -> bool:
    """Whether it is the minimum, and so many of a hundred or a thousand recipients, too."""
    return number >= minimum and number * whole >= share * counts.recipients
