"""What is backed up and where to: `/etc/mailkeep/backup/config.json`, as `mailkeep.parts.backup` writes it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailkeep_server.common import paths

DIRECTORY = Path(paths.BACKUP_ETC)
FILE = Path(paths.BACKUP_CONFIG)
PASSPHRASE = DIRECTORY / "passphrase"
SSH_CONFIG = DIRECTORY / "ssh_config"
STATE = Path(paths.BACKUP_STATE)


@dataclass(frozen=True)
class Target:
    """`repository` is a path, or borg's `ssh://USER@HOST:PORT/PATH`."""

    name: str
    repository: str

    @property
    def is_remote(self) -> bool:
        return self.repository.startswith("ssh://")


@dataclass(frozen=True)
class BackupConfig:
    host: str
    targets: tuple[Target, ...]
    every_hours: int
    accounts: tuple[str, ...]
    kept: tuple[str, ...]
    """Paths of the state that nothing can make anew, beside the mail."""

    def find_target(self, name: str = "") -> Target:
        """The target of this name; without one, the first. Raises ValueError for an unknown name."""
        for target in self.targets:
            if name in ("", target.name):
                return target
        names = ", ".join(target.name for target in self.targets)
        raise ValueError(f"mail.yml has no backup target {name!r}: it has {names}")


def load_config(file: Path = FILE) -> BackupConfig:
    """Raises OSError, ValueError, TypeError or KeyError for a file that is not as `mailkeep deploy` writes it."""
    fields: dict[str, Any] = json.loads(file.read_text())
    return BackupConfig(
        host=fields["host"],
        targets=tuple(Target(name, repository) for name, repository in fields["targets"].items()),
        every_hours=fields["every_hours"],
        accounts=tuple(fields["accounts"]),
        kept=tuple(fields["kept"]),
    )
