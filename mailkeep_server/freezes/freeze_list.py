"""The frozen accounts: one file, which is the truth for the guard, for Dovecot and for the operator.

It is a passwd-file of Dovecot, whose passdb with `deny = yes` refuses every login that is named in it. A line is
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

FILE = Path("/var/lib/mailkeep-guard/frozen/accounts")
_WHEN = "%Y%m%dT%H%M%SZ"

Accounts = dict[str, "Frozen"]


@dataclass(frozen=True, slots=True)
class Frozen:
    at: datetime
    by: str
    """One word: `guard`, or who did it by hand."""
    why: str

    @property
    def line(self) -> str:
        return f"{self.at.astimezone(UTC):{_WHEN}} {self.by} {self.why}"


def read(path: Path = FILE) -> Accounts:
    """By account. A file that is not there names nobody."""
    try:
        lines = _text(path).splitlines()
    except FileNotFoundError:
        return {}
    return {fields[0]: parsed(fields[4]) for line in lines if len(fields := line.split(":")) > 4 and fields[0]}


def _text(path: Path) -> str:
    """Root reads it too, in a directory of the guard's user: no link leads it elsewhere, no pipe makes it wait."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor) as file:
        stat = os.fstat(descriptor)
        if not S_ISREG(stat.st_mode) or stat.st_nlink > 1:
            raise PermissionError(f"{path} is no plain file")
        return file.read()


def parsed(gecos: str) -> Frozen:
    """Reads `Frozen.line`. What somebody wrote by hand freezes as well; then only the account is known."""
    when, _, rest = gecos.partition(" ")
    by, _, why = rest.partition(" ")
    try:
        at = datetime.strptime(when, _WHEN).replace(tzinfo=UTC)
    except ValueError:
        return Frozen(datetime.fromtimestamp(0, UTC), "somebody", gecos)
    return Frozen(at, by, why)


def freeze(account: str, by: str, why: str, at: datetime, path: Path = FILE) -> bool:
    """Adds the account; whether it was not frozen yet. On the disk when this returns."""
    frozen = Frozen(at, _plain(by).replace(" ", "-"), _plain(why))
    return _change(path, lambda accounts: accounts | {account: accounts.get(account, frozen)})


def thaw(account: str, path: Path = FILE) -> bool:
    """Removes the account; whether it was frozen."""
    return _change(path, lambda accounts: {name: one for name, one in accounts.items() if name != account})


def _plain(text: str) -> str:
    """What a field of a passwd-file can hold."""
    return "".join(letter if letter.isprintable() and letter != ":" else " " for letter in text)


def _change(path: Path, change: Callable[[Accounts], Accounts]) -> bool:
    with _as_its_owner(path.parent.parent), _alone(path):
        before = read(path)
        after = change(before)
        if after == before and path.exists():
            return False
        _replace(path, "".join(f"{name}:!:::{frozen.line}::\n" for name, frozen in after.items()))
        return after != before


def make(path: Path = FILE) -> None:
    """The file, if it is not there: without it Dovecot would let nobody in."""
    _change(path, lambda accounts: accounts)


@contextmanager
def _as_its_owner(directory: Path) -> Iterator[None]:
    """Root, who freezes by hand, is the guard's user meanwhile: whatever that user has put in the way, nothing happens
    that it could not do itself, and what is made here does not lock it out. `directory` is one that it cannot replace;
    the group of the file is inherited from the one below, which is setgid."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(directory.stat().st_uid)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    descriptor = os.open(path.parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: str) -> None:
    """By rename, and with fsync(2) on file and directory: a freeze survives a power loss."""
    new = path.with_name("accounts.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
