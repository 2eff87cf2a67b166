"""`mailkeep-jails.service`: proves every fail2ban jail, from a refused login to the dropped packet, and leaves the
result for the watch, which alerts.

A faulty jail is proven once more: fail2ban may have restarted meanwhile, as it does in a deploy that changes a jail.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from mailkeep_server.common import paths
from mailkeep_server.common.ban_proof import ERRORS, JailRules
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.jail_canaries import RulesByJail, lock_canaries, prove_jails
from mailkeep_server.common.wording import describe_error
from mailkeep_server.watch import config

PROOF = Path(paths.JAIL_PROOF)
START_TIMEOUT = 60.0  # seconds until fail2ban must have started all jails


def main(_: list[str]) -> int:
    """Writes PROOF: `faults` by jail, the `foreign` jails among them, and `turn`, the number of canaries so far. A
    faulty jail does not fail the unit: the watch sees the file within seconds."""
    settings = config.load_config()
    jails = {jail: JailRules(**rules) for jail, rules in settings.jail_rules.items()}
    with lock_canaries():
        turn = _read_turn()
        faults = _prove(jails, turn, settings.never_ban)
        turn += len(faults)
        if any(faults.values()):
            faults = _prove(jails, turn, settings.never_ban)
            turn += len(faults)
        proof = {
            "turn": turn,
            "faults": {jail: texts for jail, texts in faults.items() if texts},
            "foreign": [jail for jail in faults if jail not in jails],
        }
        atomic_write(PROOF, json.dumps(proof), 0o600)
    for jail, texts in faults.items():
        print("; ".join(texts) or f"jail {jail}: {'notices and bans' if jail in jails else 'bans'}")
    return 0


def _prove(jails: RulesByJail, turn: int, never_ban: Sequence[str]) -> dict[str, list[str]]:
    try:
        return prove_jails(jails, turn, never_ban, start_timeout=START_TIMEOUT)
    except ERRORS as error:
        return {jail: [f"jail {jail}: {describe_error(error)}"] for jail in jails}


def _read_turn() -> int:
    """The canaries follow one another from proof to proof; where the number is lost, any will do."""
    try:
        return int(json.loads(PROOF.read_text())["turn"])
    except (OSError, ValueError, KeyError, TypeError):
        return int(time.time())
