"""Targets of the control socket about mail to strangers: outcomes, complaints, and mail on hold.

`/outcomes?o=QUEUE-ID FATE HASH&o=…`, `/held`, `/returned?queue_id=…&result=…`, `/release?account=…`,
`/why?account=…`, `/confirmation?account=…&digest=…&shown=…`,
`/complaint?reporter=…&m=DIGEST&m=…`. The watch and `mailkeepctl` ask for them.
"""

from mailkeep_server.common.addresses import hash_text
from mailkeep_server.guard.outcomes import Fate, Outcome

OUTCOMES_TARGET, HELD_TARGET, RETURNED_TARGET = "/outcomes", "/held", "/returned"
RELEASE_TARGET, WHY_TARGET, CONFIRMATION_TARGET = "/release", "/why", "/confirmation"
COMPLAINT_TARGET = "/complaint"
HOLD_TARGETS = frozenset(
    {
        OUTCOMES_TARGET,
        HELD_TARGET,
        RETURNED_TARGET,
        RELEASE_TARGET,
        WHY_TARGET,
        CONFIRMATION_TARGET,
        COMPLAINT_TARGET,
    }
)


def write_outcome(outcome: Outcome) -> str:
    """With the recipient's hash: addresses of any length and any letters have the same."""
    return f"{outcome.queue_id} {outcome.fate} {hash_text(outcome.recipient)}"


def read_written_outcome(text: str) -> tuple[str, int, Fate]:
    """Queue id, the recipient's hash and its fate. Raises ValueError."""
    queue_id, fate, key = text.split(" ")
    return queue_id, int(key), Fate(fate)
