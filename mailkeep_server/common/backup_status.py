"""What became of the last backups and proofs: `status.json`, which the watch and `mailkeep backup --list` read."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mailkeep_server.common import paths
from mailkeep_server.common.files import atomic_write

FILE = Path(paths.BACKUP_STATE, "status.json")


@dataclass
class TargetStatus:
    """Times are in seconds since the epoch; 0: never. Faults are sentences; empty: none."""

    succeeded: float = 0
    archive: str = ""
    fault: str = ""
    proved: float = 0
    proof_fault: str = ""
    messages: int = 0
    """In the last archive."""


@dataclass
class BackupStatus:
    targets: dict[str, TargetStatus] = field(default_factory=dict)

    def of(self, target: str) -> TargetStatus:
        return self.targets.setdefault(target, TargetStatus())


def load_status(file: Path = FILE) -> BackupStatus:
    """No file: no backup was made yet. Raises OSError or ValueError for one that cannot be read."""
    try:
        fields: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return BackupStatus()
    try:
        return BackupStatus({name: TargetStatus(**target) for name, target in fields["targets"].items()})
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} is not as Mailkeep wrote it ({error})") from None


def save_status(status: BackupStatus, file: Path = FILE) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic_write(file, f"{json.dumps(asdict(status), indent=1)}\n", 0o600)
