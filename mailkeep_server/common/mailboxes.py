"""Mailboxes that Dovecot's delivery cannot write: it runs as `vmail`, and so all of a mailbox must belong to it."""

import os
import stat
from collections.abc import Iterator

ROOT = "/var/vmail"
USER = "vmail"
READ_ONLY = "dovecot-uidvalidity."
"""Empty files of Dovecot's, which have mode 444: their names are their content."""
LEVELS = 3  # of directories in a home: Maildir, its folders, and their cur, new and tmp


def list_homes(root: str = ROOT) -> list[str]:
    """The homes, as `/var/vmail/DOMAIN/USER`, and the directories above them."""
    domains = _list_directories(root)
    return [root, *domains, *(home for domain in domains for home in _list_directories(domain))]


def find_fault(path: str, uid: int) -> str:
    """Why this user cannot write a directory or file; empty if it can, or if there is none any more."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return ""
    if status.st_uid != uid:
        return f"{path} belongs to user {status.st_uid}, not to {USER}"
    if os.path.basename(path).startswith(READ_ONLY):  # noqa: PTH119 - of up to 100,000 paths
        return ""
    needed = stat.S_IRWXU if stat.S_ISDIR(status.st_mode) else stat.S_IRUSR | stat.S_IWUSR
    if status.st_mode & needed != needed and not stat.S_ISLNK(status.st_mode):
        return f"{path} has mode {stat.S_IMODE(status.st_mode):03o}, and {USER} cannot write it"
    return ""


def find_home_fault(home: str, uid: int) -> str:
    """The first fault of a home, its folders and Dovecot's files in them; messages are not looked at."""
    return next(filter(None, (find_fault(path, uid) for path in (home, *_walk(home, LEVELS)))), "")


def is_home(path: str, root: str = ROOT) -> bool:
    """Whether it is a home, not a directory above."""
    return path.removeprefix(root).count("/") == 2


def _walk(directory: str, levels: int) -> Iterator[str]:
    """All below a directory but the messages, which are in cur, new and tmp."""
    if not levels or os.path.basename(directory) in ("cur", "new", "tmp"):  # noqa: PTH119
        return
    try:
        with os.scandir(directory) as entries:
            paths = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return
    for path, is_directory in paths:
        yield path
        if is_directory:
            yield from _walk(path, levels - 1)


def _list_directories(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
