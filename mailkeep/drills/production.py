"""A drill on a live server: with an account to throw away, to an address of the operator's, and to nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mailkeep.drills.attacks import ATTACKS
from mailkeep.drills.replay import REMOTE
from mailkeep.drills.result import MOST_OUT
from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, UnreachableError
from mailkeep.inventory import hosts as inventories
from mailkeep.parts.server_package import PYTHON
from mailkeep.settings.load import load_settings

POSSIBLE = ("A", "D")
"""One source address, and one recipient a message."""


@dataclass(frozen=True)
class Outcome:
    """What came of it on a server where only the operator sees what arrives."""

    drill: str
    host: str
    account: str
    tries: int
    taken: int
    """Messages that the server took; at most as many have arrived."""
    frozen: bool

    @property
    def misses(self) -> list[str]:
        return [
            *([f"{self.taken} messages taken, and at most {MOST_OUT} will do"] if self.taken > MOST_OUT else []),
            *([] if self.frozen else ["the account is not frozen"]),
        ]

    def asdict(self) -> dict[str, Any]:
        return asdict(self) | {"misses": self.misses}


def refuse(directory: Path, names: list[str], meant: bool, account: str | None, to: str | None) -> None:
    """UserError unless the operator has said all that makes this harmless."""
    if not meant or not account or not to:
        raise UserError(
            "A drill on a live server sends some twenty messages and freezes an account. If you mean it:\n"
            "make one to throw away "
            f"(`mailkeep account add {inventories.inventory_label(directory)} drill@… --generate`),\n"
            "deploy, and name it and an address of yours elsewhere: `--i-mean-it --account drill@… --to you@…`.\n"
            "Without --inventory the drill takes place in the lab."
        )
    if impossible := [name for name in names if name not in POSSIBLE]:
        raise UserError(f"{', '.join(impossible)}: only in the lab. On a live server there are {', '.join(POSSIBLE)}.")
    for name, data in inventories.read_hosts(directory).items():
        declared = load_settings(inventories.settings_path(name, data))
        known = {one.address: one for one in declared.accounts}
        if account not in known:
            raise UserError(f"{account}: {name} has no such account. `mailkeep account add` makes one to throw away.")
        used = account in declared.admin.addresses or account in declared.aliases or known[account].send_as
        if used or any(account in targets for targets in declared.aliases.values()):
            raise UserError(f"{account} is in use (admin, aliases or send_as). Make one to throw away.")
        if to.rpartition("@")[2] in declared.own_domains:
            raise UserError(f"--to {to}: this is on the server itself. Name an address of yours elsewhere.")


def drill(directory: Path, name: str, account: str, to: str, password: str) -> list[Outcome]:
    """Against each host of the inventory, after `refuse`."""
    return [
        _drill(RemoteHost(host, data), name, account, to, password)
        for host, data in inventories.read_hosts(directory).items()
    ]


def _drill(remote: RemoteHost, name: str, account: str, to: str, password: str) -> Outcome:
    settings = load_settings(remote.settings_file)
    host = settings.host.name
    address = str(settings.host.addresses[0])
    job = asdict(ATTACKS[name]) | {
        "host": address,
        "host6": address,
        "login": [account, password],
        "guesses": [],
        "sources": [""],
        "to": to,
    }
    attack = [sys.executable, str(REMOTE / "attack.py")]
    done = subprocess.run(attack, input=json.dumps(job), capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise UserError(
            f"{host}: the drill did not begin: {done.stderr.strip().splitlines()[-1]}. Is the password right?"
        )
    tries = [one for line in done.stdout.splitlines() if (one := json.loads(line))["kind"] == "try"]
    try:
        status = json.loads(remote.run(f"{PYTHON} ctl status --json").stdout)
    except (UnreachableError, ValueError) as error:
        raise UserError(f"{remote.name}: the guard's status is not to be had: {error}") from None
    return Outcome(
        name, host, account, len(tries), sum(bool(one["recipients"]) for one in tries), account in status["frozen"]
    )
