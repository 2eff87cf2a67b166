"""Secrets beside the inventory, each a file of its own, encrypted with age (https://age-encryption.org/v1).

Every file is encrypted to all recipients in `recipients.txt`. The identities (private keys) that decrypt it are kept
elsewhere.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pyrage  # type: ignore[import-untyped]
from pyrage.x25519 import Identity, Recipient  # type: ignore[import-untyped]

from mailkeep.atomic_file import write_atomically
from mailkeep.errors import UserError
from mailkeep.locations import expand_home

RECIPIENTS = "recipients.txt"
IDENTITY = "age-identity"
SUFFIX = ".age"
RECOVERY = (
    "\nIf it is lost for good: `mailkeep vault recover NAME` brings the keys from the running server into a new vault."
)
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
    """Where the private key of this vault is expected. `age-identity` in the inventory if it exists (a lab's, ignored
    by git), else `$MAILKEEP_IDENTITY`, else `$XDG_CONFIG_HOME/mailkeep/NAME.age-identity` (by default below ~/.config).
    """
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
        """UserError if the file or the identity is missing, unreadable or damaged, or if they do not fit."""
        path = self._path(name)
        encrypted = _read_file(path, f"{path}: this secret is missing. Restore it from git or a backup.")
        try:
            return bytes(pyrage.decrypt(encrypted, self._read_identities()))
        except pyrage.DecryptError as error:
            if "No matching keys" in str(error):
                raise UserError(
                    f"{path}: not encrypted for the identity {self.identity}.\n"
                    "Set MAILKEEP_IDENTITY to the right identity file. Or have somebody who can open the vault"
                    f" add yours to {self.directory / RECIPIENTS} and run `mailkeep keys NAME --reencrypt`."
                    f"{RECOVERY}"
                ) from None
            raise UserError(
                f"{path}: damaged: this is no age file, or it was changed since. Restore it from git or a backup."
            ) from None

    def write(self, name: str, data: bytes) -> None:
        """Needs the recipients, not the identity. Replaces the former secret in one step."""
        path = self._path(name)
        write_private_file(path, pyrage.encrypt(data, self._read_recipients()))

    def delete(self, name: str) -> None:
        """UserError if the secret does not exist."""
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            raise UserError(f"{path}: this secret is missing.") from None

    def names(self) -> list[str]:
        """Sorted; empty if there is no vault yet."""
        paths = self.directory.rglob(f"*{SUFFIX}")
        return sorted(path.relative_to(self.directory).as_posix().removesuffix(SUFFIX) for path in paths)

    def check_identity(self) -> None:
        """UserError unless this user can read what is in the vault, and what is written now. A new key in a vault whose
        identity is lost would be lost too."""
        public = {str(identity.to_public()) for identity in self._read_identities()}
        for name in self.names()[:1]:
            self.read(name)
        if not public & {str(recipient) for recipient in self._read_recipients()}:
            raise UserError(
                f"{self.directory / RECIPIENTS}: does not name the recipient of {self.identity}, so you could not read "
                f"what is written now. Add the line that `age-keygen -y {self.identity}` prints."
            )

    def reencrypt(self) -> None:
        """Encrypts every secret to the present recipients."""
        for name, data in [(name, self.read(name)) for name in self.names()]:
            self.write(name, data)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UserError(f"{self.directory / name}{SUFFIX}: Mailkeep gives no secret this name. Move it elsewhere.")
        return self.directory / f"{name}{SUFFIX}"

    def _read_identities(self) -> list[Identity]:
        text = _read_file(
            self.identity,
            f"{self.identity}: the identity (private key) of {self.directory} is missing.\n"
            "Restore this file from your backup (mode 0600), or set MAILKEEP_IDENTITY to its path. "
            "Without it nobody can read these secrets.\n"
            "By default it goes by the name of the inventory's directory: if that was renamed, rename this file "
            f"likewise.{RECOVERY}",
        )
        if mode := self.identity.stat().st_mode & 0o077:
            raise UserError(
                f"{self.identity}: others may access this private key (mode bits {mode:03o}). "
                f"Run: chmod 600 {self.identity}"
            )
        try:
            identities = [Identity.from_str(line) for _, line in _numbered_lines(text)]
        except (pyrage.IdentityError, UnicodeDecodeError):
            identities = []
        if not identities:
            raise UserError(
                f"{self.identity}: this is no age identity (a line that begins with AGE-SECRET-KEY-1). "
                "Restore the file from your backup."
            )
        return identities

    def _read_recipients(self) -> list[Recipient]:
        path = self.directory / RECIPIENTS
        remedy = f"Restore it from git, or write into it the line that `age-keygen -y {self.identity}` prints."
        text = _read_file(path, f"{path}: this file is missing, so there is nobody to encrypt for. {remedy}")
        try:
            recipients = [_parse_recipient(path, number, line) for number, line in _numbered_lines(text)]
        except UnicodeDecodeError:
            raise UserError(f"{path}: this file is no text. {remedy}") from None
        if not recipients:
            raise UserError(f"{path}: names no recipient, so there is nobody to encrypt for. {remedy}")
        return recipients


def open_vault(inventory: Path) -> Vault:
    """The vault of an inventory, to be decrypted with the identity of this user."""
    return Vault(inventory / "secrets", identity_path(inventory))


def open_vault_to_write(inventory: Path) -> Vault:
    """The same, after the check that this user can read it. UserError."""
    vault = open_vault(inventory)
    vault.check_identity()
    return vault


def create_vault(directory: Path, identity: Path) -> Vault:
    """A new, empty vault with a new identity. UserError if either file exists; then nothing was written."""
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
    """UserError if the file exists."""
    try:
        write_private_file(path, data, replace=False)
    except FileExistsError:
        raise UserError(
            f"{path}: exists already and is never overwritten: it may be the only key to another vault.\n"
            "Choose another NAME, or set MAILKEEP_IDENTITY to a path for the new identity."
        ) from None


def write_private_file(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Writes a file (0600) whole or not at all, and durably; creates missing directories (0700). UserError if that
    fails; FileExistsError if the file exists and `replace` is false."""
    try:
        missing = [parent for parent in (path.parent, *path.parent.parents) if not parent.exists()]
        for parent in reversed(missing):
            parent.mkdir(mode=0o700)
        write_atomically(path, data, overwrite=replace)
    except FileExistsError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}.") from error


def _read_file(path: Path, message_if_missing: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(message_if_missing) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error


def _numbered_lines(text: bytes) -> list[tuple[int, str]]:
    """The lines that are neither empty nor a comment, with their numbers."""
    lines = enumerate((line.strip() for line in text.decode().splitlines()), start=1)
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _parse_recipient(path: Path, number: int, line: str) -> Recipient:
    if line.upper().startswith("AGE-SECRET-KEY-"):
        raise UserError(
            f"{path}:{number}: this is a private key. Write the public key (`age-keygen -y`) in its place, "
            "and make a new identity if this file has left your machine."
        )
    try:
        return Recipient.from_str(line.split()[0])
    except pyrage.RecipientError:
        raise UserError(
            f"{path}:{number}: no age recipient. Expected a word that begins with age1, as `age-keygen -y` prints it."
        ) from None
