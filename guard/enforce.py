"""What a freeze needs root for: cutting sessions, and holding, showing and deleting one account's queued mail."""

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from guard.config import base

SAMPLES = Path("/var/lib/mailkeep-watch/samples")
SAMPLE = 20
"""Messages kept of each frozen account, of at most so many bytes each."""
SAMPLE_BYTES = 65_536
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
    """What came of it: messages put on hold, sessions cut, where the sample is."""

    held: int
    kicked: int
    sample: str | None


def enforce(account: str, addresses: Iterable[str]) -> Enforced:
    """Cuts the account's sessions and puts its queued mail on hold; what is so already stays so."""
    kicked = kick(account)
    found = [message for message in queue(account, addresses) if message.queue != "hold"]
    sample = keep_sample(account, found)
    hold(found)
    return Enforced(len(found), kicked, sample)


def kick(account: str) -> int:
    """Cuts the IMAP sessions of an account (doveadm-kick(1)); how many there were, none where Dovecot does not run."""
    _title, _, count = _run("doveadm", "-f", "tab", "kick", account, check=False).partition("\n")
    return int(count or 0)


def queue(account: str, addresses: Iterable[str]) -> list[Queued]:
    """What is in the queue of the mail that this login sent. `addresses` are those it may send from; who else may send
    from them too keeps theirs: the queue file says who logged in."""
    owned = {account, *addresses}
    listed = (json.loads(line) for line in _run("postqueue", "-j").splitlines())
    candidates = [_queued(one) for one in listed if base(one["sender"]) in owned]
    return [one for one in candidates if _login(one.queue_id) == account]


def hold(messages: Iterable[Queued]) -> None:
    _postsuper("-h", messages)


def release(messages: Iterable[Queued]) -> None:
    _postsuper("-H", messages)


def delete(messages: Iterable[Queued]) -> None:
    _postsuper("-d", messages)


def keep_sample(account: str, messages: list[Queued]) -> str | None:
    """Copies the first messages beside the watch's state, to see later what was sent; returns where."""
    kept = SAMPLES / account
    there = len(list(kept.iterdir())) if kept.is_dir() else 0
    for message in messages[: max(SAMPLE - there, 0)]:
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = _run("postcat", "-q", message.queue_id, check=False)
        (kept / message.queue_id).write_text(text[:SAMPLE_BYTES])
    return str(kept) if kept.is_dir() else None


def _login(queue_id: str) -> str:
    """Who logged in to send it; nobody, or gone meanwhile: empty."""
    lines = _run("postcat", "-eq", queue_id, check=False).splitlines()
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
        _run("postsuper", option, "-", stdin=ids)


def _run(*command: str, stdin: str = "", check: bool = True) -> str:
    """Standard output; CalledProcessError has the error output too."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, errors="replace", check=check)
    return done.stdout
