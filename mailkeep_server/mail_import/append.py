"""Appends messages to a folder of an account, without those that are there already.

Through a session of Dovecot's own IMAP, so the account's clients and deliveries may work at the same time. A batch is
appended whole or not at all (RFC 3502); after a kill, the next run sees by their hashes which messages have arrived.
"""

import subprocess
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mailkeep_server.common.folder_names import encode_name
from mailkeep_server.common.message_bytes import MessageDigest, digest_content
from mailkeep_server.mail_import.imap_session import (
    ImapError,
    ImapSession,
    Value,
    join_uids,
    open_account,
    quote_text,
    read_bytes,
)
from mailkeep_server.mail_import.messages import Message

MAX_BATCH = 256  # messages
MAX_BATCH_BYTES = 2**23
MAX_FAILURES = 3  # of Dovecot's in a row: then it is not the messages
MAX_HASHED_TOGETHER = 1000  # UIDs in a command
UPDATE_TIMEOUT = 60.0


class QuotaExceededError(Exception):
    """The account's quota has no room for the next message. What was appended before stays."""


class AppendedMessage(NamedTuple):
    """A message that is in the folder: now, or since before (`is_new` is false). `uid` is 0 if it is unknown."""

    message: Message
    digest: str
    facts: MessageDigest
    uid_validity: int
    uid: int
    is_new: bool


@dataclass
class Counts:
    """`refused` are keys of messages that Dovecot refuses, each with its reason; `other_uids` counts messages that
    could not keep their UIDs."""

    added: int = 0
    duplicates: int = 0
    size: int = 0
    other_uids: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)


def append_messages(
    address: str,
    folder: str,
    messages: Iterable[Message],
    *,
    session: ImapSession | None = None,
    uid_validity: int = 0,
    note_batch: Callable[[list[AppendedMessage]], None] | None = None,
) -> Counts:
    """Appends the messages to the folder, which it creates and subscribes to if there is none. `folder` has our
    separator between its levels.

    A message of which the folder has the same bytes is not appended. If the same bytes are there twice, two messages
    are not, and so on. With `uid_validity`, and a folder that is empty or has this UIDVALIDITY already, messages keep
    their UIDs where these follow the folder's. `note_batch` is called after each batch. Without a session, one is
    opened and closed.

    Raises QuotaExceededError, ImapError, SessionEndedError, OSError. What `note_batch` has got is in the folder.
    """
    if session is None:
        opened = open_account(address)
        try:
            return append_messages(
                address,
                folder,
                messages,
                session=opened,
                uid_validity=uid_validity,
                note_batch=note_batch,
            )
        finally:
            opened.close()
    appender = FolderAppender(address, folder, session, uid_validity)
    for batch in split_batches(messages):
        arrived = appender.append_batch(batch)
        if note_batch:
            note_batch(arrived)
    return appender.counts


class FolderAppender:
    """Appends batches to one folder. Arguments are those of `append_messages`; by the folder's UIDVALIDITY,
    `list_ignored` gives UIDs of messages that do not count as duplicates."""

    def __init__(
        self,
        address: str,
        folder: str,
        session: ImapSession,
        uid_validity: int = 0,
        list_ignored: Callable[[int], Container[int]] = lambda _: (),
        *,
        subscribe: bool = True,
    ) -> None:
        self._address, self._folder, self._session = address, folder, session
        self._name = encode_name(folder).encode()
        self.counts = Counts()
        self._failures = 0
        create_folder(session, folder, subscribe=subscribe)
        state = session.select_folder(self._name)
        session.unselect_folder()
        if uid_validity and not state.messages and state.uid_validity != uid_validity:
            update_folder(address, folder, "--uid-validity", str(uid_validity))
            state = session.select_folder(self._name)
            session.unselect_folder()
        self.uid_validity, self._uid_next = state.uid_validity, state.uid_next
        self._keeps_uids = uid_validity == state.uid_validity
        self._present = PresentMessages(session, self._name, state.messages, list_ignored(state.uid_validity))

    def append_batch(self, batch: list[Message]) -> list[AppendedMessage]:
        """Returns those of the batch that are in the folder, new and old ones. Raises as `append_messages` does."""
        digests = [digest_content(message.content) for message in batch]
        self._present.hash_sizes({facts.imap_size for _, facts in digests})
        arrived, missing = list[AppendedMessage](), list[AppendedMessage]()
        for message, (digest, facts) in zip(batch, digests, strict=True):
            uid = self._present.take(digest)
            (arrived if uid else missing).append(
                AppendedMessage(message, digest, facts, self.uid_validity, uid, not uid)
            )
        self.counts.duplicates += len(arrived)
        for run in self._split_by_uid(missing):
            self._reserve_uid(run[0].message.uid)
            arrived += self._append_run(run)
        return arrived

    def _split_by_uid(self, missing: list[AppendedMessage]) -> Iterator[list[AppendedMessage]]:
        """Runs of messages whose UIDs follow each other, if these are kept."""
        run: list[AppendedMessage] = []
        for appended in missing:
            if run and self._keeps_uids and appended.message.uid > run[-1].message.uid + 1:
                yield run
                run = []
            run.append(appended)
        if run:
            yield run

    def _reserve_uid(self, uid: int) -> None:
        """Lets the folder's next message have this UID, if no message has had it."""
        if self._keeps_uids and uid > self._uid_next:
            update_folder(self._address, self._folder, "--min-next-uid", str(uid))

    def _append_run(self, run: list[AppendedMessage]) -> list[AppendedMessage]:
        """Appends them together; if Dovecot refuses that, each alone, to see which it refuses."""
        messages = [appended.message for appended in run]
        try:
            uid_validity, uids = self._session.append(
                self._name, [(message.attributes, message.content) for message in messages]
            )
        except ImapError as error:
            if error.code == "OVERQUOTA":
                raise QuotaExceededError(str(error)) from None
            if len(run) > 1:
                return [arrived for appended in run for arrived in self._append_run([appended])]
            if error.code == "SERVERBUG":
                self._failures += 1
                if self._failures == MAX_FAILURES:
                    raise
            self.counts.refused.append((messages[0].key, str(error)))
            return []
        self._failures = 0
        if len(uids) != len(run):
            uids = [0] * len(run)
        self.counts.added += len(run)
        self.counts.size += sum(_measure_size(message) for message in messages)
        self.counts.other_uids += sum(message.uid not in (0, uid) for message, uid in zip(messages, uids, strict=True))
        self._uid_next = max(self._uid_next, uids[-1] + 1)
        return [appended._replace(uid_validity=uid_validity, uid=uid) for appended, uid in zip(run, uids, strict=True)]


