"""Write every file that a host would get into a local directory: to read, and to compare with an earlier one."""

import os
from pathlib import Path

from mailkeep.errors import UserError
from mailkeep.inventory import hosts, secrets
from mailkeep.parts import mail_server
from mailkeep.settings.load import load_settings


def render_host_files(inventory: Path, target: Path) -> list[Path]:
    """Render this inventory directory's mail.yml below `target`, laid out as on the host; return the sorted paths.

    Only the current user can enter `target`, because private keys are among the files. Raises UserError unless
    `target` is empty or missing.
    """
    settings = load_settings(inventory / hosts.SETTINGS_FILE)
    parts = mail_server.build_parts(settings, secrets.load_secrets(settings, inventory))
    written = []
    try:
        _make_private_directory(target)
        for file in (file for part in parts for file in part.files):
            path = target / file.path.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_file(path, file.content, 0o600 if file.secret else file.mode)
            written.append(path)
    except OSError as error:
        raise UserError(
            f"{error.filename or target}: {error.strerror}. Name a directory that you can write to."
        ) from None
    return sorted(written)


def _make_private_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise UserError(f"{path}: not empty, and nothing is overwritten. Name a new directory.")
    path.chmod(0o700)


def _write_file(path: Path, content: bytes, mode: int) -> None:
    """The file is never, not even for a moment, more open than `mode`."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
        os.fchmod(out.fileno(), mode)
