"""The server's end of `mailkeep import`: it answers requests about one account, until its standard input ends.

Each request is a line of JSON, `{"do": …}`; its answer is any number of lines, and one with `done` or `error`. The
first request opens the account. An import of an account excludes another one.
"""

import errno
import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from mailkeep_server.common import mailboxes
from mailkeep_server.common.files import open_lock
from mailkeep_server.common.folder_names import encode_name
from mailkeep_server.common.mail_frames import (
    Arrival,
    CutError,
    discard_content,
    iterate_lines,
    read_content,
    read_line,
    write_line,
)
from mailkeep_server.common.message_bytes import LARGE_FILES, digest_content
from mailkeep_server.mail_import import journal as journals
from mailkeep_server.mail_import.append import AppendedMessage, FolderAppender, QuotaExceededError, split_batches
from mailkeep_server.mail_import.dbox_copy import ChunkReader, DboxCopy
from mailkeep_server.mail_import.folder_reader import read_folder, read_quota
from mailkeep_server.mail_import.imap_session import (
    ImapError,
    ImapSession,
    SessionEndedError,
    open_account,
    quote_text,
)
from mailkeep_server.mail_import.imap_source import ImapSource, SourceError
from mailkeep_server.mail_import.journal import Journal
from mailkeep_server.mail_import.messages import Message

LOCK_TIMEOUT = 10.0  # seconds
FULL_BYTES, FULL_INODES = 2**22, 100
MAX_IN_LINE = 1000  # messages in a line of an answer


