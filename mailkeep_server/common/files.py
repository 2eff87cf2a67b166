"""Files on the server: replaced as a whole, and locked."""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from stat import S_ISREG

MIN_SPARE_BYTES = 8192


def atomic_write(
    path: Path, content: str | bytes, mode: int = 0o644, *, durable: bool = True, spares: Sequence[Path] = ()
) -> None:
    """Replaces `path` by rename(2): a reader sees the old or the new file, whole, and a failure leaves the old one.

    The new file has exactly this `mode`, whatever the umask. Its group is that of a setgid directory. With `durable`
    file and directory are flushed (fsync(2)), so that the content survives a power loss once this returns. Without it,
    a power loss may bring back the former file: enough for state that is rebuilt, or that lies on a tmpfs.

    Two writers of one path must exclude each other: both would use `NAME.new`. On a full disk, one of the `spares`
    that `prepare_spares` has made becomes the new file: it has its inode and its blocks already. Raises OSError.
    """
    new = path.with_name(f"{path.name}.new")
    data = content.encode() if isinstance(content, str) else content
    new.unlink(missing_ok=True)  # left by a run that was killed
    try:
        _write_new(new, data, mode, durable)
        new.rename(path)
    except OSError as error:
        new.unlink(missing_ok=True)  # a full disk gets its space back
        spare = _find_spare(spares, len(data)) if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        if spare is None:
            raise
        _write_into_spare(spare, data, mode)
        spare.rename(path)
    if durable:
        _sync_directory(path.parent)


def prepare_spares(spares: Iterable[Path], size: int) -> None:
    """Makes files into which `atomic_write` can write when the disk is full: `size` bytes and some more, one a change.

    A new one has twice that room, so that a file that grows does not have them written anew each time.
    They are filled, not only allocated: writing to blocks that were never written can need a further one. Raises
    OSError.
    """
    needed = size + MIN_SPARE_BYTES
    for spare in spares:
        if _find_spare([spare], needed) is None:
            atomic_write(spare, b"\0" * (2 * needed), 0o600, durable=False)


def _find_spare(spares: Iterable[Path], size: int) -> Path | None:
    for spare in spares:
        with suppress(OSError):
            status = spare.lstat()
            if S_ISREG(status.st_mode) and status.st_size >= size:
                return spare
    return None


def _write_into_spare(spare: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(spare, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.truncate()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def _write_new(new: Path, content: bytes, mode: int, durable: bool) -> None:
    # O_EXCL: no link that somebody else has put there is followed. No wider than `mode` from the start.
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        if durable:
            file.flush()
            os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def open_lock(path: Path) -> Iterator[TextIOWrapper]:
    """A file for flock(2) that only its owner can open, even if it was there with another mode. Whoever can open a lock
    file can hold it, and so block others."""
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        os.fchmod(file.fileno(), 0o600)
        yield file
