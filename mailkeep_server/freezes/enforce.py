"""What a freeze needs root for: cutting sessions, and holding, showing and deleting one account's queued mail."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mailkeep_server.common.commands import reading, run
from mailkeep_server.guard.config import base

SAMPLES = Path("/var/lib/mailkeep-watch/samples")
SAMPLE = 20
"""Messages kept of each frozen account, of at most so many bytes each."""
SAMPLE_BYTES = 65_536
AT_ONCE = 100
"""Messages that are put on hold together: what was found so far does not wait for all of a long queue."""
PATIENCE = 120.0
"""Seconds for a command that goes through the whole queue."""
_LOGIN = "named_attribute: sasl_username="


@dataclass(frozen=True, slots=True)
class Queued:
    """A message in Postfix's queue (postqueue(1), -j)."""

    queue_id: str
    queue: str
    sender: str
    recipients: tuple[str, ...]
    size: int
    arrived: int


@dataclass(frozen=True, slots=True)
class Enforced:
    """What came of it: messages put on hold, sessions cut, where the sample is, and what could not be done."""

    held: int
    kicked: int
    sample: str
    error: str


def enforce(account: str, addresses: Iterable[str]) -> Enforced:
    """Puts the account's queued mail on hold, cuts its sessions and keeps a sample; what is so already stays so.

    In this order, and whatever fails, the rest is done: the mail must not go out because of a sample of it."""
    held: list[Queued] = []
    kicked, sample, errors = 0, "", list[str]()
    with _noted(errors):
        for found in _sent_by(account, [one for one in _from(account, addresses) if one.queue != "hold"]):
            hold(found)
            held += found
    with _noted(errors):
        kicked = kick(account)
    with _noted(errors):
        sample = keep_sample(account, held)
    return Enforced(len(held), kicked, sample, "; ".join(errors))


@contextmanager
def _noted(errors: list[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, the next thing is due
        errors.append(f"{type(error).__name__}: {error}")


def kick(account: str) -> int:
    """Cuts the IMAP sessions of an account (doveadm-kick(1)); how many there were, none where Dovecot does not run."""
    _title, _, count = run("doveadm", "-f", "tab", "kick", account, check=False).partition("\n")
    return int(count or 0)


def queue(account: str, addresses: Iterable[str]) -> list[Queued]:
    """What is in the queue of the mail that this login sent. `addresses` are those it may send from."""
    return [one for found in _sent_by(account, _from(account, addresses)) for one in found]


def _from(account: str, addresses: Iterable[str]) -> list[Queued]:
    """What is in the queue from these addresses, whoever sent it."""
    owned = {account, *addresses}
    with reading("postqueue", "-j", timeout=PATIENCE) as lines:
        return [_queued(one) for one in map(json.loads, lines) if base(one["sender"]) in owned]


def _sent_by(account: str, candidates: list[Queued]) -> Iterator[list[Queued]]:
    """Those of this login, so many at a time. Who else may send from its addresses keeps theirs: the queue file says
    who logged in."""
    for start in range(0, len(candidates), AT_ONCE):
        yield [one for one in candidates[start : start + AT_ONCE] if _login(one.queue_id) == account]


def hold(messages: Iterable[Queued]) -> None:
    _postsuper("-h", messages)


def release(messages: Iterable[Queued]) -> None:
    _postsuper("-H", messages)


def delete(messages: Iterable[Queued]) -> None:
    _postsuper("-d", messages)


def keep_sample(account: str, messages: list[Queued]) -> str:
    """Copies how the first messages begin beside the watch's state, to see later what was sent; returns where, if
    there is a sample."""
    kept = SAMPLES / account
    there = len(list(kept.iterdir())) if kept.is_dir() else 0
    for message in messages[: max(SAMPLE - there, 0)]:
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        with reading("postcat", "-q", message.queue_id) as text:
            (kept / message.queue_id).write_bytes(text.read(SAMPLE_BYTES))
    return str(kept) if kept.is_dir() else ""


def _login(queue_id: str) -> str:
    """Who logged in to send it; nobody, or gone meanwhile: empty."""
    lines = run("postcat", "-eq", queue_id, check=False).splitlines()
    return next((line.removeprefix(_LOGIN).lower() for line in lines if line.startswith(_LOGIN)), "")


def _queued(one: dict[str, object]) -> Queued:
    recipients = one["recipients"]
    assert isinstance(recipients, list)
    return Queued(
        queue_id=str(one["queue_id"]),
        queue=str(one["queue_name"]),
        sender=str(one["sender"]),
        recipients=tuple(str(recipient["address"]) for recipient in recipients),
        size=int(str(one["message_size"])),
        arrived=int(str(one["arrival_time"])),
    )


def _postsuper(option: str, messages: Iterable[Queued]) -> None:
    if ids := "".join(f"{message.queue_id}\n" for message in messages):
        run("postsuper", option, "-", stdin=ids, timeout=PATIENCE)
