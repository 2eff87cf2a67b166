"""A quick proof of the backups: the server restores a random mailbox of each target, and compares it."""

import json
import subprocess
from typing import Any

from mailkeep_server.common import backup_status

from .config import ProbeConfig

COMMAND = ("python3", "-IB", "/usr/lib/mailkeep", "backup", "--json", "prove", "--quick")
PROOF_TIMEOUT = 240.0  # seconds; a target may be far


def prove_backups(config: ProbeConfig) -> dict[str, dict[str, Any]]:
    """By target: `made`, whether there was a backup; `fault`, why it cannot be trusted; `last_fault`, of the last try.

    Raises OSError, ValueError, subprocess.TimeoutExpired or RuntimeError if the proof cannot run."""
    if not config.backup_targets:
        return {}
    status = backup_status.load_status()
    is_made = {name: bool(status.of(name).succeeded) for name in config.backup_targets}
    faults: dict[str, str] = _run_proof() if any(is_made.values()) else {}
    return {
        name: {"made": is_made[name], "fault": faults.get(name, ""), "last_fault": status.of(name).fault}
        for name in config.backup_targets
    }


def _run_proof() -> Any:
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False, timeout=PROOF_TIMEOUT)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(done.stderr.strip() or "the proof has printed nothing") from None
