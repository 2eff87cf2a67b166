"""A Maildir on the old server: Maildir++ (folders `.A.B`) or directories in each other, of Dovecot, Courier or others.

The file's name has the flags, its time of change is the date of arrival (Dovecot's INTERNALDATE). `dovecot-uidlist`
has UIDs, `dovecot-keywords` the names of keywords.
"""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from mailkeep.moving_in.copy_host import Entry, OldHost
from mailkeep.moving_in.copy_model import (
    Appending,
    CopiedMessage,
    FolderResult,
    Progress,
    Server,
    SourceFolder,
)
from mailkeep_server.common.folder_names import read_name
from mailkeep_server.common.mail_frames import Arrival
from mailkeep_server.common.message_bytes import Content, digest_content

MAX_TRIES = 3  # of reading files, whose names change with their flags
_FLAGS = {
    "S": "\\Seen",
    "R": "\\Answered",
    "F": "\\Flagged",
    "D": "\\Draft",
    "T": "\\Deleted",
    "P": "$Forwarded",
}
_LISTS = (b"dovecot-uidlist", b"courierimapuiddb")
_KEYWORDS = b"dovecot-keywords"
_SUBSCRIPTIONS = (b"subscriptions", b"courierimapsubscribed")
_FOREIGN = re.compile(rb"\.|dovecot|courier|maildirfolder$|maildirsize$|core$")
_VIRTUAL_SIZE = re.compile(rb",W=(\d+)")
_REAL_SIZE = re.compile(rb",S=(\d+)")
LINE_ENDS = 1.03  # a message in IMAP to one in a file, which has one byte for a line end
_UNPACKERS = ((b"\x1f\x8b", gzip.decompress), (b"BZh", bz2.decompress), (b"\xfd7zXZ\x00", lzma.decompress))
_UNKNOWN_PACKERS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}


class MaildirFile(NamedTuple):
    """A message. `base` is its name without flags, which never changes."""

    base: bytes
    path: bytes
    flags: list[str]
    date: int
    size: int
    uid: int


@dataclass
class MaildirFolder:
    """A directory with `cur` and `new`: its entries, and its lists once they are read."""

    directory: bytes
    entries: list[Entry] = field(default_factory=list)
    uids: dict[bytes, int] = field(default_factory=dict)
    uid_validity: int = 0
    keywords: dict[str, str] = field(default_factory=dict)


def is_maildir(entries: Iterable[Entry]) -> bool:
    """Whether the path itself is a Maildir, or holds Maildirs."""
    return any(entry.kind == "d" and entry.path.endswith(b"/cur") for entry in entries)


