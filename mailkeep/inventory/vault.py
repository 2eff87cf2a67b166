"""Secrets beside the inventory, each a file of its own, encrypted with age (https://age-encryption.org/v1).

Every file is encrypted to all recipients of `recipients.txt`; the identities that open it lie elsewhere.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyrage  # type: ignore[import-untyped]
from pyrage.x25519 import Identity, Recipient  # type: ignore[import-untyped]

from mailkeep.errors import UserError
from mailkeep.locations import expand_home

RECIPIENTS = "recipients.txt"
IDENTITY = "age-identity"
SUFFIX = ".age"
_NAME = re.compile(r"(?:[a-z0-9_][a-z0-9._-]*/)*[a-z0-9_][a-z0-9._-]*")
_IDENTITY_HEADER = """\
# The private key (age identity) to the secrets of a Mailkeep inventory. Keep a backup: without it nobody
# can read them.
"""
_RECIPIENTS_HEADER = """\
# Who can open the files beside this one: one age recipient a line. To let a colleague in, add the line
# that `age-keygen -y` prints for theirs, then write all secrets anew with `mailkeep keys NAME --reencrypt`.
"""


def identity_path(inventory: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the private key of this vault is expected: `age-identity` in the inventory if there (a lab's,
    ignored by git), else `$MAILKEEP_IDENTITY`, else `$XDG_CONFIG_HOME/mailkeep/NAME.age-identity` (by default
    below ~/.config)."""
    if (inside := inventory / IDENTITY).is_file():
        return inside
    if chosen := environ.get("MAILKEEP_IDENTITY"):
        return expand_home(chosen)
    config = expand_home(environ.get("XDG_CONFIG_HOME") or "~/.config")
    return config / "mailkeep" / f"{inventory.resolve().name}.age-identity"


class Vault:
    """The secrets of one inventory. Names are relative paths (`dkim/example.org/s20261122`)."""

    def __init__(self, directory: Path, identity: Path) -> None:
        self.directory = directory
        self.identity = identity

    def read(self, name: str) -> bytes:
        """UserError when the file or the identity is missing, unreadable, damaged or the wrong one."""
        path = self._path(name)
        sealed = _read(path, f"{path}: there is no such secret. Restore it from git or a backup.")
        try:
            return bytes(pyrage.decrypt(sealed, self._identities()))
        except pyrage.DecryptError as error:
            if "No matching keys" in str(error):
                raise UserError(
                    f"{path}: not encrypted for the identity {self.identity}.\n"
                    "Set MAILKEEP_IDENTITY to the right identity file, or have one who can open the vault"
                    f" add yours to {self.directory / RECIPIENTS} and run `mailkeep keys NAME --reencrypt`."
                ) from None
            raise UserError(
                f"{path}: damaged: no age file, or not as it was written. Restore it from git or a backup."
            ) from None

    def write(self, name: str, data: bytes) -> None:
        """Needs only the recipients, not the identity. Replaces atomically what was there."""
        path = self._path(name)
        write_private_file(path, pyrage.encrypt(data, self._recipients()))

    def delete(self, name: str) -> None:
        """UserError when there is no such secret."""
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such secret.") from None

    def names(self) -> list[str]:
        """Sorted; empty when there is no vault yet."""
        paths = self.directory.rglob(f"*{SUFFIX}")
        return sorted(path.relative_to(self.directory).as_posix().removesuffix(SUFFIX) for path in paths)

    def reencrypt(self) -> None:
        """Writes every secret anew, to the recipients of now."""
        for name, data in [(name, self.read(name)) for name in self.names()]:
            self.write(name, data)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UserError(f"{self.directory / name}{SUFFIX}: Mailkeep gives no secret this name. Move it elsewhere.")
        return self.directory / f"{name}{SUFFIX}"

    def _identities(self) -> list[Identity]:
        text = _read(
            self.identity,
            f"{self.identity}: the identity (private key) of {self.directory} is not there.\n"
            "Restore this file from your backup (mode 0600), or set MAILKEEP_IDENTITY to where it is. "
            "Without it nobody can read these secrets.\n"
            "By default it goes by the name of the inventory's directory: if that was renamed, rename this file "
            "likewise.",
        )
        if mode := self.identity.stat().st_mode & 0o077:
            raise UserError(
                f"{self.identity}: others may access this private key (mode bits {mode:03o}). "
                f"Run: chmod 600 {self.identity}"
            )
        try:
            found = [Identity.from_str(line) for _, line in _entries(text)]
        except (pyrage.IdentityError, UnicodeDecodeError):
            found = []
        if not found:
            raise UserError(
                f"{self.identity}: this is no age identity (a line that begins with AGE-SECRET-KEY-1). "
                "Restore the file from your backup."
            )
        return found

    def _recipients(self) -> list[Recipient]:
        path = self.directory / RECIPIENTS
        remedy = f"Restore it from git, or write into it what `age-keygen -y {self.identity}` prints."
        text = _read(path, f"{path}: not there, so nobody to encrypt for. {remedy}")
        try:
            found = [_recipient(path, number, line) for number, line in _entries(text)]
        except UnicodeDecodeError:
            raise UserError(f"{path}: this is no text. {remedy}") from None
        if not found:
            raise UserError(f"{path}: names no recipient, so nobody to encrypt for. {remedy}")
        return found


