"""Which queued messages a command is about: those of one account, sender or remote, one message, or one reason."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mailkeep_server.common import mail_queue
from mailkeep_server.common.addresses import owner_address
from mailkeep_server.common.mail_queue import QueuedMessage

MAX_WITHOUT_SENDER = 500
"""Looked at for their login: the queue may be full of bounces, and an account sends few receipts."""


@dataclass(frozen=True)
class Selection:
    """All that is set must fit. `account` is the login that submitted the message."""

    account: str = ""
    addresses: frozenset[str] = frozenset()
    """All that the account may send from."""
    sender: str = ""
    remote: str = ""
    """The domain of a recipient."""
    reason: str = ""
    """A part of the reason for which a recipient waits."""
    messages: frozenset[str] = frozenset()
    """Queue IDs."""
    until: float = float("inf")
    """Seconds since the epoch: the message had arrived then."""

    @property
    def is_empty(self) -> bool:
        return not (self.account or self.sender or self.remote or self.reason or self.messages)

    def fits_message(self, message: QueuedMessage) -> bool:
        """Whether all but the login and the recipients fits."""
        if self.messages and message.queue_id not in self.messages:
            return False
        if self.sender and message.sender.lower() != self.sender:
            return False
        return message.arrived <= self.until and (not self.account or self._may_be_from_account(message.sender))

    def _may_be_from_account(self, sender: str) -> bool:
        return sender == mail_queue.NO_SENDER or owner_address(sender) in {self.account, *self.addresses}

    def count_fitting(self, message: QueuedMessage) -> int:
        """How many of its recipients fit."""
        if not self.remote and not self.reason:
            return len(message.recipients)
        pairs = zip(message.recipients, message.reasons, strict=True)
        return sum(self._fits_recipient(recipient, reason) for recipient, reason in pairs)

    def _fits_recipient(self, recipient: str, reason: str) -> bool:
        return (not self.remote or find_remote(recipient) == self.remote) and self.reason in reason.lower()


@dataclass(frozen=True)
class Chosen:
    messages: list[QueuedMessage]
    shared: int
    """Messages of which only some recipients fit: a change would concern the others, so they are left alone."""


def find_remote(recipient: str) -> str:
    return recipient.lower().rpartition("@")[2]


def iterate_messages(selection: Selection) -> Iterator[QueuedMessage]:
    """The messages with a recipient that fits, without keeping them: a queue may be longer than memory."""
    fitting = (message for message in _read_candidates(selection) if selection.count_fitting(message))
    return _sent_by(selection.account, fitting) if selection.account else fitting


def choose_messages(selection: Selection) -> Chosen:
    """The messages whose recipients all fit."""
    messages, shared = [], 0
    for message in iterate_messages(selection):
        if selection.count_fitting(message) == len(message.recipients):
            messages.append(message)
        else:
            shared += 1
    return Chosen(messages, shared)


def _read_candidates(selection: Selection) -> Iterator[QueuedMessage]:
    without_sender = 0
    for message in map(mail_queue.parse_message, mail_queue.read_rows()):
        if not selection.fits_message(message):
            continue
        if selection.account and message.sender == mail_queue.NO_SENDER:
            without_sender += 1
            if without_sender > MAX_WITHOUT_SENDER:
                continue
        yield message


def _sent_by(account: str, candidates: Iterable[QueuedMessage]) -> Iterator[QueuedMessage]:
    """Others who may send as the same address are left alone."""
    messages = list(candidates)
    for start in range(0, len(messages), mail_queue.BATCH):
        batch = messages[start : start + mail_queue.BATCH]
        logins = mail_queue.read_logins([message.queue_id for message in batch])
        yield from (message for message in batch if logins.get(message.queue_id) == account)
