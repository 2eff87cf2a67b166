"""The keys of the backups, in the vault: the passphrase that encrypts them, and the server's SSH key for targets."""

import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from mailkeep.errors import UserError
from mailkeep.inventory.vault import Vault
from mailkeep.inventory.vault_entries import BACKUP_PASSPHRASE, BACKUP_SSH_KEY

PASSPHRASE_BYTES = 32


@dataclass(frozen=True, slots=True)
class BackupKeys:
    """`ssh_key` is a private key in OpenSSH's format."""

    passphrase: str = field(repr=False)
    ssh_key: str = field(repr=False)

    @property
    def public_key(self) -> str:
        """A line of authorized_keys (sshd(8)). UserError if the private key cannot be read."""
        try:
            public = load_ssh_private_key(self.ssh_key.encode(), None).public_key()
        except ValueError:
            raise UserError(f"The vault's {BACKUP_SSH_KEY} is no SSH key: restore it from git or a backup.") from None
        return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def create_backup_keys(vault: Vault) -> list[str]:
    """Creates what the vault lacks; returns a line for each. Replaces nothing: an archive needs its passphrase."""
    lines, names = [], vault.names()
    if BACKUP_PASSPHRASE not in names:
        vault.write(BACKUP_PASSPHRASE, secrets.token_urlsafe(PASSPHRASE_BYTES).encode())
        lines.append("Passphrase that encrypts the backups")
    if BACKUP_SSH_KEY not in names:
        key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        vault.write(BACKUP_SSH_KEY, key)
        lines.append("SSH key (Ed25519) with which the server reaches its backups")
    return lines


def read_backup_keys(vault: Vault) -> BackupKeys:
    """Raises UserError."""
    return BackupKeys(vault.read(BACKUP_PASSPHRASE).decode(), vault.read(BACKUP_SSH_KEY).decode())