class PresentMessages:
    """The messages that a folder had when this began, by the hash of their bytes. Only those are read whose size equals
    that of a message that is to be appended."""

    def __init__(self, session: ImapSession, name: bytes, count: int, ignored_uids: Container[int]) -> None:
        self._session, self._name = session, name
        self._uids_by_size: dict[int, list[int]] = {}
        self._uids_by_digest: dict[str, list[int]] = {}
        if not count:
            return
        self._session.select_folder(name)
        for values in session.fetch("1:*", "UID RFC822.SIZE"):
            uid, size = _read_number(values, "UID"), _read_number(values, "RFC822.SIZE")
            if uid and uid not in ignored_uids:
                self._uids_by_size.setdefault(size, []).append(uid)
        self._session.unselect_folder()

    def hash_sizes(self, sizes: set[int]) -> None:
        """Reads the messages of these sizes, each of them once."""
        uids = [uid for size in sizes for uid in self._uids_by_size.pop(size, ())]
        if not uids:
            return
        self._session.select_folder(self._name)
        for start in range(0, len(uids), MAX_HASHED_TOGETHER):
            part = join_uids(uids[start : start + MAX_HASHED_TOGETHER])
            for values in self._session.fetch(part, "UID BODY.PEEK[]"):
                body, uid = values.get("BODY[]"), _read_number(values, "UID")
                if uid and isinstance(body, bytes | Path):
                    digest, _ = digest_content(body)
                    self._uids_by_digest.setdefault(digest, []).append(uid)
        self._session.unselect_folder()

    def take(self, digest: str) -> int:
        """The UID of a message with these bytes, which counts no more from now on; 0 if there is none."""
        uids = self._uids_by_digest.get(digest)
        return uids.pop(0) if uids else 0


def split_batches(messages: Iterable[Message]) -> Iterator[list[Message]]:
    batch: list[Message] = []
    size = 0
    for message in messages:
        batch.append(message)
        size += _measure_size(message)
        if len(batch) >= MAX_BATCH or size >= MAX_BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def create_folder(session: ImapSession, folder: str, *, subscribe: bool = True) -> None:
    """If there is none. Raises ImapError."""
    name = quote_text(encode_name(folder).encode())
    if folder == "INBOX":
        return
    try:
        session.run(b"CREATE ", name)
    except ImapError as error:
        if error.code == "OVERQUOTA":
            raise QuotaExceededError(f"{folder}: {error}") from None
        with suppress(ImapError):
            session.run(b"STATUS ", name, b" (UIDNEXT)")
            return  # it is there, and subscribed to or not as its owner wants
        raise
    if subscribe:
        session.run(b"SUBSCRIBE ", name)


def update_folder(address: str, folder: str, *options: str) -> None:
    """doveadm-mailbox(1), update. A failure costs the messages' UIDs and no more, so it is not an error."""
    with suppress(subprocess.SubprocessError):
        subprocess.run(
            ["doveadm", "mailbox", "update", "-u", address, *options, folder],
            capture_output=True,
            check=False,
            timeout=UPDATE_TIMEOUT,
        )


def _measure_size(message: Message) -> int:
    return len(message.content) if isinstance(message.content, bytes) else message.content.stat().st_size


def _read_number(values: dict[str, Value], name: str) -> int:
    value = values.get(name, b"0")
    return int(read_bytes(value))
