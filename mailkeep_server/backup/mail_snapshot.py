"""A copy of all mailboxes at one moment, made of hard links: no service stops, no byte is copied.

Dovecot renames a message when its flags change, and moves it between folders. A program that reads the directories
meanwhile may miss it, or see it twice. So passes over a mailbox are repeated until one has nothing to change. A message
that is gone from its place, but has a link elsewhere, was moved: it stays in the copy until it is seen again. Messages
themselves never change (maildir: a file is written in `tmp`, then moved).

The lists of UIDs are copied after the messages. So a list may name messages that are not in the copy. For Dovecot they
are deleted, and no UID is ever given twice.

It runs as `vmail`, so that a link which an intruder has planted gives root's reading to nobody.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mailkeep_server.common import mailboxes

STAGE = Path(mailboxes.ROOT, ".backup")
MAX_PASSES = 10
"""Over one mailbox; the last one counts, should the mailbox never be quiet."""
MESSAGE_DIRECTORIES = ("new", "cur")
"""In the order of a message's way."""
ACTIVE_SCRIPT = ".dovecot.sieve"
"""A link to the Sieve script that its owner has activated by ManageSieve; or a script itself."""
_SCRIPT_NAME = re.compile(r"sieve/[^/]+\.sieve")
MADE_ANEW = ("dovecot.index", "dovecot.list.index", "dovecot.mailbox.log", "maildirfolder.lock")
"""Dovecot makes these from the messages."""
MADE_ANEW_SUFFIXES = (".lock", ".svbin", ".tmp")


class StoredMessage(NamedTuple):
    """A file in `cur` or `new`. `path` is relative to the account's home."""

    path: str
    size: int
    sha256: str

    @property
    def key(self) -> str:
        """What does not change with the flags: the folder, and the name before `:2,`."""
        return make_key(self.path)


def make_key(path: str) -> str:
    directory, _, name = path.rpartition("/")
    return f"{directory.rpartition('/')[0]}/{name.partition(':')[0]}"


def find_home(account: str, root: Path = Path(mailboxes.ROOT)) -> Path:
    local_part, _, domain = account.rpartition("@")
    return root / domain / local_part


def main(arguments: list[str]) -> int:
    """`backup-snapshot`: standard input has an account a line. Prints, as JSON, the number of messages by account; only
    those that have mail. Run as `vmail`."""
    del arguments
    counts = {}
    for account in sys.stdin.read().splitlines():
        if messages := take_snapshot(account):
            counts[account] = messages
    remove_others(counts)
    print(json.dumps(counts))
    return 0


def take_snapshot(account: str, root: Path = Path(mailboxes.ROOT), stage: Path = STAGE) -> int:
    """Links an account's mailbox into the stage, and writes its manifest. Returns the number of messages."""
    home, copy = find_home(account, root), find_home(account, stage / "mail")
    manifest = stage / "manifest" / f"{account}.jsonl"
    shutil.rmtree(copy, ignore_errors=True)
    if not home.is_dir():
        manifest.unlink(missing_ok=True)
        return 0
    linked: dict[str, str] = {}
    for _ in range(MAX_PASSES):
        if not _link_messages(home, copy, linked):
            break
    others = sorted(_link_others(home, copy))
    known = {message.key: message for message in read_messages(manifest)}
    messages = [_describe_message(copy, path, known) for path in sorted(linked.values())]
    _write_manifest(manifest, messages, [(path, hash_file(copy / path)) for path in others])
    return len(messages)


def read_messages(manifest: Path) -> Iterator[StoredMessage]:
    """The messages of a manifest; none if there is no such file, or it is spoilt: then all are read anew."""
    try:
        lines = manifest.read_text().splitlines()
        entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
        yield from [
            StoredMessage(entry["message"], entry["size"], entry["sha256"]) for entry in entries if "message" in entry
        ]
    except (OSError, ValueError, KeyError):
        return


def read_others(manifest: Path) -> dict[str, str]:
    """The other files of a manifest (lists of UIDs, keywords, subscriptions, scripts), each with its SHA-256."""
    entries = [json.loads(line) for line in manifest.read_text().splitlines()]
    return {entry["file"]: entry["sha256"] for entry in entries if "file" in entry}


def list_messages(home: Path) -> dict[str, str]:
    """The messages of a mailbox: their paths, by key."""
    messages = {}
    for directory in _walk_directories(home):
        if directory.rpartition("/")[2] in MESSAGE_DIRECTORIES:
            for name in _list_names(home / directory):
                messages[make_key(f"{directory}/{name}")] = f"{directory}/{name}"
    return messages


