"""State files that somebody spoilt: of another kind, of another owner, unreadable. They are mended or set aside.

Root mends owners. The guard, which owns its directory, can only rename what it may not open. Nothing is deleted: a file
set aside stays beside its place as `NAME.spoilt-TIME`, and only the oldest of many goes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_IMODE, S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG, S_ISSOCK

MAX_KEPT = 3
"""Files set aside of one name. A disk that spoils a file again and again must not be filled by copies."""
_KINDS = ((S_ISDIR, "a directory"), (S_ISLNK, "a symbolic link"), (S_ISFIFO, "a named pipe"), (S_ISSOCK, "a socket"))


@dataclass(frozen=True, slots=True)
class Access:
    """Who a file belongs to, by number, and its mode."""

    user: int
    group: int
    mode: int = 0o640


def set_aside(path: Path) -> Path:
    """Renames `path` to `NAME.spoilt-TIME`, and returns the new path. Needs no free byte. Raises OSError."""
    prefix = f"{path.name}.spoilt-"
    aside = path.with_name(f"{prefix}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    path.rename(aside)
    kept = sorted(other for other in path.parent.iterdir() if other.name.startswith(prefix))
    for oldest in kept[:-MAX_KEPT]:
        with suppress(OSError):  # a directory stays
            oldest.unlink()
    return aside


def set_aside_unless_plain(path: Path, name: Path | None = None) -> str:
    """Makes way for a file where there is something else. Returns a sentence about it, or "". The sentence says `name`
    where `path` is another way to the file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return ""
    if S_ISREG(mode):
        return ""
    return f"{name or path} was {describe_kind(mode)}: it is kept as {set_aside(path).name}"


def describe_kind(mode: int) -> str:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "no plain file")


def mend_file(path: Path, access: Access) -> str:
    """Gives a file to its owner; sets aside what is no plain file. For root. Returns a sentence about it, or "".

    Its directory may be another user's: no link is followed, there or in the directory's place. A file with several
    names that is not that user's is never handed over: it may be a link to a file of root's. Raises OSError.
    """
    with _hold_directory(path.parent) as directory:
        return _mend_held_file(directory / path.name, path, access)


@contextmanager
def _hold_directory(path: Path) -> Iterator[Path]:
    """A way to the directory that stays, whatever its owner puts in its place. Raises OSError if it is a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _mend_held_file(path: Path, name: Path, access: Access) -> str:
    if sentence := set_aside_unless_plain(path, name):
        return sentence
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid) == (access.user, access.group) and status.st_mode & 0o600 == 0o600:
            return ""
        if not S_ISREG(status.st_mode) or (status.st_nlink > 1 and status.st_uid != access.user):
            return f"{name} belonged to user {status.st_uid}, with another name: it is kept as {set_aside(path).name}"
        os.fchown(descriptor, access.user, access.group)
        os.fchmod(descriptor, access.mode)
    finally:
        os.close(descriptor)
    former = f"{status.st_uid}:{status.st_gid} {S_IMODE(status.st_mode):04o}"
    return f"{name} was {former} (owner:group mode), with which the guard could not work: it is mended"


def mend_directory(path: Path, access: Access) -> str:
    """Makes the directory if it is missing, and gives it to its owner. Sets aside what is no directory. For root."""
    sentence = ""
    try:
        mode = path.lstat().st_mode
        if not S_ISDIR(mode):
            sentence = f"{path} was {describe_kind(mode)}: it is kept as {set_aside(path).name}"
            path.mkdir(0o700)
    except FileNotFoundError:
        sentence = f"{path} was missing: it is made anew"
        path.mkdir(0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid, S_IMODE(status.st_mode)) != (access.user, access.group, access.mode):
            os.fchown(descriptor, access.user, access.group)
            os.fchmod(descriptor, access.mode)
            former = f"{status.st_uid}:{status.st_gid} {S_IMODE(status.st_mode):04o}"
            sentence = sentence or f"{path} was {former} (owner:group mode): it is mended"
    finally:
        os.close(descriptor)
    return sentence
