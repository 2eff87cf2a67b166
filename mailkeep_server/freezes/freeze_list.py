"""The freeze list: one file, in which the guard, Dovecot and the operator see the frozen accounts.

It is a passwd-file of Dovecot, whose passdb with `deny = yes` refuses every login listed in it. A line is
`ACCOUNT:!:::WHEN BY WHY::`, with WHEN in UTC as 20261125T160000Z. A line written by hand may be the address alone.
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG

from mailkeep_server.common import paths
from mailkeep_server.common.files import atomic_write, prepare_spares
from mailkeep_server.common.spoilt_files import Access, describe_kind, mend_file, set_aside_unless_plain

FILE = Path(paths.FREEZE_LIST)
_MODE = 0o640  # Dovecot reads it by its group, which the setgid directory gives
_TIME_FORMAT = "%Y%m%dT%H%M%SZ"
_TIME = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)
_COLON = "\ua789"
"""Stands for a colon, as in an IPv6 address, which a field of a passwd-file cannot hold."""
LOCK = "lock"
LOCK_SECONDS = 0.5
SPARES = 8
"""Changes of the list that a full disk takes: each needs a file that was made before."""


@dataclass(frozen=True, slots=True)
class FreezeRecord:
    at: datetime
    by: str
    """One word: `guard`, or the name of the operator."""
    why: str

    @property
    def entry(self) -> str:
        """The fifth field (GECOS) of the account's line."""
        return f"{self.at.astimezone(UTC):{_TIME_FORMAT}} {self.by} {self.why}".replace(":", _COLON)


FrozenAccounts = dict[str, FreezeRecord]


@dataclass(frozen=True, slots=True)
class FreezeList:
    """The file's content. `bad_lines` are those in which no account can be read: number and quoted text."""

    accounts: FrozenAccounts
    bad_lines: tuple[tuple[int, str], ...]
    is_canonical: bool
    """Whether it is as Mailkeep writes it. Dovecot compares accounts letter by letter, and would let others in."""


def read_freezes(path: Path = FILE) -> FrozenAccounts:
    """By account. A missing file freezes nobody. Raises OSError."""
    return read_list(path).accounts


def read_list(path: Path = FILE) -> FreezeList:
    """Reads every line that names an account, whatever is in the others. Raises OSError."""
    try:
        content, changed = _read_file(path)
    except FileNotFoundError:
        return FreezeList({}, (), is_canonical=True)
    return parse_list(content, changed)


def parse_list(content: bytes, changed: datetime) -> FreezeList:
    """`changed` is when the file was written last: a line written by hand has no time of its own."""
    accounts: FrozenAccounts = {}
    bad_lines = []
    for number, line in enumerate(content.decode(errors="backslashreplace").split("\n"), 1):
        fields = line.strip(" \t\r\v\f\ufeff").split(":")
        if not fields[0] or fields[0].startswith("#"):
            if any(fields) and not fields[0]:
                bad_lines.append((number, ascii(line)))
            continue
        account, *words = fields[0].lower().split()
        if not _is_account(account):
            bad_lines.append((number, ascii(line)))
            continue
        entry = fields[4] if len(fields) > 4 else " ".join(words)
        accounts.setdefault(account, parse_entry(entry, changed))
    return FreezeList(accounts, tuple(bad_lines), content == _format_list(accounts).encode())


def _is_account(text: str) -> bool:
    return text.isascii() and text.isprintable() and "\\" not in text and 0 < text.find("@") < len(text) - 1


