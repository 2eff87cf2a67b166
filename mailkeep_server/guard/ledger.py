"""The counts: messages sent, by account and in all, and violations. In memory, and in the database for restarts.

Callers commit the database before Postfix hears the answer.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NamedTuple, TypeVar

from mailkeep_server.common.sender_kinds import LOCAL, SCRIPT
from mailkeep_server.guard.account import Account
from mailkeep_server.guard.database import (
    NEW_NETWORK,
    NEW_RECIPIENT,
    RECEIPT,
    REDIRECT,
    SPAM,
    UNOWNED_SENDER,
    Database,
    Message,
    Violation,
)
from mailkeep_server.guard.sliding_window import DAY, MAX_CLOCK_STEP, SendHistory, Usage

MAX_OPEN_MESSAGES = 2000
"""Messages in transfer: one a connection."""
_RETRY_MILLISECONDS = 120_000
"""Postfix asks again within this time when it got no answer (smtpd_policy_service_timeout: 100 s by default)."""
V = TypeVar("V")


class PendingMessage(NamedTuple):
    """A message that counts and that Postfix may still refuse."""

    message: Message
    recipients: Collection[int] = ()
    """Hashes."""


class Ledger:
    """Restores the last day from the database. Raises sqlite3.Error, as all methods that change something do."""

    def __init__(self, database: Database, now: int) -> None:
        self._database = database
        self.accounts: dict[str, Account] = {}
        self.server, self.local, self.forwards = SendHistory(), SendHistory(), SendHistory()
        """Of all senders together, of programs on the server, and of mail of strangers that leaves again."""
        self.lists: dict[str, SendHistory] = {}
        """Of strangers to each list (`AliasReach.find_list`), and of bounces to each address."""
        self.notices = Account()
        """When a limit that concerns no single account was last reported."""
        self.on_uncounted: Callable[[Message], None] = lambda _: None
        """Called with each message that was counted and then dropped."""
        self._pending: OrderedDict[str, PendingMessage] = OrderedDict()
        """By queue id."""
        latest_time = database.latest_message_time()
        if latest_time > now + MAX_CLOCK_STEP:
            self._clamp_times_to(now, latest_time)
        self._restore(now)

    def _restore(self, now: int) -> None:
        for message in self._database.messages_since(now - DAY):
            self._restore_message(message)
            if message.time > now - _RETRY_MILLISECONDS:
                # Without its recipients, which stay new: Postfix refuses messages in transfer when the milter is gone.
                self._add_pending(PendingMessage(message))
        for violation in self._database.violations_since(now - DAY):
            self._restore_violation(violation)
        self.forget_expired(now)

    def _restore_message(self, message: Message) -> None:
        _, time, name, recipients, new_recipients, network, _ = message
        for history in (*self._histories_of(name, network), self.server):
            history.add_message(time, recipients, new_recipients)
        if is_account(name) and network != SCRIPT:
            self.get_account(name).networks[network] = time

    def _restore_violation(self, violation: Violation) -> None:
        time, name, kind, detail = violation
        account = self.get_account(name)
        if kind == NEW_RECIPIENT:
            with suppress(ValueError):  # a damaged row
                account.violations.new_recipients[int(detail)] = time
        elif kind == NEW_NETWORK:
            account.networks.setdefault(detail, -time)
        elif kind == UNOWNED_SENDER:
            account.violations.unowned_sender.append(time)
        elif kind == SPAM:
            account.violations.spam.append(time)
        elif kind in (RECEIPT, REDIRECT):
            account.violations.exceptions.setdefault(kind, []).append(time)
        else:
            account.violations.over_limit.append(time)

    def get_account(self, name: str) -> Account:
        account = self.accounts.get(name)
        if account is None:
            account = self.accounts[name] = Account()
        return account

    def _histories_of(self, name: str, network: str) -> tuple[SendHistory, ...]:
        if is_account(name):
            account = self.get_account(name)
            return (account.history, account.script_history, self.forwards) if network == SCRIPT else (account.history,)
        total = self.local if name == LOCAL else self.forwards
        return (total, self.lists.setdefault(network, SendHistory())) if network else (total,)

    # --- messages -----------------------------------------------------------------------------------------------------

    def count_message(
        self, now: int, name: str, usage: Usage, network: str, queue_id: str, recipients: Collection[int] = ()
    ) -> None:
        """`recipients` are hashes: once the message is accepted, the account knows them. Of a message without an
        account, `network` is the list; of a script's, SCRIPT."""
        _, recipient_count, new_recipients = usage
        time = self.server.add_message(now, recipient_count, new_recipients)  # never before the latest of all
        for history in self._histories_of(name, network):
            history.add_message(time, recipient_count, new_recipients)
        message = self._database.add_message(time, name, recipient_count, new_recipients, network, queue_id)
        self._add_pending(PendingMessage(message, recipients))

    def _add_pending(self, pending: PendingMessage) -> None:
        self._pending[pending.message.queue_id] = pending
        bound_size(self._pending)

    def pending_message(self, queue_id: str) -> Message | None:
        """An account's message that counts and that Postfix may still refuse."""
        pending = self._pending.get(queue_id)
        return pending.message if pending and is_account(pending.message.account) else None

    def message_accepted(self, queue_id: str) -> None:
        """Nothing in Postfix refuses the message any more. Only now are its recipients known to the account."""
        if pending := self._pending.pop(queue_id, None):
            message, recipients = pending
            for recipient in recipients:
                self._database.remember_recipient(message.time, message.account, recipient)

    def message_held(self, queue_id: str) -> None:
        """Postfix has accepted it, and put it on hold. It counts; its recipients stay unknown to the account."""
        self._pending.pop(queue_id, None)

    def message_dropped(self, queue_id: str) -> None:
        """Postfix refused the message after all, as when it could not be signed. Its retry must not count twice."""
        if pending := self._pending.pop(queue_id, None):
            message = pending.message
            for history in (*self._histories_of(message.account, message.network), self.server):
                history.uncount_message(message.time, message.recipients, message.new_recipients)
            self._database.uncount_message(message)
            self.on_uncounted(message)

    # --- violations ---------------------------------------------------------------------------------------------------

    def reset_violations(self, now: int, name: str) -> None:
        """After a thaw: the account is not frozen again for the same violations. Its messages still count."""
        self.get_account(name).reset_violations(now)
        self._database.reset_violations(name)

    # --- time ---------------------------------------------------------------------------------------------------------

    def correct_clock_step(self, now: int) -> None:
        """To be called regularly. Messages counted by a clock that was ahead would hold up mail until that time."""
        if self.server.latest_time > now + MAX_CLOCK_STEP:
            self._clamp_times_to(now, self.server.latest_time)

    def _clamp_times_to(self, now: int, latest_time: int) -> None:
        for account in (*self.accounts.values(), self.notices):
            account.clamp_times_to(now)
        for history in (self.server, self.local, self.forwards, *self.lists.values()):
            history.clamp_times_to(now)
        for queue_id, (message, recipients) in self._pending.items():
            self._pending[queue_id] = PendingMessage(message._replace(time=min(message.time, now)), recipients)
        self._database.clamp_times_to(now)
        minutes = (latest_time - now) // 60_000
        detail = f"The clock has gone back by {minutes} minutes; what was sent since counts from now on"
        self._database.add_event(now, "clock", "", detail)

    def forget_expired(self, now: int) -> None:
        """A sweep over 100,000 accounts takes a tenth of a second."""
        self.accounts = {name: account for name, account in self.accounts.items() if account.forget_expired(now)}
        self.lists = {name: history for name, history in self.lists.items() if history.forget_expired(now)}
        for history in (self.server, self.local, self.forwards):
            history.forget_expired(now)


def is_account(name: str) -> bool:
    return "@" in name


def bound_size(messages: OrderedDict[str, V]) -> None:
    """Forgets the oldest of more than MAX_OPEN_MESSAGES."""
    if len(messages) > MAX_OPEN_MESSAGES:
        messages.popitem(last=False)
