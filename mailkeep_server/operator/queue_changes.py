"""Holds, releases, retries and deletes queued messages, and only those that were chosen.

Mail leaves while an operator decides, and Postfix may give a queue ID to a new message then (postsuper(1), BUGS). So a
message is put on hold before it is deleted: on hold, it keeps its ID. Then its sender, size and arrival must still be
those of the chosen one.
"""

from collections.abc import Collection
from dataclasses import dataclass

from mailkeep_server.common import mail_queue
from mailkeep_server.common.commands import run
from mailkeep_server.common.mail_queue import QueuedMessage
from mailkeep_server.operator.errors import CtlError

MAX_RETRIED = 1000
"""postqueue(1) takes one message a call."""
HOLD = "hold"


@dataclass(frozen=True)
class Change:
    changed: int
    left: int
    """Chosen messages that had left the queue before."""


def hold_messages(chosen: Collection[QueuedMessage]) -> Change:
    held = _hold_for_sure(chosen)
    return Change(len(held), len(chosen) - len(held))


def delete_messages(chosen: Collection[QueuedMessage]) -> Change:
    held = _hold_for_sure(chosen)
    mail_queue.delete_messages(held)
    return Change(len(held), len(chosen) - len(held))


def release_messages(chosen: Collection[QueuedMessage]) -> Change:
    """Messages on hold do not leave, so their IDs are still theirs."""
    held = [message for message in chosen if message.queue == HOLD]
    mail_queue.release_messages(held)
    return Change(len(held), 0)


def retry_messages(chosen: Collection[QueuedMessage]) -> Change:
    """Raises CtlError for too many."""
    waiting = [message for message in chosen if message.queue == "deferred"]
    if len(waiting) > MAX_RETRIED:
        raise CtlError(
            f"{len(waiting)} messages are too many to be tried one by one. `mailkeepctl queue retry --all` has Postfix "
            "try the whole queue."
        )
    mail_queue.retry_messages(waiting)
    return Change(len(waiting), 0)


def retry_all() -> None:
    run("postqueue", "-f")


def _hold_for_sure(chosen: Collection[QueuedMessage]) -> list[QueuedMessage]:
    """The chosen messages that are on hold now. What has a chosen ID and is another message goes on its way again."""
    moving = [message for message in chosen if message.queue != HOLD]
    mail_queue.hold_messages(moving)
    moved_ids, identities = {message.queue_id for message in moving}, {message.identity for message in chosen}
    held, others = [], []
    for message in map(mail_queue.parse_message, mail_queue.read_rows()):
        if message.queue != HOLD:
            continue
        if message.identity in identities:
            held.append(message)
        elif message.queue_id in moved_ids:
            others.append(message)
    mail_queue.release_messages(others)
    return held
