"""Replacing a file of the operator's as a whole: vault, settings, identity."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, status: os.stat_result | None = None, overwrite: bool = True) -> None:
    """Replaces `path`: a reader sees the old or the new file, whole, and a failure leaves the old one.

    The new file has the mode and owner of `status`, by default 0600 and the user's. It is flushed (fsync(2)) together
    with its directory, so that it survives a power loss. Raises OSError; FileExistsError if the file exists and
    `overwrite` is false.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp(3): mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
            if status:
                os.fchown(descriptor, status.st_uid, status.st_gid)
                os.fchmod(descriptor, status.st_mode & 0o7777)
        if overwrite:
            Path(temporary).replace(path)
        else:
            path.hardlink_to(temporary)  # unlike rename(2), link(2) refuses an existing target
    finally:
        Path(temporary).unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
