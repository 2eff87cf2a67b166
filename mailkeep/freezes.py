"""Freezing and thawing an account on the servers of an inventory: `mailkeepctl` there, asked from here."""

from collections.abc import Iterator
from pathlib import Path
from shlex import join

from mailkeep import inventory as inventories
from mailkeep.errors import UserError
from mailkeep.verify.target import Target, UnreachableError, run


def freeze(inventory: Path, account: str, why: str) -> Iterator[tuple[str, str]]:
    """No mail, no login, sessions cut, queued mail held; what each host says of it. UserError as `_ask` raises it."""
    return _ask(inventory, "freeze", account, "--why", why)


def thaw(inventory: Path, account: str) -> Iterator[tuple[str, str]]:
    """The account may send and log in again; what each host says, and what is still held there."""
    return _ask(inventory, "thaw", account)


def _ask(inventory: Path, *command: str) -> Iterator[tuple[str, str]]:
    """UserError when a host cannot be reached, or does not do it; the hosts before it have done it."""
    for name, data in inventories.hosts(inventory).items():
        target = Target(name, data)
        try:
            done = run(target.host, join(["mailkeepctl", *command]))
        except UnreachableError as error:
            raise UserError(f"{name}: {error}. `ssh {name}` must get in without a question.") from None
        if done.rc:
            raise UserError(f"{name}: {(done.stderr or done.stdout).strip() or f'exit {done.rc}'}")
        yield name, done.stdout.rstrip()
