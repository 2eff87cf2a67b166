"""Has the server prove its spam filter, by messages that go the real way and are removed."""

import json
from pathlib import Path

from mailkeep_server.common import paths

from .commands import run_command
from .config import ProbeConfig

PROOF = Path(paths.CANARY_PROOF)
CANARY = "mailkeep-canary.service"
PROOF_TIMEOUT = 180.0  # seconds; a faulty canary is sent twice, and awaited for 30 seconds


def prove_spam_filter(config: ProbeConfig) -> dict[str, str]:
    """The faults by canary; none where mail.yml has no filter.

    A start joins a proof that is running, which may have begun before a change; so there are two.
    """
    if config.spam_filter == "off":
        return {}
    for _ in range(2):
        run_command("systemctl", "start", CANARY, timeout=PROOF_TIMEOUT)
    faults: dict[str, str] = json.loads(PROOF.read_text())["faults"]
    return faults
