"""Freezing and thawing an account on the servers of an inventory: `mailkeepctl` there, asked from here."""

from collections.abc import Iterator
from pathlib import Path
from shlex import join

from mailkeep.errors import UserError
from mailkeep.verify.target import Target, each


def freeze(inventory: Path, account: str, why: str) -> Iterator[tuple[str, str]]:
    """No mail, no login, sessions cut, queued mail held; what each host says of it. UserError at last when one did not
    do it: the others have."""
    return _ask(inventory, "freeze", f"--why={why}", "--", account)


def thaw(inventory: Path, account: str) -> Iterator[tuple[str, str]]:
    """The account may send and log in again; what each host says, and what is still held there. UserError as above."""
    return _ask(inventory, "thaw", "--", account)


def _ask(inventory: Path, *command: str) -> Iterator[tuple[str, str]]:
    def ask(target: Target) -> tuple[str, str]:
        done = target.run(join(["mailkeepctl", *command]))
        if done.rc:
            raise UserError((done.stderr or done.stdout).strip() or f"exit {done.rc}")
        return target.name, done.stdout.rstrip()

    return each(inventory, ask)
