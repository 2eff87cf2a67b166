"""Freezing and thawing an account on the servers of an inventory, by their `mailkeepctl`."""

from collections.abc import Iterator
from pathlib import Path
from shlex import join

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, for_each_host


def freeze_account(inventory: Path, account: str, reason: str) -> Iterator[tuple[str, str]]:
    """Refuses its mail and logins, cuts its sessions and holds its queued mail; yields each host and its answer.

    Raises UserError after the last host if any of them failed; the others have frozen the account.
    """
    return _run_mailkeepctl(inventory, "freeze", f"--why={reason}", "--", account)


def thaw_account(inventory: Path, account: str) -> Iterator[tuple[str, str]]:
    """Lets the account send and log in again; yields each host and its answer, which names mail that is still held.

    Raises UserError as `freeze_account` does.
    """
    return _run_mailkeepctl(inventory, "thaw", "--", account)


def read_changed_hash(inventory: Path, account: str) -> tuple[str, str]:
    """The host on which `mailkeepctl passwd` has changed the account's password, and the hash. Raises UserError if
    there is none, or if hosts differ."""

    def ask_host(host: RemoteHost) -> tuple[str, str]:
        done = host.run(join(["mailkeepctl", "password-hash", "--", account]))
        return host.name, "" if done.rc else str(done.stdout).strip()

    hashes = {name: password_hash for name, password_hash in for_each_host(inventory, ask_host) if password_hash}
    if not hashes:
        raise UserError(f"The password of {account} was not changed on any host by `mailkeepctl passwd`.")
    if len({*hashes.values()}) > 1:
        raise UserError(
            f"The password of {account} was changed on {' and '.join(hashes)}, to different ones. "
            "Without --from-host, `mailkeep account passwd` sets one for all."
        )
    return next(iter(hashes.items()))


def _run_mailkeepctl(inventory: Path, *arguments: str) -> Iterator[tuple[str, str]]:
    def run_on_host(host: RemoteHost) -> tuple[str, str]:
        done = host.run_mailkeep(join(["mailkeepctl", *arguments]))
        if done.rc:
            raise UserError((done.stderr or done.stdout).strip() or f"mailkeepctl ended with exit code {done.rc}")
        return host.name, done.stdout.rstrip()

    return for_each_host(inventory, run_on_host)