class ImportSession:
    """`reader` and `writer` lead to the operator's machine."""

    def __init__(
        self,
        reader: IO[bytes],
        writer: IO[bytes],
        open_session: Callable[[str], ImapSession] = open_account,
        directory: str = journals.DIRECTORY,
    ) -> None:
        self._reader, self._writer, self._open_session, self._directory = reader, writer, open_session, directory
        self._ends = ExitStack()
        self._source: ImapSource | None = None
        self._address = ""

    def serve(self) -> int:
        """Answers requests until their end. Returns the exit code."""
        with self._ends:
            self._files = self._ends.enter_context(tempfile.TemporaryDirectory(prefix="mailkeep-", dir=LARGE_FILES))
            try:
                while request := self._read_request():
                    self._answer(done=True, **getattr(self, f"_do_{request.pop('do')}")(**request))
            except CutError:
                return 1  # nobody is there to be told
            except Exception as error:
                self._answer(**(self._describe_full_disk(error) or describe_error(error)))
                if not isinstance(error, EXPECTED_ERRORS):
                    raise
                return 1
        return 0

    def _describe_full_disk(self, error: Exception) -> dict[str, Any]:
        """Dovecot calls a full disk an internal error, and writes the reason into its log."""
        if not isinstance(error, ImapError | SessionEndedError) or not self._address:
            return {}
        status = os.statvfs(find_disk(self._address))
        if status.f_bavail * status.f_frsize >= FULL_BYTES and (status.f_favail >= FULL_INODES or not status.f_files):
            return {}
        return {"error": "room", "text": f"The server's disk has no room, or no inodes. Dovecot says: {error}"}

    def _read_request(self) -> dict[str, Any]:
        try:
            return read_line(self._reader)
        except CutError:
            return {}

    def _answer(self, **values: Any) -> None:
        write_line(self._writer, values)
        self._writer.flush()

    def _answer_messages(self, messages: Iterator[NamedTuple]) -> None:
        """They are read as they are sent: a folder may have 100,000."""
        while part := list(islice(messages, MAX_IN_LINE)):
            self._answer(messages=part)

    def _do_open(self, address: str, source: str) -> dict[str, Any]:
        """Locks the account for imports, and tells its folders, quota and room on the disk."""
        self._address, self._source_name = address, source
        directory = Path(self._directory, address)
        for path in (directory.parent, directory):  # their names are addresses, which no other Linux user may read
            path.mkdir(mode=0o700, exist_ok=True)
        wait_for_lock(self._ends.enter_context(open_lock(directory / "lock")), address)
        try:
            self._session = self._open_session(address)
        except SessionEndedError as error:
            raise SessionEndedError(
                f"Dovecot does not open the mailbox of {address}: {error}. Has the account been deployed?"
            ) from None
        self._ends.callback(self._session.close)
        folders = self._session.list_folders()
        known, known_size = journals.measure_arrivals(address, source, self._directory)
        status = os.statvfs(find_disk(address))
        return {
            "separator": next((folder.separator for folder in folders if folder.separator), "."),
            "folders": len(folders),
            "quota": read_quota(self._session),
            "free": status.f_bavail * status.f_frsize,
            "known": known,
            "known_size": known_size,
        }

    def _do_known(self, folder: str) -> dict[str, Any]:
        """The arrivals in a folder."""
        arrivals = list(self._open_journal(folder).arrivals.values())
        for start in range(0, len(arrivals), MAX_IN_LINE):
            self._answer(arrivals=arrivals[start : start + MAX_IN_LINE])
        return {}

    def _do_append(self, folder: str, uid_validity: int, subscribe: bool) -> dict[str, Any]:
        """Appends the messages that follow the request."""
        return self._append(folder, self._receive_messages(), uid_validity, subscribe)

    def _do_list(self, folder: str) -> dict[str, Any]:
        """The messages that are in a folder, by Dovecot's IMAP."""
        state, messages = read_folder(self._session, encode_name(folder).encode())
        self._answer_messages(messages)
        return {"uid_validity": state.uid_validity}

    def _do_store(self, folder: str, flags: list[tuple[int, str, list[str]]]) -> dict[str, Any]:
        """Sets the flags and keywords of messages, by UID, and notes them by the message's key."""
        journal = self._open_journal(folder)
        self._session.select_folder(encode_name(folder).encode(), read_only=False)
        for uid, _, words in flags:
            attributes = Message(b"", frozenset(words), frozenset(words)).flag_list
            self._session.run(f"UID STORE {int(uid)} FLAGS.SILENT {attributes}".encode())
        self._session.unselect_folder()
        journal.note(journal.arrivals[key]._replace(flags=words) for _, key, words in flags if key in journal.arrivals)
        journal.close()
        return {}

    def _do_connect(self, **server: Any) -> dict[str, Any]:
        """Logs in to an IMAP server elsewhere, and tells its folders."""
        self._source = ImapSource.log_in(**server)
        self._ends.callback(self._source.close)
        return {"folders": self._source.list_folders()}

    def _do_unpack(self, size: int) -> dict[str, Any]:
        """Receives a dbox directory as a tar archive, and opens the copy with our Dovecot."""
        copy = DboxCopy(self._address, size)
        self._ends.callback(copy.remove)
        copy.unpack(ChunkReader(self._reader))
        self._source = ImapSource(copy.open(), {})
        self._ends.callback(self._source.close)
        return {"folders": self._source.list_folders()}

    def _do_scan(self, name: str) -> dict[str, Any]:
        """The messages that are in a folder of the source: UID, flags, date and size of each."""
        assert self._source
        state, messages = self._source.scan_folder(name)
        self._answer_messages(messages)
        return {"uid_validity": state.uid_validity}

    def _do_pull(
        self,
        name: str,
        uids: list[int],
        prefix: str,
        folder: str,
        uid_validity: int,
        subscribe: bool,
        elsewhere: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Appends messages of a folder of the source. Their keys begin with `prefix`. Those whose hashes are in
        `elsewhere` are in another folder already, and are only noted."""
        assert self._source
        messages = self._source.read_messages(name, uids, prefix, self._files)
        return self._append(folder, messages, uid_validity, subscribe, frozenset(elsewhere))

    def _append(
        self,
        folder: str,
        messages: Iterator[Message],
        uid_validity: int,
        subscribe: bool,
        elsewhere: frozenset[str] = frozenset(),
    ) -> dict[str, Any]:
        journal = self._open_journal(folder)
        appender = FolderAppender(
            self._address, folder, self._session, uid_validity, journal.list_uids, subscribe=False
        )
        if subscribe and folder != "INBOX":
            self._session.run(b"SUBSCRIBE ", quote_text(encode_name(folder).encode()))
        try:
            for batch in split_batches(messages):
                wanted, arrivals = split_elsewhere(batch, elsewhere)
                arrivals += [note_arrival(appended) for appended in appender.append_batch(wanted)]
                journal.note(arrivals)
                for message in batch:
                    discard_content(message.content)
                self._answer(arrivals=arrivals, added=appender.counts.added, bytes=appender.counts.size)
        finally:
            journal.close()
        counts = appender.counts
        return {
            "added": counts.added,
            "duplicates": counts.duplicates,
            "bytes": counts.size,
            "other_uids": counts.other_uids,
            "refused": counts.refused,
            "uid_validity": appender.uid_validity,
        }

    def _receive_messages(self) -> Iterator[Message]:
        for values in iterate_lines(self._reader):
            content = read_content(self._reader, values["size"], self._files)
            digest, _ = digest_content(content)
            if digest != values["digest"]:
                raise CutError("a message was damaged on its way")
            yield Message(
                content,
                frozenset(values["flags"]),
                frozenset(values["flags"]),
                values["date"],
                values["uid"],
                values["key"],
            )

    def _open_journal(self, folder: str) -> Journal:
        return Journal(self._address, self._source_name, folder, self._directory)


def find_disk(address: str) -> Path:
    """The account's home, or the directory above it that there is: a domain's mail may be on a disk of its own."""
    local_part, _, domain = address.partition("@")
    home = Path(mailboxes.ROOT, domain, local_part)
    return next(path for path in (home, *home.parents) if path.exists())


class BusyError(Exception):
    """Another import works on the account."""


def wait_for_lock(lock: IO[str], address: str) -> None:
    """An import that was killed still ends its last batch. Raises BusyError."""
    end = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise BusyError(f"Another import into {address} is running. Wait for its end.") from None
            time.sleep(LOCK_TIMEOUT / 50)
        else:
            return


EXPECTED_ERRORS = (BusyError, CutError, ImapError, OSError, QuotaExceededError, SessionEndedError, SourceError)
"""Errors that the operator can do something about."""


def describe_error(error: Exception) -> dict[str, Any]:
    """The line that tells the operator's machine: the kind of the error, and its text."""
    if isinstance(error, SourceError):
        return {"error": "source", "text": str(error), **error.details}
    if isinstance(error, QuotaExceededError) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    ):
        return {"error": "room", "text": str(error)}
    if isinstance(error, BusyError):
        return {"error": "busy", "text": str(error)}
    if isinstance(error, EXPECTED_ERRORS):
        return {"error": "server", "text": str(error)}
    return {"error": "server", "text": f"{type(error).__name__}: {error}"}


def split_elsewhere(batch: list[Message], elsewhere: frozenset[str]) -> tuple[list[Message], list[Arrival]]:
    """The messages that are in no other folder; and notes about those that are, without a UID."""
    wanted, arrivals = list[Message](), list[Arrival]()
    for message in batch if elsewhere else ():
        digest, facts = digest_content(message.content)
        if digest in elsewhere:
            flags = sorted({*message.flags, *message.keywords})
            arrivals.append(Arrival(message.key, digest, 0, facts.message_id, flags, 0, 0, facts.nul_bytes))
        else:
            wanted.append(message)
    return (wanted if elsewhere else batch), arrivals


def note_arrival(appended: AppendedMessage) -> Arrival:
    message = appended.message
    flags = sorted({*message.flags, *message.keywords})
    facts = appended.facts
    return Arrival(
        message.key,
        appended.digest,
        facts.imap_size,
        facts.message_id,
        flags,
        appended.uid_validity,
        appended.uid,
        facts.nul_bytes,
    )


def main(arguments: list[str]) -> int:
    if arguments:
        print("usage: mail-import; `mailkeep import` speaks with it on standard input", file=sys.stderr)
        return 2
    return ImportSession(sys.stdin.buffer, sys.stdout.buffer).serve()
