"""`mailkeep-learn.service`: teaches the spam filter what people have moved into and out of Junk.

Dovecot's script leaves a copy of each moved message in a spool. One learner works it off, oldest first, while the
machine has nothing better to do. If bogofilter fails, the copies stay, and systemd tries again.

People move spam, and hardly ever move other mail out of Junk. With lessons of one kind alone, bogofilter judges
nothing. With few of the other kind, it takes most mail for spam. So for what an account teaches as spam, it learns as
ham what the account has read and kept.
"""

import hashlib
import heapq
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from mailkeep_server.common import bulk_folders, paths
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.folder_names import find_purpose, read_name
from mailkeep_server.common.spam_header import VERDICT_HEADER
from mailkeep_server.common.wording import describe_error
from mailkeep_server.mailbox_move import find_home

SPOOL = Path(paths.LEARN_SPOOL)
KINDS = ("spam", "ham")
WORDS = Path(paths.SPAM_WORDS)
LEARN_OPTIONS, UNLEARN_OPTIONS = {"spam": "s", "ham": "n"}, {"spam": "N", "ham": "S"}
BOGOFILTER_DONE = (0, 1, 2)
MAX_KNOWN = 10_000
"""Messages of an account of which is known what they were learned as."""
KEPT_FOR_SPAM = 2
"""Lessons of ham for each of spam, chosen by bench/spam_quality.py."""
KEPT_SECONDS = 24 * 60 * 60
NOT_KEPT = ("Drafts", "Sent", "Junk", "Trash")
MAX_KEPT = 10_000
"""Messages of an account that are looked at, the newest: enough for as much spam as may wait to be learned."""
_READ = re.compile(r":2,[^T]*S[^T]*$")
"""maildir(5): S is seen, T is about to be deleted. Small letters are keywords, which mail programs set."""
_SPAM_FOLDER = re.compile("spam|junk|quarant", re.IGNORECASE)
_UNREADABLE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
"""Mail programs rename and remove files at any time, and a restored Maildir may have others' files. Nothing is learned
from these."""
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")
_VERDICT = re.compile(rb"^%s:.*\r?\n(?:[ \t].*\r?\n)*" % VERDICT_HEADER.encode(), re.IGNORECASE | re.MULTILINE)


def main(arguments: list[str]) -> int:
    """`arguments`: the bytes of a message that teach."""
    counts, kept, accounts = dict.fromkeys(KINDS, 0), 0, set[str]()
    try:
        for file in list_spooled(SPOOL):
            kind, account, message = parse_copy(file.read_bytes())
            if kind in KINDS:
                counts[kind] += learn_words(kind, account, message)
                accounts.add(account)
            file.unlink()
        for account in sorted(accounts):
            kept += learn_kept(account, find_home(account) / "Maildir", int(arguments[0]))
    except OSError as error:
        print(f"the spam filter learns later: {describe_error(error)}", file=sys.stderr)
        return 1
    print(f"learned: {counts['spam']} as spam, {counts['ham']} as ham, {kept} that were kept")
    return 0


def list_spooled(spool: Path) -> Iterator[Path]:
    """The copies, in the order of the moves; also those that come meanwhile."""
    while files := sorted((spool / "new").iterdir(), key=lambda file: file.stat().st_mtime_ns):
        yield from files


def parse_copy(content: bytes) -> tuple[str, str, bytes]:
    """Kind, account and message: `templates/spam/learn` writes the first two in one line before the message."""
    line, _, message = content.partition(b"\n")
    kind, _, account = line.decode(errors="replace").partition(" ")
    return kind, account, remove_verdict(message)


def remove_verdict(message: bytes) -> bytes:
    """What a filter has written into it is no word of the message."""
    end = _END_OF_HEADERS.search(message)
    size = end.end() if end else len(message)
    return _VERDICT.sub(b"", message[:size]) + message[size:]


def learn_kept(account: str, maildir: Path, max_bytes: int) -> int:
    """How many messages were learned as ham, so that there are enough for what was taught as spam. The newest come
    first."""
    known = read_lessons(account)
    lessons = [*known.values()]
    missing = KEPT_FOR_SPAM * lessons.count("spam") - lessons.count("ham")
    learned = 0
    for message in read_kept(list_kept_folders(maildir), max_bytes) if missing > 0 else ():
        if digest_message(message) not in known:
            learned += learn_words("ham", account, message)
            if learned == missing:
                break
    return learned


def list_kept_folders(maildir: Path) -> list[Path]:
    """The inbox, and the folders (Maildir++) in which people keep what others wrote. What a mail bomb brought, nobody
    has chosen."""
    folders = [folder for folder in (maildir, *maildir.glob(".*")) if (folder / "cur").is_dir()]
    return [folder for folder in folders if folder == maildir or _keeps_mail(folder.name)]


def _keeps_mail(folder: str) -> bool:
    levels = [read_name(os.fsencode(level))[0] for level in folder.removeprefix(".").split(".")]
    return not any(
        find_purpose((level,)) in NOT_KEPT or _SPAM_FOLDER.search(level) or bulk_folders.FOLDER.fullmatch(level)
        for level in levels
    )


def read_kept(folders: Iterable[Path], max_bytes: int) -> Iterator[bytes]:
    """What the account has read and kept, and got a day ago or earlier, the newest first: with CRLF, as the copies of
    what was moved."""
    ages = ((_measure_age(entry), entry.path) for folder in folders for entry in _list_read(folder))
    for _, path in heapq.nsmallest(MAX_KEPT, (age for age in ages if age[0] >= KEPT_SECONDS)):
        with suppress(*_UNREADABLE), Path(path).open("rb") as stream:
            yield remove_verdict(re.sub(rb"\r?\n", b"\r\n", stream.read(max_bytes))[:max_bytes])


def _list_read(folder: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(*_UNREADABLE), os.scandir(folder / "cur") as entries:
        yield from (entry for entry in entries if _READ.search(entry.name))


def _measure_age(entry: os.DirEntry[str]) -> float:
    """Seconds since the message came (mtime is IMAP's INTERNALDATE); 0 if it is gone."""
    try:
        return time.time() - entry.stat().st_mtime
    except _UNREADABLE:
        return 0.0


def digest_message(message: bytes) -> str:
    return hashlib.blake2b(message, digest_size=12).hexdigest()


def read_lessons(account: str) -> dict[str, str]:
    """As what each known message was learned, by its digest."""
    learned = WORDS / account / "learned"
    return dict(line.split() for line in learned.read_text().splitlines()) if learned.exists() else {}


def learn_words(kind: str, account: str, message: bytes) -> bool:
    """Whether the message was new to the account's word list. What it has learned as the other kind, it unlearns.
    Raises OSError if bogofilter fails."""
    directory = WORDS / account
    directory.mkdir(mode=0o700, exist_ok=True)
    digest = digest_message(message)
    known = read_lessons(account)
    if known.get(digest) == kind:
        return False
    options = LEARN_OPTIONS[kind] + (UNLEARN_OPTIONS[kind] if digest in known else "")
    done = subprocess.run(
        ["bogofilter", "-d", str(directory), f"-{options}"], input=message, capture_output=True, check=False
    )
    if done.returncode not in BOGOFILTER_DONE:
        raise OSError(f"bogofilter: {done.stderr.decode(errors='replace').strip()[:200]}")
    known.pop(digest, None)
    rows = [*known.items(), (digest, kind)][-MAX_KNOWN:]
    atomic_write(directory / "learned", "".join(f"{digest} {kind}\n" for digest, kind in rows), 0o600)
    return True
