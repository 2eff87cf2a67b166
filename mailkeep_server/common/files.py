"""Files on the server: replaced as a whole, and locked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def atomic_write(path: Path, content: str | bytes, mode: int = 0o644, *, durable: bool = True) -> None:
    """Replaces `path` by rename(2): a reader sees the old or the new file, whole, and a failure leaves the old one.

    The new file has exactly this `mode`, whatever the umask. Its group is that of a setgid directory. With `durable`
    file and directory are flushed (fsync(2)), so that the content survives a power loss once this returns. Without it,
    a power loss may bring back the former file: enough for state that is rebuilt, or that lies on a tmpfs.

    Two writers of one path must exclude each other: both would use `NAME.new`. Raises OSError.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)  # left by a run that was killed
    try:
        _write_new(new, content.encode() if isinstance(content, str) else content, mode, durable)
        new.rename(path)
    except OSError:
        new.unlink(missing_ok=True)  # a full disk gets its space back
        raise
    if durable:
        _sync_directory(path.parent)


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
def open_lock(path: Path) -> Iterator[TextIO]:
    """A file for flock(2) that only its owner can open, even if it was there with another mode. Whoever can open a lock
    file can hold it, and so block others."""
    with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        os.fchmod(file.fileno(), 0o600)
        yield file