def remove_others(accounts: Iterable[str], stage: Path = STAGE) -> None:
    """Removes what the stage holds of accounts that have no mailbox any more."""
    kept = set(accounts)
    for manifest in (stage / "manifest").glob("*.jsonl"):
        if manifest.stem not in kept:
            manifest.unlink()
            shutil.rmtree(find_home(manifest.stem, stage / "mail"), ignore_errors=True)


def _link_messages(home: Path, copy: Path, linked: dict[str, str]) -> int:
    """One pass: makes the copy what the mailbox is now. Returns the number of changes, and of messages unseen."""
    changes, current = 0, list_messages(home)
    for key, path in current.items():
        if linked.get(key) == path:
            continue
        changes += 1
        if key in linked:
            (copy / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (copy / linked[key]).rename(copy / path)
            linked[key] = path
        elif _link_file(f"{home}/{path}", f"{copy}/{path}"):
            linked[key] = path
    if gone := linked.keys() - current.keys():
        changes += len(gone)
        seen = {(copy / path).stat().st_ino for key, path in linked.items() if key not in gone}
        for key in gone:
            status = (copy / linked[key]).stat()
            if status.st_nlink == 1 or status.st_ino in seen:  # deleted; or found in its new place
                (copy / linked.pop(key)).unlink()
    return changes


def _link_others(home: Path, copy: Path) -> Iterator[str]:
    """Copies what is no message and is not made anew. Also makes the directories of empty folders."""
    (copy).mkdir(mode=0o700, parents=True, exist_ok=True)
    for directory in ("", *_walk_directories(home)):
        if directory.rpartition("/")[2] in MESSAGE_DIRECTORIES:
            (copy / directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            continue
        for name in _list_names(home / directory):
            path = f"{directory}/{name}".lstrip("/")
            if (
                not name.startswith(MADE_ANEW)
                and not name.endswith(MADE_ANEW_SUFFIXES)
                and _copy_file(home, copy, path)
            ):
                yield path
    if _copy_active_script(home, copy):
        yield ACTIVE_SCRIPT


def _copy_active_script(home: Path, copy: Path) -> bool:
    """Whether a link says which script is active. No other link is in a backup, and none to anywhere else."""
    try:
        target = str((home / ACTIVE_SCRIPT).readlink())
    except OSError:  # no script is active, or it is no link
        return False
    if not _SCRIPT_NAME.fullmatch(target) or not (copy / target).is_file():
        return False
    (copy / ACTIVE_SCRIPT).symlink_to(target)
    return True


def _walk_directories(home: Path) -> list[str]:
    """All directories below a home but `tmp`, relative to it. Links are not followed."""
    directories: list[str] = []
    for directory, names, _ in os.walk(home):
        names[:] = sorted(name for name in names if name != "tmp" and not os.path.islink(f"{directory}/{name}"))  # noqa: PTH114
        # `new` before `cur`: a message moves from the one to the other.
        names.sort(key=lambda name: MESSAGE_DIRECTORIES.index(name) if name in MESSAGE_DIRECTORIES else -1)
        directories += [os.path.relpath(os.path.join(directory, name), home) for name in names]  # noqa: PTH118
    return directories


def _list_names(directory: Path) -> list[str]:
    """The plain files of a directory; none if it has just gone."""
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _link_file(source: str, target: str) -> bool:
    """False if the source has just been renamed. Its paths are text: it is called for each message."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        directory = Path(target).parent
        if directory.exists():
            return False
        directory.mkdir(mode=0o700, parents=True)
        return _link_file(source, target)
    return True


def _copy_file(home: Path, copy: Path, path: str) -> bool:
    """False if the file has just gone. Copied, not linked: Dovecot appends to lists of UIDs."""
    (copy / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        shutil.copy2(home / path, copy / path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _describe_message(copy: Path, path: str, known: dict[str, StoredMessage]) -> StoredMessage:
    """A message that the last manifest knows with the same size is not read again: it never changes."""
    size = os.stat(f"{copy}/{path}").st_size  # noqa: PTH116  # a Path takes four times as long
    former = known.get(make_key(path))
    if former and former.size == size:
        return StoredMessage(path, size, former.sha256)
    return StoredMessage(path, size, hash_file(copy / path))


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(manifest: Path, messages: list[StoredMessage], others: list[tuple[str, str]]) -> None:
    manifest.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = manifest.with_suffix(".new")
    with new.open("w") as file:
        for message in messages:
            entry = {"message": message.path, "size": message.size, "sha256": message.sha256}
            file.write(f"{json.dumps(entry)}\n")
        for path, sha256 in others:
            file.write(f"{json.dumps({'file': path, 'sha256': sha256})}\n")
    new.rename(manifest)
