"""Freezing and thawing an account on the servers of an inventory, by their `mailkeepctl`."""

from collections.abc import Iterator
from pathlib import Path
from shlex import join
from typing import NamedTuple

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, for_each_host
from mailkeep.operate.ctl_answers import CtlAnswer, ask_mailkeepctl


def freeze_account(inventory: Path, account: str, reason: str) -> Iterator[CtlAnswer]:
    """Refuses its mail and logins, cuts its sessions and holds its queued mail; yields each host and its answer.

    Raises UserError after the last host if any of them failed; the others have frozen the account.
    """
    return ask_mailkeepctl(inventory, "freeze", f"--why={reason}", "--", account)


def thaw_account(inventory: Path, account: str) -> Iterator[CtlAnswer]:
    """Lets the account send and log in again; yields each host and its answer, which names mail that is still held.

    Raises UserError as `freeze_account` does.
    """
    return ask_mailkeepctl(inventory, "thaw", "--", account)


class ChangedHash(NamedTuple):
    """The host on which `mailkeepctl passwd` has changed a password, and its hash. `failures` names the hosts that did
    not answer, a line each."""

    host: str
    password_hash: str
    failures: str


def read_changed_hash(inventory: Path, account: str, present_hash: str) -> ChangedHash:
    """`present_hash` is mail.yml's: a host that has it changed the password earlier, or was deployed since. Raises
    UserError if no host has another, or if hosts differ."""

    def ask_host(host: RemoteHost) -> tuple[str, str]:
        done = host.run_mailkeep(join(["mailkeepctl", "password-hash", "--", account]))
        if done.rc:
            raise UserError((done.stderr or done.stdout).strip() or f"mailkeepctl ended with exit code {done.rc}")
        return host.name, str(done.stdout).strip()

    hashes, failures = dict[str, str](), ""
    try:
        hashes.update(for_each_host(inventory, ask_host))
    except UserError as error:
        failures = str(error)
    changed = {name: password_hash for name, password_hash in hashes.items() if password_hash not in ("", present_hash)}
    if not changed:
        same = " and ".join(name for name, password_hash in hashes.items() if password_hash)
        outcome = (
            f"mail.yml already has the password of {account} that {same} has."
            if same
            else f"No host that answered has a new password of {account} by `mailkeepctl passwd`."
        )
        raise UserError("\n".join(filter(None, (failures, outcome))))
    if len({*changed.values()}) > 1:
        raise UserError(
            f"The password of {account} was changed on {' and '.join(changed)}, to different ones. "
            "Without --from-host, `mailkeep account passwd` sets one for all."
        )
    return ChangedHash(*next(iter(changed.items())), failures)
