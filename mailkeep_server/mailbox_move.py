"""Moves a mailbox to an account's new address, with its UIDs, flags and index. Nothing is deleted that has mail.

After the deploy, mail to the new address may have made a mailbox there already. Its messages go into the old one, which
becomes the new one's: Dovecot takes files that appear in a maildir as new messages.
"""

import errno
import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mailkeep_server.common import mailboxes, paths

_ASIDE = ".before-rename"
_MESSAGES = ("cur", "new")


def find_home(account: str, root: str = mailboxes.ROOT) -> Path:
    local_part, _, domain = account.rpartition("@")
    return Path(root, domain, local_part)


@contextmanager
def act_as(user: str) -> Iterator[None]:
    """Root has only this user's rights: a link that an intruder with the user's rights has planted gives no more.

    Raises KeyError if there is no such user.
    """
    entry = pwd.getpwnam(user)
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def move_mailbox(old: Path, new: Path) -> int:
    """Returns how many messages were there at the new address. Raises OSError; then it may be repeated."""
    while old.exists():
        if new.exists():
            new.rename(_find_free_name(new))
        _make_parent(old.parent, new.parent)
        try:
            old.rename(new)
        except OSError as error:  # a delivery has just made it anew
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    return sum(_take_messages(aside, new) for aside in sorted(new.parent.glob(f"{new.name}{_ASIDE}*")))


def move_words(old: str, new: str, root: Path = Path(paths.SPAM_WORDS)) -> None:
    """What the account has taught the spam filter. It replaces the little that the new address has taught since the
    deploy. Raises OSError; then it may be repeated."""
    if (root / old).exists():
        shutil.rmtree(root / new, ignore_errors=True)
        (root / old).rename(root / new)


def _find_free_name(home: Path) -> Path:
    names = (home.with_name(f"{home.name}{_ASIDE}{number}") for number in range(1, 1000))
    return next(name for name in names if not name.exists())


def _make_parent(old: Path, new: Path) -> None:
    """The directory of another domain, with the same owner and mode."""
    if not new.exists():
        status = old.stat()
        new.mkdir(status.st_mode & 0o7777)
        os.chown(new, status.st_uid, status.st_gid)


def _take_messages(aside: Path, home: Path) -> int:
    """Moves the messages of each folder. What is left, as a script, stays where it is."""
    count = 0
    for directory in [path for path in (aside / "Maildir").rglob("*") if path.name in _MESSAGES and path.is_dir()]:
        if not directory.exists():
            continue  # its folder is moved
        target = home / directory.relative_to(aside)
        if not target.exists():
            folder = directory.parent
            count += sum(len(list((folder / name).iterdir())) for name in _MESSAGES if (folder / name).is_dir())
            folder.rename(target.parent)
            continue
        for message in directory.iterdir():
            if (target / message.name).exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target / message.name))
            message.rename(target / message.name)
            count += 1
    has_mail = any(path.is_file() for name in _MESSAGES for path in (aside / "Maildir").rglob(f"{name}/*"))
    scripts = [path for directory in (aside, aside / "sieve") for path in directory.glob("*.sieve")]
    if not has_mail and not scripts:
        shutil.rmtree(aside)
    return count