def _read_file(path: Path) -> tuple[bytes, datetime]:
    """Root reads this file too, in a directory of the guard's user: follow no link, and never wait at a pipe.

    A file with several names is read if it belongs to the directory's owner: a backup may have linked it. Another could
    be a link to a file of root's.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not S_ISREG(status.st_mode):
            raise OSError(f"{path} is {describe_kind(status.st_mode)}, not a plain file")
        if status.st_nlink > 1 and status.st_uid != path.parent.stat().st_uid:
            raise PermissionError(f"{path} has another name, and does not belong to the guard")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(), datetime.fromtimestamp(status.st_mtime, UTC)
    finally:
        os.close(descriptor)


def parse_entry(entry: str, changed: datetime = _UNKNOWN_TIME) -> FreezeRecord:
    """Reads `FreezeRecord.entry`. A line written by hand freezes too, though its author is then unknown."""
    when, _, rest = entry.partition(" ")
    by, _, why = rest.partition(" ")
    if _TIME.fullmatch(when):
        with suppress(ValueError):
            return FreezeRecord(datetime.fromisoformat(when), by, why.replace(_COLON, ":"))
    return FreezeRecord(changed.replace(microsecond=0), "somebody", _printable(entry).strip() or "by hand")


def freeze_account(account: str, by: str, why: str, at: datetime, path: Path = FILE) -> bool:
    """Adds the account, on the disk when this returns. False if it was frozen already, which stays as it was."""
    record = FreezeRecord(at, _printable(by).replace(" ", "-"), _printable(why))
    return _change(path, lambda accounts: accounts | {account: accounts.get(account, record)})


def thaw_account(account: str, path: Path = FILE) -> bool:
    """Removes the account. False if it was not frozen."""
    return _change(path, lambda accounts: {name: record for name, record in accounts.items() if name != account})


def restore_list(accounts: FrozenAccounts, path: Path = FILE) -> None:
    """Writes the list anew with these accounts, and those that it has itself. Without the file, Dovecot would refuse
    every login."""
    _change(path, lambda present: accounts | present)


def create_if_missing(path: Path = FILE) -> None:
    """Also writes what a person wrote by hand as Dovecot reads it."""
    _change(path, lambda accounts: accounts)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _format_list(accounts: FrozenAccounts) -> str:
    return "".join(f"{name}:!:::{record.entry}::\n" for name, record in accounts.items())


def _change(path: Path, change: Callable[[FrozenAccounts], FrozenAccounts]) -> bool:
    _mend_as_root(path)
    with _as_owner_of(path.parent.parent), _locked(path):
        content = read_list(path)
        after = change(content.accounts)
        is_there = path.exists()
        if after != content.accounts or not is_there or not content.is_canonical:
            _write(path, _format_list(after), content)
        with suppress(OSError):  # a full disk: the next change prepares them
            prepare_spares(_spares_of(path), len(_format_list(after)))
        return after != content.accounts


def _write(path: Path, text: str, former: FreezeList) -> None:
    set_aside_unless_plain(path.with_name(f"{path.name}.new"))
    if former.bad_lines:  # whoever wrote them may have meant an account: keep them to be read
        with suppress(OSError):
            atomic_write(path.with_name(f"{path.name}.spoilt-lines"), path.read_bytes(), 0o600)
    atomic_write(path, text, _MODE, spares=_spares_of(path))


def _spares_of(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}.spare{number}") for number in range(SPARES)]


def _mend_as_root(path: Path) -> None:
    """The list and its lock may have become root's, as when an editor wrote them: the guard could use neither."""
    if os.geteuid() == 0:
        with suppress(OSError):
            directory = path.parent.lstat()
            access = Access(directory.st_uid, directory.st_gid, _MODE)
            for name in (path.name, LOCK):
                mend_file(path.with_name(name), access)


@contextmanager
def _as_owner_of(directory: Path) -> Iterator[None]:
    """Root acts as the guard's user, so that a link planted by this user gives it no more than its own rights.

    New files belong to that user, which is thus not locked out. The user must not be able to replace `directory`.
    """
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(directory.stat().st_uid)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = path.parent / LOCK
    set_aside_unless_plain(lock)
    try:
        descriptor = _open_lock(lock)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        lock.unlink()  # somebody else's: nobody but root could hold it
        descriptor = _open_lock(lock)
    try:
        _take_lock(descriptor, lock)
        yield
    finally:
        os.close(descriptor)


def _take_lock(descriptor: int, lock: Path) -> None:
    """Does not wait for long: meanwhile the guard answers nobody."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise BlockingIOError(errno.EAGAIN, "another program holds it: `lslocks` names it", str(lock)) from None
            time.sleep(0.01)
        else:
            return


def _open_lock(lock: Path) -> int:
    return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
