"""`mailkeep-canary.service`: proves the spam filter every half hour, and leaves the faults for the watch.

A faulty canary is sent once more: a service may have restarted meanwhile, as in a deploy.
"""

import fcntl
import json
import time
from pathlib import Path

from mailkeep_server.common import paths
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.spam_canary import ADDRESS, POLL_SECONDS, prove_filter, send_message, teach_canary

PROOF = Path(paths.CANARY_PROOF)
WORD_LIST = Path(paths.SPAM_WORDS) / ADDRESS
SPOOL = Path(paths.LEARN_SPOOL)
LEARN_TIMEOUT = 60.0  # seconds
RUNS = 2


def main(arguments: list[str]) -> int:
    """`arguments`: the name of the host, and the filter, `full` or `light`. Writes PROOF: `faults` by canary. A fault
    does not fail the unit: the watch sees the file within seconds."""
    host, kind = arguments
    with (PROOF.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kind == "light" and not WORD_LIST.exists():
            teach_canary(SPOOL)
            _wait_for_lessons()
        for _ in range(RUNS):
            faults = prove_filter(lambda message: send_message(host, message), refuses=kind == "full")
            if not faults:
                break
        atomic_write(PROOF, json.dumps({"faults": faults}), 0o644)
    for canary, fault in faults.items():
        print(f"the canary {canary} {fault}")
    return 0


def _wait_for_lessons() -> None:
    """Until the learner has worked them off; if it does not, the canaries tell."""
    deadline = time.monotonic() + LEARN_TIMEOUT
    while any((SPOOL / "new").glob("canary-*")) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
