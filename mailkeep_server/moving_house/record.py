"""How far this machine is in a move. It is changed under a lock: a timer of its own may change it, too."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mailkeep_server.common import paths
from mailkeep_server.common.files import atomic_write, open_lock

STATE = Path(paths.MOVE_STATE)
FILE = Path(paths.MOVE_RECORD)


class MoveError(Exception):
    """A sentence that says why a step of the move cannot be done."""


@dataclass
class MoveRecord:
    """`phase` is empty, or `stopped` on the old machine, or `ready` and `placing` on the new one, or `arrived`. `token`
    is the stop of the old machine's services that it belongs to: what is ready belongs to no other stop."""

    phase: str = ""
    token: str = ""
    has_left: bool = False
    """The mail is on another machine now, and what is here is an older copy of it."""
    messages: int = 0
    """Of all mailboxes, when they had arrived."""


def read_record() -> MoveRecord:
    """Raises MoveError."""
    try:
        return MoveRecord(**json.loads(FILE.read_text()))
    except FileNotFoundError:
        return MoveRecord()
    except (ValueError, TypeError) as error:
        raise MoveError(f"{FILE} is not as Mailkeep wrote it ({error})") from None


@contextmanager
def change_record() -> Iterator[MoveRecord]:
    """The record, locked. What the caller has changed is on the disk afterwards, unless it raised."""
    STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open_lock(STATE / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = read_record()
        yield record
        save_record(record)


def save_record(record: MoveRecord) -> None:
    """Only for who holds the lock."""
    atomic_write(FILE, f"{json.dumps(asdict(record))}\n", 0o600)
