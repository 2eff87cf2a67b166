"""What `mailkeepctl` on the servers of an inventory answers."""

from collections.abc import Collection, Iterator
from pathlib import Path
from shlex import join
from typing import NamedTuple

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, for_each_host

DONE = 0
WRONG_ARGUMENTS = 2


class CtlAnswer(NamedTuple):
    host: str
    code: int
    text: str


def ask_mailkeepctl(inventory: Path, *arguments: str, codes: Collection[int] = (DONE,)) -> Iterator[CtlAnswer]:
    """The answer of each host, in the inventory's order. `codes` are the exit codes that are no failure.

    Raises UserError after the last host if any of them failed; the others have done it.
    """

    def ask_host(host: RemoteHost) -> CtlAnswer:
        done = host.run_mailkeep(join(["mailkeepctl", *arguments]))
        if done.rc not in codes:
            text = (done.stderr or done.stdout).strip() or f"mailkeepctl ended with exit code {done.rc}"
            if done.rc == WRONG_ARGUMENTS:  # of argparse: an unknown command or option
                text += f"\nAn older Mailkeep knows less: `mailkeep deploy {host.inventory_label}` upgrades it."
            raise UserError(text)
        return CtlAnswer(host.name, done.rc, done.stdout.rstrip())

    return for_each_host(inventory, ask_host)