class MaildirSource:
    """All folders of a Maildir. Raises CopyError."""

    def __init__(self, host: OldHost, entries: list[Entry]) -> None:
        self._host = host
        self.notes: list[str] = []
        self._folders: dict[str, MaildirFolder] = {}
        self._read_entries(entries)
        subscribed = self._read_lists(entries)
        self.folders = [
            self._describe_folder(name, folder, subscribed) for name, folder in sorted(self._folders.items())
        ]

    def copy_folder(
        self, folder: SourceFolder, target: str, server: Server, keep_uids: bool, progress: Progress
    ) -> FolderResult:
        known = server.read_known(target)
        messages = self._list_messages(self._folders[folder.name])
        keys = {message.base: f"{folder.name}/{message.base.decode(errors='backslashreplace')}" for message in messages}
        wanted = [message for message in messages if keys[message.base] not in known]
        result = FolderResult(known=len(messages) - len(wanted))
        appending = server.begin_append(target, folder.uid_validity if keep_uids else 0, subscribe=folder.is_subscribed)
        read = dict[bytes, tuple[str, str]]()
        for attempt in range(MAX_TRIES):
            left = [message for message in wanted if message.base not in read]
            if attempt and left:
                left = self._find_again(folder.name, left)
            for message, content in self._read_messages(left):
                read[message.base] = self._send(appending, keys[message.base], message, content)
                result.size += message.size
                progress(folder.name, len(read), len(wanted), result.size)
        counts = appending.finish()
        result.added, result.duplicates = counts["added"], counts["duplicates"]
        result.refused = dict(counts["refused"])
        for message in messages:
            arrival = known.get(keys[message.base]) or appending.arrivals.get(keys[message.base])
            digest, message_id = read.get(message.base) or _read_arrival(arrival)
            result.messages.append(
                CopiedMessage(
                    keys[message.base],
                    folder.name,
                    message.path.decode(errors="backslashreplace"),
                    digest,
                    message_id,
                    message.flags,
                    message.date,
                    message.uid,
                    arrival,
                )
            )
        return result

    def _read_entries(self, entries: list[Entry]) -> None:
        directories = {
            entry.path.removesuffix(b"/cur") for entry in entries if entry.kind == "d" and entry.path.endswith(b"/cur")
        } | {entry.path.rpartition(b"/new/")[0] for entry in entries if entry.kind == "f" and _is_in_new(entry.path)}
        by_directory = {directory: MaildirFolder(directory) for directory in directories}
        foreign = 0
        for entry in entries:
            folder, slash, name = entry.path.rpartition(b"/")
            parent, _, kind = folder.rpartition(b"/")
            if entry.kind != "f" or kind not in (b"cur", b"new") or parent not in by_directory or not slash:
                continue
            if _FOREIGN.match(name) or b"\n" in name:
                foreign += 1
            else:
                by_directory[parent].entries.append(entry)
        if foreign:
            self.notes.append(f"{foreign} files between the messages are no mail by their names, and are left alone.")
        for directory in sorted(by_directory):
            path, is_decoded = split_directory(directory)
            label = "/".join(path)
            if label in self._folders:
                label = f"{label} ({directory.decode(errors='backslashreplace')})"
            if not is_decoded:
                self.notes.append(f"{label}: the name is not in modified UTF-7; it is taken as it is written.")
            self._folders[label] = by_directory[directory]

    def _read_lists(self, entries: list[Entry]) -> set[tuple[str, ...]] | None:
        """Reads UIDs and keywords, and returns the folders that the owner has subscribed to, if that is known."""
        names = (*_LISTS, _KEYWORDS)
        by_directory = {folder.directory: folder for folder in self._folders.values()}
        paths = [
            entry.path
            for entry in entries
            if entry.kind == "f"
            and (
                (entry.path.rpartition(b"/")[2] in names and entry.path.rpartition(b"/")[0] in by_directory)
                or entry.path in [b"./" + name for name in _SUBSCRIPTIONS]
            )
        ]
        subscribed: set[tuple[str, ...]] | None = None
        for path, content in self._host.read_files(paths):
            data = content if isinstance(content, bytes) else content.read_bytes()
            directory, _, name = path.rpartition(b"/")
            if name in _SUBSCRIPTIONS:
                subscribed = (subscribed or set()) | read_subscriptions(data)
            elif name == _KEYWORDS:
                by_directory[directory].keywords = read_keywords(data)
            else:
                by_directory[directory].uid_validity, by_directory[directory].uids = read_uid_list(data)
        return subscribed

    def _describe_folder(
        self, name: str, folder: MaildirFolder, subscribed: set[tuple[str, ...]] | None
    ) -> SourceFolder:
        path, _ = split_directory(folder.directory)
        messages = self._list_messages(folder)
        return SourceFolder(
            name,
            path,
            len(messages),
            sum(message.size for message in messages),
            is_subscribed=subscribed is None or path in subscribed or path == ("INBOX",),
            uid_validity=folder.uid_validity,
        )

    def _list_messages(self, folder: MaildirFolder) -> list[MaildirFile]:
        """Each message once, in the order of the UIDs, and of arrival for those that have none."""
        messages = {}
        for entry in folder.entries:
            name = entry.path.rpartition(b"/")[2]
            base, letters = split_flags(name)
            flags = [_FLAGS.get(letter) or folder.keywords.get(letter, "") for letter in letters]
            messages[base] = MaildirFile(
                base,
                entry.path,
                sorted({flag for flag in flags if flag}),
                entry.changed,
                _estimate_size(name, entry.size),
                folder.uids.get(base, 0),
            )
        return sorted(messages.values(), key=lambda message: (not message.uid, message.uid, message.date, message.base))

    def _find_again(self, name: str, messages: list[MaildirFile]) -> list[MaildirFile]:
        """The same messages with the names that they have now: a flag was set meanwhile, or they were read first."""
        directory = self._folders[name].directory
        wanted = {message.base: message for message in messages}
        renamed = []
        for entry in self._host.list_entries():
            base, _ = split_flags(entry.path.rpartition(b"/")[2])
            if entry.kind == "f" and base in wanted and entry.path.rpartition(b"/")[0].rpartition(b"/")[0] == directory:
                renamed.append(wanted[base]._replace(path=entry.path))
        return renamed

    def _read_messages(self, messages: list[MaildirFile]) -> Iterator[tuple[MaildirFile, Content]]:
        by_path = {message.path: message for message in messages}
        for path, content in self._host.read_files(by_path):
            yield by_path[path], self._unpack(path, content)

    def _unpack(self, path: bytes, content: Content) -> Content:
        """Dovecot can keep messages compressed (mail_compress, zlib)."""
        if isinstance(content, bytes):
            start = content[:6]
        else:
            with content.open("rb") as file:
                start = file.read(6)
        for magic, unpack in _UNPACKERS:
            if start.startswith(magic):
                try:
                    return unpack(content if isinstance(content, bytes) else content.read_bytes())
                except (OSError, EOFError, zlib.error, lzma.LZMAError):
                    return content
        for magic, packer in _UNKNOWN_PACKERS.items():
            if start.startswith(magic):
                self.notes.append(
                    f"{path.decode(errors='backslashreplace')} is compressed by {packer}, and comes as it is. Switch "
                    "that off on the old server, or import from it by imaps://."
                )
        return content

    def _send(self, appending: Appending, key: str, message: MaildirFile, content: Content) -> tuple[str, str]:
        digest, facts = digest_content(content)
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        values = {"key": key, "digest": digest, "flags": message.flags, "date": message.date, "uid": message.uid}
        appending.send(values, content, size)
        return digest, facts.message_id


