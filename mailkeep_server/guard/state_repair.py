"""`mailkeep-guard.service` runs this as root before the guard: owners and kinds in the guard's state directory.

The guard has no rights to mend what became root's, as when somebody restored a backup or wrote a name with an editor.
What it can only set aside, with its content, root can give back.
"""

import contextlib
import grp
import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path

from mailkeep_server.common.paths import GUARD_DATABASE_FILES
from mailkeep_server.common.spoilt_files import Access, mend_directory, mend_file
from mailkeep_server.freezes import freeze_list

REPORT = "repairs"
"""In the guard's runtime directory: a sentence a line, which the guard makes into events."""


def main(arguments: list[str]) -> int:
    """Arguments: the guard's user, and the group of those who read the freeze list."""
    user, reader_group = pwd.getpwnam(arguments[0]), grp.getgrnam(arguments[1]).gr_gid
    state, runtime = (Path(os.environ[name]) for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY"))
    sentences = [*mend_state(state, user.pw_uid, user.pw_gid, reader_group)]
    if sentences:
        print(*sentences, sep="\n", file=sys.stderr)
        _write_report(runtime / REPORT, sentences)
    return 0


def mend_state(state: Path, user: int, group: int, reader_group: int) -> Iterator[str]:
    """A sentence for each repair. An error is one, too: the next repair is due."""
    frozen, access = state / "frozen", Access(user, group)
    readable = Access(user, reader_group)
    repairs = [
        (mend_directory, state, Access(user, group, 0o711)),
        *((mend_file, state / name, access) for name in GUARD_DATABASE_FILES),
        (mend_directory, frozen, Access(user, reader_group, 0o2750)),
        *((mend_file, frozen / name, readable) for name in (freeze_list.FILE.name, freeze_list.LOCK, "agreed.json")),
    ]
    for mend, path, right_access in repairs:
        try:
            if sentence := mend(path, right_access):
                yield sentence
        except OSError as error:
            yield f"{path} could not be mended: {error}"


def _write_report(file: Path, sentences: list[str]) -> None:
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "w") as report:
            report.write("".join(f"{sentence}\n" for sentence in sentences))


def take_report(file: Path) -> list[str]:
    """The sentences of the last repair, once."""
    try:
        sentences = file.read_text().splitlines()
        file.unlink()
    except OSError:
        return []
    return sentences
