"""The part of a freeze that needs root: hold an account's queued mail, cut its sessions, keep a sample."""

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mailkeep_server.common import mail_queue, paths
from mailkeep_server.common.addresses import owner_address
from mailkeep_server.common.commands import run, stream_output
from mailkeep_server.common.mail_queue import QueuedMessage
from mailkeep_server.common.wording import describe_error

SAMPLE_DIRECTORY = Path(paths.FREEZE_SAMPLES)
MAX_SAMPLE_MESSAGES = 20
"""Kept of each frozen account."""
MAX_SAMPLE_BYTES = 65_536
"""Of each of these messages."""
MAX_WITHOUT_SENDER = 500
"""Looked at for their login: the queue may be full of bounces, and an account sends few receipts."""


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
            mail_queue.hold_messages(batch)
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
    for row in mail_queue.read_rows():
        if owner_address(row["sender"]) in owned:
            messages.append(mail_queue.parse_message(row))
        elif row["sender"] == mail_queue.NO_SENDER and len(without_sender) < MAX_WITHOUT_SENDER:
            without_sender.append(mail_queue.parse_message(row))
    return messages + without_sender


def _sent_by(account: str, candidates: list[QueuedMessage]) -> Iterator[list[QueuedMessage]]:
    """Messages submitted by this login, in batches. Others who may send as the same address are left alone."""
    for start in range(0, len(candidates), mail_queue.BATCH):
        batch = candidates[start : start + mail_queue.BATCH]
        logins = mail_queue.read_logins([message.queue_id for message in batch])
        yield [message for message in batch if logins.get(message.queue_id) == account]


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