def split_directory(directory: bytes) -> tuple[tuple[str, ...], bool]:
    """The levels of a folder's name, and whether all were in modified UTF-7. `.` is the inbox, `./.A.B` is A/B of
    Maildir++, and `./A/B` is A/B of the other layout."""
    levels: list[bytes] = []
    for part in directory.split(b"/")[1:]:
        levels += part[1:].split(b".") if part.startswith(b".") and len(part) > 1 else [part]
    names = [read_name(level) for level in levels if level]
    path = tuple(name for name, _ in names)
    if len(path) > 1 and path[0] == "INBOX" and directory.startswith(b"./.INBOX."):
        path = path[1:]  # Courier's own prefix
    return path or ("INBOX",), all(is_decoded for _, is_decoded in names)


def split_flags(name: bytes) -> tuple[bytes, str]:
    """A file's name without its flags, and the letters of these."""
    for separator in (b":2,", b";2,", b"!2,"):  # the latter two on disks that allow no colon
        if separator in name:
            base, _, letters = name.partition(separator)
            return base, letters.partition(b",")[0].decode(errors="replace")
    return name, ""


def read_uid_list(data: bytes) -> tuple[int, dict[bytes, int]]:
    """UIDVALIDITY and UIDs by the file's name without flags, of Dovecot's list (versions 1 and 3) or Courier's."""
    header, *lines = data.split(b"\n")
    uid_validity, uids = 0, dict[bytes, int]()
    words = header.split()
    if words[:1] == [b"3"]:
        uid_validity = next((_read_number(word[1:]) for word in words[1:] if word.startswith(b"V")), 0)
    elif words[:1] == [b"1"] and len(words) > 1:
        uid_validity = _read_number(words[1])
    for line in lines:
        number, _, rest = line.partition(b" ")
        name = rest.partition(b":")[2] if rest.startswith(b":") or b" :" in rest else rest
        if b" :" in rest:
            name = rest.partition(b" :")[2]
        if number.isdigit() and name:
            uids[split_flags(name)[0]] = int(number)
    return (uid_validity, uids) if uid_validity else (0, {})


def read_keywords(data: bytes) -> dict[str, str]:
    """Keywords by the letter that stands for each in a file's name, of lines `0 $Forwarded`."""
    keywords = {}
    for line in data.decode(errors="replace").splitlines():
        number, _, keyword = line.partition(" ")
        if number.isdigit() and int(number) < 26 and keyword:
            keywords[chr(ord("a") + int(number))] = keyword
    return keywords


def read_subscriptions(data: bytes) -> set[tuple[str, ...]]:
    """The folders in Dovecot's file of subscriptions, version 1 or 2, or in Courier's."""
    lines = [line for line in data.split(b"\n") if line]
    is_version_2 = lines[:1] == [b"V\t2"]
    folders = set()
    for line in lines[1:] if is_version_2 else lines:
        levels = line.split(b"\t") if is_version_2 else re.split(rb"[./]", line)
        path = tuple(read_name(level)[0] for level in levels)
        folders |= {path, path[1:] if path[0] == "INBOX" and len(path) > 1 else path}
    return folders


def _is_in_new(path: bytes) -> bool:
    """A folder can lack `cur` while its messages are in `new`."""
    directory, _, _ = path.rpartition(b"/")
    return directory.endswith(b"/new")


def _estimate_size(name: bytes, size: int) -> int:
    """In IMAP. A Maildir of Dovecot or Courier has it in the file's name, also of a compressed message."""
    if match := _VIRTUAL_SIZE.search(name):
        return int(match.group(1))
    match = _REAL_SIZE.search(name)
    return int((int(match.group(1)) if match else size) * LINE_ENDS)


def _read_arrival(arrival: Arrival | None) -> tuple[str, str]:
    return (arrival.digest, arrival.message_id) if arrival else ("", "")


def _read_number(text: bytes) -> int:
    return int(text) if text.isdigit() else 0
