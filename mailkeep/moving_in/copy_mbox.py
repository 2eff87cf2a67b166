"""An mbox, or a directory of them, on the old server. One file is the inbox; below a directory, each is a folder.

An mbox tells nothing of its messages until it is read whole, so a rerun reads it again. What has arrived is known by
its hash and is not sent a second time.
"""

from collections import Counter
from typing import IO

from mailkeep.moving_in.copy_host import Entry, OldHost
from mailkeep.moving_in.copy_model import (
    SOURCE_FAILED,
    Appending,
    CopiedMessage,
    CopyError,
    FolderResult,
    Progress,
    Server,
    SourceFolder,
)
from mailkeep.moving_in.mbox_format import MboxMessage, MboxReader
from mailkeep_server.common.folder_names import read_name
from mailkeep_server.common.message_bytes import digest_content

_FOREIGN_SUFFIXES = (b".lock", b".index", b".log", b".cache")


class MboxSource:
    """`entries` are those of a directory; without them the path is one file. Raises CopyError."""

    def __init__(self, host: OldHost, entries: list[Entry] | None = None) -> None:
        self._host = host
        self.notes: list[str] = []
        self._files: dict[str, tuple[bytes, int]] = {}
        if entries is None:
            self._files["INBOX"] = (b"", host.file_size)
        else:
            self._find_files(entries)
        files = sorted(self._files.items())
        counts = host.count_messages([path for _, (path, _) in files])
        self.folders = [
            SourceFolder(name, _split_name(name), count, size)
            for (name, (_, size)), count in zip(files, counts, strict=True)
        ]

    def copy_folder(
        self, folder: SourceFolder, target: str, server: Server, keep_uids: bool, progress: Progress
    ) -> FolderResult:
        path, size = self._files[folder.name]
        known = server.read_known(target)
        reader = MboxReader(self._host.zone)
        result = FolderResult()
        with self._host.stream_file(path, size) as file:
            counted = _CountingFile(file)
            messages = reader.read_messages(counted)
            first = next(messages, None)
            self._check_start(folder, reader, first, size)
            appending = server.begin_append(
                target, reader.uid_validity if keep_uids else 0, subscribe=folder.is_subscribed
            )
            copies: Counter[str] = Counter()
            while first:
                digest, facts = digest_content(first.content)
                copies[digest] += 1
                key = f"{folder.name}/{digest}.{copies[digest]}"
                if key in known:
                    result.known += 1
                else:
                    _send(appending, key, digest, first)
                    result.size += len(first.content)
                result.messages.append(
                    CopiedMessage(
                        key,
                        folder.name,
                        f"message {reader.messages}",
                        digest,
                        facts.message_id,
                        first.flags,
                        first.date,
                        first.uid,
                        known.get(key),
                    )
                )
                progress(folder.name, len(result.messages), folder.messages, result.size)
                first = next(messages, None)
            if counted.size < size:
                raise self._host.cut_error()
        counts = appending.finish()
        self._note_oddities(folder, reader)
        result.added, result.duplicates, result.refused = counts["added"], counts["duplicates"], dict(counts["refused"])
        result.messages = [
            message._replace(arrival=message.arrival or appending.arrivals.get(message.key))
            for message in result.messages
        ]
        return result

    def _find_files(self, entries: list[Entry]) -> None:
        sizes = {entry.path: entry.size for entry in entries if entry.kind == "f"}
        mboxes = {path for path in self._host.find_mboxes() if path in sizes and not path.endswith(_FOREIGN_SUFFIXES)}
        for path in sorted(mboxes):
            levels = [read_name(level) for level in path.split(b"/")[1:]]
            name = "/".join(level for level, _ in levels)
            if not all(is_decoded for _, is_decoded in levels):
                self.notes.append(f"{name}: the name is not in modified UTF-7; it is taken as it is written.")
            self._files[name] = (path[2:], sizes[path])
        others = [path for path, size in sizes.items() if path not in mboxes and size and not _is_known_file(path)]
        if others and mboxes:
            examples = ", ".join(path[2:].decode(errors="backslashreplace") for path in sorted(others)[:3])
            self.notes.append(f"{len(others)} files do not begin as an mbox does, and are left alone: {examples}.")

    def _check_start(self, folder: SourceFolder, reader: MboxReader, first: MboxMessage | None, size: int) -> None:
        if size and not first and not reader.messages and reader.leading:
            raise CopyError(
                f"{folder.name}: this file is no mbox, or its beginning is broken: no line in it is `From ADDRESS "
                "DATE`. Nothing of it was copied. Look at its first lines on the old server (`head`).",
                SOURCE_FAILED,
            )

    def _note_oddities(self, folder: SourceFolder, reader: MboxReader) -> None:
        if reader.leading:
            self.notes.append(
                f"{folder.name}: {reader.leading} bytes before the first `From ` line belong to no message, and were "
                "not copied."
            )
        if reader.nul_bytes:
            self.notes.append(
                f"{folder.name}: {reader.nul_bytes} NUL bytes between messages, as a crash leaves them, were left out."
            )


class _CountingFile:
    """A file of which is known how much was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0

    def readline(self, limit: int, /) -> bytes:
        line = self._file.readline(limit)
        self.size += len(line)
        return line


def _send(appending: Appending, key: str, digest: str, message: MboxMessage) -> None:
    values = {"key": key, "digest": digest, "flags": message.flags, "date": message.date, "uid": message.uid}
    appending.send(values, message.content, len(message.content))


def _split_name(name: str) -> tuple[str, ...]:
    path = tuple(name.split("/"))
    return ("INBOX",) if len(path) == 1 and path[0].lower() in ("inbox", "mbox") else path


def _is_known_file(path: bytes) -> bool:
    """Of Dovecot, UW-IMAP, Pine or Thunderbird, beside the mboxes."""
    name = path.rpartition(b"/")[2]
    return (
        name.startswith((b".", b"dovecot", b"subscriptions")) or b"/.imap/" in path or name.endswith((b".msf", b".dat"))
    )
