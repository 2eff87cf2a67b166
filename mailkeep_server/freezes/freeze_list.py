"""The freeze list: one file, in which the guard, Dovecot and the operator see the frozen accounts.

It is a passwd-file of Dovecot, whose passdb with `deny = yes` refuses every login listed in it. A line is
`ACCOUNT:!:::WHEN BY WHY::`, with WHEN in UTC as 20261125T160000Z.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG

from mailkeep_server.common import paths
from mailkeep_server.common.files import atomic_write

FILE = Path(paths.FREEZE_LIST)
_MODE = 0o640  # Dovecot reads it by its group, which the setgid directory gives
_TIME_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class FreezeRecord:
    at: datetime
    by: str
    """One word: `guard`, or the name of the operator."""
    why: str

    @property
    def entry(self) -> str:
        """The fifth field (GECOS) of the account's line."""
        return f"{self.at.astimezone(UTC):{_TIME_FORMAT}} {self.by} {self.why}"


FrozenAccounts = dict[str, FreezeRecord]


def read_freezes(path: Path = FILE) -> FrozenAccounts:
    """By account. A missing file freezes nobody. Raises OSError, UnicodeDecodeError."""
    try:
        lines = _read_text(path).splitlines()
    except FileNotFoundError:
        return {}
    return {fields[0]: parse_entry(fields[4]) for line in lines if len(fields := line.split(":")) > 4 and fields[0]}


def _read_text(path: Path) -> str:
    """Root reads this file too, in a directory of the guard's user: follow no link, and never wait at a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor) as file:
        status = os.fstat(descriptor)
        if not S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise PermissionError(f"{path} is not a plain file")
        return file.read()


def parse_entry(entry: str) -> FreezeRecord:
    """Reads `FreezeRecord.entry`. A line written by hand freezes too, though date and author are then unknown."""
    when, _, rest = entry.partition(" ")
    by, _, why = rest.partition(" ")
    try:
        at = datetime.strptime(when, _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return FreezeRecord(datetime.fromtimestamp(0, UTC), "somebody", entry)
    return FreezeRecord(at, by, why)


def freeze_account(account: str, by: str, why: str, at: datetime, path: Path = FILE) -> bool:
    """Adds the account, on the disk when this returns. False if it was frozen already, which stays as it was."""
    record = FreezeRecord(at, _printable(by).replace(" ", "-"), _printable(why))
    return _change(path, lambda accounts: accounts | {account: accounts.get(account, record)})


def thaw_account(account: str, path: Path = FILE) -> bool:
    """Removes the account. False if it was not frozen."""
    return _change(path, lambda accounts: {name: record for name, record in accounts.items() if name != account})


def create_if_missing(path: Path = FILE) -> None:
    """Without the file, Dovecot would refuse every login."""
    _change(path, lambda accounts: accounts)


def _printable(text: str) -> str:
    """Without colons and control characters, which a field of a passwd-file cannot hold."""
    return "".join(letter if letter.isprintable() and letter != ":" else " " for letter in text)


def _change(path: Path, change: Callable[[FrozenAccounts], FrozenAccounts]) -> bool:
    with _as_owner_of(path.parent.parent), _locked(path):
        before = read_freezes(path)
        after = change(before)
        if after == before and path.exists():
            return False
        lines = "".join(f"{name}:!:::{record.entry}::\n" for name, record in after.items())
        atomic_write(path, lines, _MODE)
        return after != before


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
    descriptor = os.open(path.parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
