"""Every file that a host would get, in a local directory: to read, and to compare with an earlier one."""

import os
from pathlib import Path

from mailkeep.errors import UserError
from mailkeep.inventory import hosts as inventories
from mailkeep.inventory import secrets
from mailkeep.parts import mail_server
from mailkeep.settings.load import load_settings


def render(inventory: Path, target: Path) -> list[Path]:
    """Writes what the mail.yml of this inventory directory makes below `target`, laid out as on the host; returns the
    paths, sorted. Only who runs it can enter `target`: private keys are among the files. UserError unless `target`
    is empty or not there."""
    declared = load_settings(inventory / inventories.SETTINGS_FILE)
    server = mail_server.build_parts(declared, secrets.load_secrets(declared, inventory))
    written = []
    try:
        _empty(target)
        for file in (file for part in server for file in part.files):
            path = target / file.path.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, file.content, 0o600 if file.secret else file.mode)
            written.append(path)
    except OSError as error:
        raise UserError(
            f"{error.filename or target}: {error.strerror}. Name a directory that you can write to."
        ) from None
    return sorted(written)


def _empty(target: Path) -> None:
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise UserError(f"{target}: it is not empty, and nothing in it is overwritten. Name a new directory.")
    target.chmod(0o700)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Never, not even for a moment, open to more than `mode` says."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
        os.fchmod(out.fileno(), mode)
