"""The part of a freeze that needs root: cut sessions; hold, show, release and delete an account's queued mail."""

import errno
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mailkeep_server.common import paths
from mailkeep_server.common.addresses import owner_address
from mailkeep_server.common.commands import run, stream_output
from mailkeep_server.common.wording import describe_error

SAMPLE_DIRECTORY = Path(paths.FREEZE_SAMPLES)
MAX_SAMPLE_MESSAGES = 20
"""Kept of each frozen account."""
MAX_SAMPLE_BYTES = 65_536
"""Of each of these messages."""
HOLD_BATCH = 100
"""Messages put on hold by one command: the first are held before the rest of a long queue has been read."""
QUEUE_TIMEOUT = 120.0
"""Seconds for a command that goes through the whole queue."""
_NO_SENDER = "MAILER-DAEMON"
"""As postqueue(1) shows the empty sender of bounces and receipts."""
MAX_WITHOUT_SENDER = 500
"""Looked at for their login: the queue may be full of bounces, and an account sends few receipts."""
_LOGIN_ATTRIBUTE = "named_attribute: sasl_username="


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


@dataclass(frozen=True, slots=True)
class Enforcement:
    """The result of enforcing a freeze, this time."""

    messages_held: int
    sessions_cut: int
    sample: str
    """The directory, or empty."""
    error: str


def enforce_freeze(account: str, addresses: Iterable[str]) -> Enforcement:
    """Puts the account's queued mail on hold, cuts its sessions and keeps a sample. Safe to repeat.

    Mail is held first, since it must not leave while a sample is taken. Each step is done even if another fails.
    `addresses`: all that the account may send from.
    """
    held: list[QueuedMessage] = []
    sessions_cut, sample, errors = 0, "", list[str]()
    with _collect_error(errors):
        queued = [message for message in _queued_from(account, addresses) if message.queue != "hold"]
        for batch in _sent_by(account, queued):
            hold_messages(batch)
            held += batch
    with _collect_error(errors):
        sessions_cut = cut_sessions(account)
    with _collect_error(errors):
        sample = _keep_sample_if_room(account, held)
    return Enforcement(len(held), sessions_cut, sample, "; ".join(errors))


@contextmanager
def _collect_error(errors: list[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, the next step is due
        errors.append(describe_error(error))


def cut_sessions(account: str) -> int:
    """Cuts the account's IMAP sessions (doveadm-kick(1)). Returns how many; 0 if Dovecot does not run."""
    _title, _, count = run("doveadm", "-f", "tab", "kick", account, check=False).partition("\n")
    return int(count or 0)


def read_queue(account: str, addresses: Iterable[str]) -> list[QueuedMessage]:
    """The queued messages that this login submitted. `addresses`: all it may send from."""
    return [message for batch in _sent_by(account, _queued_from(account, addresses)) for message in batch]


def _queued_from(account: str, addresses: Iterable[str]) -> list[QueuedMessage]:
    """The queued messages from these addresses, whoever submitted them; last, those without a sender, which may be read
    receipts of the account's."""
    owned = {account, *addresses}
    messages, without_sender = list[QueuedMessage](), list[QueuedMessage]()
    with stream_output("postqueue", "-j", timeout=QUEUE_TIMEOUT) as lines:
        for row in map(json.loads, lines):
            if owner_address(row["sender"]) in owned:
                messages.append(_parse_message(row))
            elif row["sender"] == _NO_SENDER and len(without_sender) < MAX_WITHOUT_SENDER:
                without_sender.append(_parse_message(row))
    return messages + without_sender


def _sent_by(account: str, candidates: list[QueuedMessage]) -> Iterator[list[QueuedMessage]]:
    """Messages submitted by this login, in batches. Others who may send as the same address are left alone."""
    for start in range(0, len(candidates), HOLD_BATCH):
        batch = candidates[start : start + HOLD_BATCH]
        yield [message for message in batch if _read_login(message.queue_id) == account]


def hold_messages(messages: Iterable[QueuedMessage]) -> None:
    _postsuper("-h", messages)


def release_messages(messages: Iterable[QueuedMessage]) -> None:
    _postsuper("-H", messages)


def delete_messages(messages: Iterable[QueuedMessage]) -> None:
    _postsuper("-d", messages)


def _keep_sample_if_room(account: str, messages: list[QueuedMessage]) -> str:
    """Without a sample on a full disk: the messages themselves are held, and all else was done."""
    try:
        return keep_sample(account, messages)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return ""


def keep_sample(account: str, messages: list[QueuedMessage]) -> str:
    """Copies the beginning of the first messages, as evidence. Returns the directory, or "" if empty."""
    directory = SAMPLE_DIRECTORY / account
    kept = len(list(directory.iterdir())) if directory.is_dir() else 0
    for message in messages[: max(MAX_SAMPLE_MESSAGES - kept, 0)]:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with stream_output("postcat", "-q", message.queue_id) as text:
            (directory / message.queue_id).write_bytes(text.read(MAX_SAMPLE_BYTES))
    return str(directory) if directory.is_dir() else ""


def _read_login(queue_id: str) -> str:
    """The login that submitted it, from the queue file (postcat(1)); "" if nobody logged in, or it has left."""
    lines = run("postcat", "-eq", queue_id, check=False).splitlines()
    logins = (line.removeprefix(_LOGIN_ATTRIBUTE) for line in lines if line.startswith(_LOGIN_ATTRIBUTE))
    return next(logins, "").lower()


def _parse_message(row: dict[str, object]) -> QueuedMessage:
    recipients = row["recipients"]
    assert isinstance(recipients, list)
    return QueuedMessage(
        queue_id=str(row["queue_id"]),
        queue=str(row["queue_name"]),
        sender=str(row["sender"]),
        recipients=tuple(str(recipient["address"]) for recipient in recipients),
        size=int(str(row["message_size"])),
        arrived=int(str(row["arrival_time"])),
    )


def _postsuper(option: str, messages: Iterable[QueuedMessage]) -> None:
    if ids := "".join(f"{message.queue_id}\n" for message in messages):
        run("postsuper", option, "-", stdin=ids, timeout=QUEUE_TIMEOUT)
