"""Whether backups are made, and can be restored: what the backups have written down of each target."""

import time
from collections.abc import Iterator
from pathlib import Path

from mailkeep_server.common import backup_status, paths
from mailkeep_server.common.backup_status import TargetStatus
from mailkeep_server.common.wording import count_noun
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.config import BackupPlan
from mailkeep_server.watch.sensor import Sensor

MAX_PROOF_DAYS = 8  # a proof a week, and a day in which it may run
MAX_FUTURE = 300.0  # seconds that a clock may be off


class BackupSensor(Sensor):
    """One trouble a target and kind: the last try, the age of the last backup, the proof. A new target has as much time
    for its first backup as others for their next one; so has the first proof."""

    name = "backup"

    def __init__(self, plan: BackupPlan, file: Path = backup_status.FILE, declared: str = paths.BACKUP_CONFIG) -> None:
        self.plan, self.file, self.declared = plan, file, Path(declared)

    def find_troubles(self) -> Troubles:
        recorded, since, now = backup_status.load_status(self.file), self.declared.stat().st_mtime, time.time()
        return {
            f"{target}:{kind}": texts
            for target in self.plan.targets
            for kind, texts in self._judge_target(target, recorded.of(target), since, now)
        }

    def _judge_target(
        self, name: str, target: TargetStatus, since: float, now: float
    ) -> Iterator[tuple[str, tuple[str, str]]]:
        if target.fault:
            text = f"The last backup to {name} failed: {target.fault}. `journalctl -u mailkeep-backup` says more"
            yield "fault", (text, f"A backup to {name} has succeeded again")
        if target.proof_fault:
            text = f"The backups at {name} cannot be trusted: {target.proof_fault}"
            yield "proof", (text, f"A mailbox was restored from {name} again, and is as it was")
        age = now - (target.succeeded or since)
        if age > self.plan.max_age_hours * 3600 or age < -MAX_FUTURE:
            yield (
                "age",
                (
                    f"{_describe_age(name, target, age)}. `systemctl start mailkeep-backup` makes one now",
                    f"There is a new backup at {name}",
                ),
            )
        unproven = now - (target.proved or since)
        if unproven > MAX_PROOF_DAYS * 86400 or unproven < -MAX_FUTURE:
            text = f"{_describe_proof(name, target, unproven)}. `systemctl start mailkeep-backup-proof` does it now"
            yield "unproven", (text, f"A backup at {name} was proven again")


def _describe_age(name: str, target: TargetStatus, age: float) -> str:
    if not target.succeeded:
        return f"There is no backup at {name} yet"
    if age < 0:
        return f"The last backup to {name} is dated later than now: the clock was wrong then, or is wrong now"
    return f"The last backup to {name} is {count_noun(int(age // 3600), 'hour')} old"


def _describe_proof(name: str, target: TargetStatus, seconds: float) -> str:
    if seconds < 0 and not target.proved:
        return f"No backup at {name} was proven yet"
    if seconds < 0:
        return f"The last proof of {name} is dated later than now: the clock was wrong then, or is wrong now"
    return f"No backup at {name} was proven for {seconds / 86400:.0f} days"
