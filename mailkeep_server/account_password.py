"""A new password for an account, set on the server: for the night when only a phone is at hand.

The inventory still has the old one. So the server remembers which hashes were replaced, and no deploy brings one of
them back. `mailkeep account passwd … --from-host` takes the new one into mail.yml.
"""

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

from mailkeep_server.common import paths
from mailkeep_server.common.commands import run
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.password_digest import digest_hash

USERS = Path(paths.DOVECOT_USERS)
REPLACED = Path(paths.REPLACED_PASSWORDS)
HASH_TIMEOUT = 30.0  # seconds
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_GROUPS = 4


def generate_password() -> str:
    """79 bits in four groups, to be typed on a phone."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(_GROUPS))


def hash_password(password: str) -> str:
    """`{ARGON2ID}$argon2id$…`, by doveadm-pw(1). It asks twice on standard input, which no process list shows."""
    return run("doveadm", "pw", "-s", "ARGON2ID", stdin=f"{password}\n{password}\n", timeout=HASH_TIMEOUT).strip()


def read_hash(account: str, users: Path = USERS) -> str:
    """The account's hash in Dovecot's passwd-file; "" if it has none."""
    lines = (line.split(":") for line in users.read_text().splitlines())
    return next((fields[1] for fields in lines if fields[0] == account and len(fields) > 1), "")


def replace_password(account: str, password_hash: str, users: Path = USERS, replaced: Path = REPLACED) -> None:
    """Dovecot rereads the file by itself. Raises OSError and ValueError, and then the old password still holds."""
    lines, former = users.read_text().splitlines(keepends=True), read_hash(account, users)
    if not former or not password_hash.startswith("{ARGON2ID}$argon2id$") or ":" in password_hash:
        raise ValueError(f"{account} has no line in {users}" if not former else f"no hash: {password_hash}")
    _remember_replaced(account, former, replaced)
    content = "".join(
        line.replace(former, password_hash, 1) if line.startswith(f"{account}:") else line for line in lines
    )
    status, new = users.stat(), users.with_name(f"{users.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w") as file:  # noqa: PTH123
        os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, status.st_mode & 0o7777)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    new.rename(users)


def _remember_replaced(account: str, former: str, replaced: Path) -> None:
    """A line `DIGEST TIME ACCOUNT` for each hash that must not come back."""
    lines = replaced.read_text().splitlines() if replaced.exists() else []
    kept = [line for line in lines if not line.startswith(digest_hash(former))]
    line = f"{digest_hash(former)} {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {account}"
    atomic_write(replaced, "".join(f"{line}\n" for line in (*kept, line)), 0o600)


def was_set_here(account: str, replaced: Path = REPLACED) -> bool:
    """Whether `mailkeepctl passwd` has ever replaced this account's password."""
    lines = replaced.read_text().splitlines() if replaced.exists() else []
    return any(line.split(" ")[2:] == [account] for line in lines)
