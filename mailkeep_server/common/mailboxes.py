"""Mailboxes that Dovecot's delivery cannot write: it runs as `vmail`, and so all of a mailbox must belong to it."""

import os
import stat
from collections.abc import Iterable, Iterator

ROOT = "/var/vmail"
USER = "vmail"
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
"""A command line that begins so can follow no link of a mailbox to a file of another user."""
READ_ONLY = "dovecot-uidvalidity."
"""Empty files of Dovecot's, which have mode 444: their names are their content."""
LEVELS = 3  # of directories in a home: Maildir, its folders, and their cur, new and tmp


def walk_mailboxes(accounts: Iterable[str], root: str = ROOT) -> Iterator[str]:
    """All that delivery to these accounts writes: the directories above the homes, the homes, `/var/vmail/DOMAIN/USER`,
    their folders and Dovecot's files in them. Messages are not among them.

    Other directories are not ours: a disk of its own has `lost+found`, which is root's.
    """
    users = sorted(account.rpartition("@")[::-2] for account in accounts)
    yield root
    yield from (f"{root}/{domain}" for domain in dict.fromkeys(domain for domain, _ in users))
    for domain, user in users:
        home = f"{root}/{domain}/{user}"
        yield home
        yield from _walk(home, LEVELS)


def find_home(path: str, root: str = ROOT) -> str:
    """The home that a path belongs to; for a directory above the homes, itself."""
    return root + "/".join(path.removeprefix(root).split("/")[:3])


def find_fault(path: str, uid: int) -> str:
    """Why this user cannot write a directory or file; empty if it can, or if there is none.

    A link counts as its target, as for delivery: mail may be on another disk.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - of up to 100,000 paths
    except FileNotFoundError:
        return f"{path} is a link to nothing" if os.path.islink(path) else ""  # noqa: PTH114
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if status.st_uid != uid:
        return f"{path} belongs to user {status.st_uid}, not to {USER}"
    if os.path.basename(path).startswith(READ_ONLY):  # noqa: PTH119
        return ""
    needed = stat.S_IRWXU if stat.S_ISDIR(status.st_mode) else stat.S_IRUSR | stat.S_IWUSR
    if status.st_mode & needed != needed:
        return f"{path} has mode {stat.S_IMODE(status.st_mode):03o}, and {USER} cannot write it"
    return ""


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