def open_vault(inventory: Path) -> Vault:
    """The vault of an inventory, to be opened with the identity of this user."""
    return Vault(inventory / "secrets", identity_path(inventory))


def create_vault(directory: Path, identity: Path) -> Vault:
    """A new, empty vault with a new identity. UserError when either file exists; then nothing was written."""
    recipients = directory / RECIPIENTS
    if recipients.exists():
        raise UserError(f"{recipients}: exists already; nothing was changed.")
    key = Identity.generate()
    write_identity(identity, f"{_IDENTITY_HEADER}{key}\n".encode())
    try:
        write_private_file(recipients, f"{_RECIPIENTS_HEADER}{key.to_public()}\n".encode())
    except BaseException:
        identity.unlink()
        raise
    return Vault(directory, identity)


def write_identity(path: Path, data: bytes) -> None:
    """UserError when the file exists."""
    try:
        write_private_file(path, data, replace=False)
    except FileExistsError:
        raise UserError(
            f"{path}: exists already and is never overwritten: it may be the only key to another vault.\n"
            "Choose another NAME, or set MAILKEEP_IDENTITY to a path where the new identity may be written."
        ) from None


def write_private_file(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Writes a file (0600, in directories of 0700 where they are new) whole or not at all, and durably.
    UserError when it cannot; FileExistsError when it exists and `replace` is false."""
    try:
        _write(path, data, replace)
    except FileExistsError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}.") from error


def _write(path: Path, data: bytes, replace: bool) -> None:
    missing = [parent for parent in (path.parent, *path.parent.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp(3): mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            Path(temporary).replace(path)
        else:
            path.hardlink_to(temporary)  # unlike rename(2), link(2) refuses an existing target
    finally:
        Path(temporary).unlink(missing_ok=True)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, when_missing: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(when_missing) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error


def _entries(text: bytes) -> list[tuple[int, str]]:
    """The lines that are neither empty nor a comment, with their numbers."""
    lines = enumerate((line.strip() for line in text.decode().splitlines()), start=1)
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _recipient(path: Path, number: int, line: str) -> Recipient:
    if line.upper().startswith("AGE-SECRET-KEY-"):
        raise UserError(
            f"{path}:{number}: this is a private key. Write the public one (`age-keygen -y`) in its place, "
            "and make a new identity if this file has left your machine."
        )
    try:
        return Recipient.from_str(line.split()[0])
    except pyrage.RecipientError:
        raise UserError(
            f"{path}:{number}: no age recipient. Expected a word that begins with age1, as `age-keygen -y` prints it."
        ) from None
