"""Postfix's queue: reads it by postqueue(1) and postcat(1), and changes it by postsuper(1)."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailkeep_server.common.commands import run, stream_output

TIMEOUT = 120.0
"""Seconds for a command that goes through the whole queue."""
NO_SENDER = "MAILER-DAEMON"
"""As postqueue(1) shows the empty sender of bounces and receipts."""
BATCH = 100
"""Messages that one command looks into, or holds: the first are held before the rest of a long queue has been read."""
_LOGIN_ATTRIBUTE = "named_attribute: sasl_username="
_ENVELOPE = "*** ENVELOPE RECORDS "


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message in Postfix's queue (postqueue(1), -j)."""

    queue_id: str
    queue: str
    """`active`, `deferred`, `hold`, …"""
    sender: str
    recipients: tuple[str, ...]
    size: int
    """Bytes."""
    arrived: int
    """Seconds since the epoch."""
    reasons: tuple[str, ...] = ()
    """Why each of the recipients waits; empty before the first try."""

    @property
    def identity(self) -> tuple[str, str, int, int]:
        """Postfix gives a queue ID anew once its message has left. The rest tells the two messages apart."""
        return self.queue_id, self.sender, self.size, self.arrived


def read_rows() -> Iterator[Mapping[str, Any]]:
    """The queue, message by message, as postqueue(1) prints it. Raises as `stream_output` does."""
    with stream_output("postqueue", "-j", timeout=TIMEOUT) as lines:
        yield from map(json.loads, lines)


def parse_message(row: Mapping[str, Any]) -> QueuedMessage:
    recipients = row["recipients"]
    return QueuedMessage(
        queue_id=str(row["queue_id"]),
        queue=str(row["queue_name"]),
        sender=str(row["sender"]),
        recipients=tuple(str(recipient["address"]) for recipient in recipients),
        size=int(row["message_size"]),
        arrived=int(row["arrival_time"]),
        reasons=tuple(str(recipient.get("delay_reason", "")) for recipient in recipients),
    )


def read_logins(queue_ids: Sequence[str]) -> dict[str, str]:
    """By queue ID, the login that submitted the message, from its file; "" if nobody logged in. Those that have left
    the queue are missing."""
    logins: dict[str, str] = {}
    rest = list(queue_ids)
    while rest:
        batch = rest[:BATCH]
        looked_at = _read_batch(batch)
        logins |= looked_at
        # postcat ends at the first message that has left, which is the one after those that it printed.
        rest = rest[min(len(looked_at) + 1, len(batch)) :]
    return logins


def _read_batch(queue_ids: Sequence[str]) -> dict[str, str]:
    logins: dict[str, str] = {}
    queue_id = ""
    for line in run("postcat", "-eq", *queue_ids, check=False, timeout=TIMEOUT).splitlines():
        if line.startswith(_ENVELOPE):
            queue_id = line.split()[3].rpartition("/")[2]
            logins[queue_id] = ""
        elif line.startswith(_LOGIN_ATTRIBUTE) and queue_id and not logins[queue_id]:
            logins[queue_id] = line.removeprefix(_LOGIN_ATTRIBUTE).lower()
    return logins


def hold_messages(messages: Iterable[QueuedMessage]) -> None:
    _run_postsuper("-h", messages)


def release_messages(messages: Iterable[QueuedMessage]) -> None:
    """Postfix tries them within minutes (queue_run_delay)."""
    _run_postsuper("-H", messages)


def retry_messages(messages: Iterable[QueuedMessage]) -> None:
    """At once, a call each."""
    for message in messages:
        run("postqueue", "-i", message.queue_id, check=False, timeout=TIMEOUT)  # it fails for one that has left


def delete_messages(messages: Iterable[QueuedMessage]) -> None:
    _run_postsuper("-d", messages)


def _run_postsuper(option: str, messages: Iterable[QueuedMessage]) -> None:
    """The IDs go by standard input: the arguments of a command are bounded."""
    if ids := "".join(f"{message.queue_id}\n" for message in messages):
        run("postsuper", option, "-", stdin=ids, timeout=TIMEOUT)
