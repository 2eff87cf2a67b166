"""Messages of a restored mailbox, as an archive has it: a Maildir, with Dovecot's lists of UIDs and keywords."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mailkeep_server.common.folder_names import decode_name
from mailkeep_server.mail_import.messages import Message

FLAGS = {"S": "\\Seen", "R": "\\Answered", "F": "\\Flagged", "T": "\\Deleted", "D": "\\Draft"}
"""The letters after `:2,` (maildir); lower-case ones are keywords, numbered from `a`."""
MESSAGE_DIRECTORIES = ("new", "cur")
_UIDLIST_HEADER = re.compile(r"^3 (?=.*\bV(?P<validity>\d+))(?=.*\bN(?P<next>\d+))")


@dataclass(frozen=True)
class UidList:
    """Dovecot's `dovecot-uidlist`; `uids` by a message's name before `:2,`."""

    validity: int
    uids: dict[str, int]


def list_folders(maildir: Path) -> Iterator[tuple[str, Path]]:
    """Each folder's name, with `.` between its levels, and its directory."""
    if (maildir / "cur").is_dir() or (maildir / "new").is_dir():
        yield "INBOX", maildir
    for directory in sorted(maildir.glob(".*")):
        if (directory / "cur").is_dir() or (directory / "new").is_dir():
            yield _decode(directory.name[1:]), directory


def read_folder(directory: Path) -> Iterator[Message]:
    """In the order of their UIDs; those without one come last. `key` is the file's path."""
    uids, keywords = read_uid_list(directory).uids, _read_keywords(directory)
    paths = [path for name in MESSAGE_DIRECTORIES for path in (directory / name).glob("*") if path.is_file()]
    for path in sorted(paths, key=lambda path: (uids.get(_base_name(path), 2**32), path.name)):
        letters = path.name.partition(":2,")[2]
        yield Message(
            content=path,
            flags=frozenset(FLAGS[letter] for letter in letters if letter in FLAGS),
            keywords=frozenset(keywords[letter] for letter in letters if letter in keywords),
            date=int(path.stat().st_mtime),
            uid=uids.get(_base_name(path), 0),
            key=str(path),
        )


def read_uid_list(directory: Path) -> UidList:
    """Empty if there is none, or another version's: then messages get new UIDs."""
    try:
        header, *lines = (directory / "dovecot-uidlist").read_text(errors="surrogateescape").splitlines()
    except (OSError, ValueError):
        return UidList(0, {})
    match = _UIDLIST_HEADER.match(header)
    if not match:
        return UidList(0, {})
    uids = {}
    for line in lines:
        number, _, name = line.partition(" ")
        name = name.rpartition(":")[2] if not name.startswith(":") else name[1:]
        if number.isdigit():
            uids[name.partition(":")[0]] = int(number)
    return UidList(int(match["validity"]), uids)


def skip_uids(directory: Path, count: int) -> None:
    """The folder's next message gets a UID that is higher by `count`: the lost server may have given the next ones.

    A mail program that remembers one of those takes it for deleted, and never for another message (RFC 3501, 2.3.1.1).
    """
    file = directory / "dovecot-uidlist"
    if not file.exists():
        return
    text = file.read_text(errors="surrogateescape")
    header, newline, rest = text.partition("\n")
    if match := _UIDLIST_HEADER.match(header):
        header = re.sub(r"\bN\d+", f"N{int(match['next']) + count}", header, count=1)
        file.write_text(f"{header}{newline}{rest}", errors="surrogateescape")


def _read_keywords(directory: Path) -> dict[str, str]:
    """`dovecot-keywords`: lines `0 name`; number 0 is the letter `a`."""
    keywords = {}
    file = directory / "dovecot-keywords"
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
        number, _, name = line.partition(" ")
        if number.isdigit() and int(number) < 26:
            keywords[chr(ord("a") + int(number))] = name
    return keywords


def _base_name(path: Path) -> str:
    return path.name.partition(":")[0]


def _decode(name: str) -> str:
    try:
        return decode_name(name)
    except ValueError:
        return name
