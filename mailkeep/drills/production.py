"""A drill on live servers: with an account to throw away, to an address of the operator's, and to nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mailkeep.drills.attacks import ATTACKS
from mailkeep.drills.replay import REMOTE_SCRIPTS
from mailkeep.drills.result import MAX_MESSAGES_OUT
from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, UnreachableError
from mailkeep.inventory import hosts as inventories
from mailkeep.parts.server_package import PYTHON
from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings

LIVE_DRILLS = ("A", "D")
"""Attacks from a single source address, with a single recipient for each message."""
ATTACK_TIMEOUT = 300.0  # seconds


@dataclass(frozen=True)
class LiveDrillResult:
    """The result on a server where only the operator sees what arrives."""

    drill: str
    host: str
    account: str
    tries: int
    taken: int
    """Messages that the server accepted; at most as many have arrived."""
    frozen: bool

    @property
    def misses(self) -> list[str]:
        too_many = f"{self.taken} messages accepted; at most {MAX_MESSAGES_OUT} are allowed"
        return [
            *([too_many] if self.taken > MAX_MESSAGES_OUT else []),
            *([] if self.frozen else ["the account is not frozen"]),
        ]

    def asdict(self) -> dict[str, Any]:
        return asdict(self) | {"misses": self.misses}


def check_live_drill(directory: Path, names: list[str], confirmed: bool, account: str | None, to: str | None) -> None:
    """Raises UserError unless the drill was confirmed and harms nobody: neither an account in use nor a stranger."""
    if not confirmed or not account or not to:
        name = inventories.inventory_label(directory)
        raise UserError(
            "A drill on a live server sends some twenty messages and freezes an account. To run it:\n"
            f"create an account to throw away (`mailkeep account add {name} drill@… --generate`), deploy, and give\n"
            "`--i-mean-it --account drill@… --to you@…`, where you@… is an address of yours elsewhere.\n"
            "Without --inventory the drill runs in the lab."
        )
    if impossible := [name for name in names if name not in LIVE_DRILLS]:
        possible = ", ".join(LIVE_DRILLS)
        raise UserError(f"{', '.join(impossible)}: only in the lab. On a live server you can run {possible}.")
    for name, data in inventories.read_hosts(directory).items():
        _check_addresses(name, load_settings(inventories.settings_path(name, data)), account, to)


def _check_addresses(host: str, settings: Settings, account: str, to: str) -> None:
    accounts = {entry.address: entry for entry in settings.accounts}
    if account not in accounts:
        raise UserError(
            f"{account}: {host} has no such account. Create one to throw away: `mailkeep account add … --generate`."
        )
    is_used = account in settings.admin.addresses or account in settings.aliases or accounts[account].send_as
    if is_used or any(account in targets for targets in settings.aliases.values()):
        raise UserError(f"{account} is in use (admin, aliases or send_as). Create an account to throw away.")
    if to.rpartition("@")[2] in settings.own_domains:
        raise UserError(f"--to {to}: this address is on the server itself. Give an address of yours elsewhere.")


def run_live_drill(directory: Path, name: str, account: str, to: str, password: str) -> list[LiveDrillResult]:
    """Attack each host of the inventory, after `check_live_drill`. Raises UserError."""
    return [
        _attack_host(host, data, name, account, to, password)
        for host, data in inventories.read_hosts(directory).items()
    ]


def _attack_host(
    name: str, data: Mapping[str, Any], drill: str, account: str, to: str, password: str
) -> LiveDrillResult:
    remote = RemoteHost(name, data)
    host = load_settings(remote.settings_file).host
    address = str(host.addresses[0])
    job = asdict(ATTACKS[drill]) | {
        "host": address,
        "host6": address,
        "login": [account, password],
        "guesses": [],
        "sources": [""],
        "to": to,
    }
    tries = [event for event in _run_attack(host.name, job) if event["kind"] == "try"]
    try:
        limits = json.loads(remote.run(f"{PYTHON} ctl limits --json").stdout)
    except (UnreachableError, ValueError) as error:
        raise UserError(f"{name}: the guard's limits cannot be read: {error}") from None
    taken = sum(bool(event["recipients"]) for event in tries)
    return LiveDrillResult(drill, host.name, account, len(tries), taken, account in limits["frozen"])


def _run_attack(host: str, job: dict[str, Any]) -> list[dict[str, Any]]:
    """The events that remote/attack.py prints, when it runs on this machine."""
    command = [sys.executable, str(REMOTE_SCRIPTS / "attack.py")]
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, check=False, timeout=ATTACK_TIMEOUT
    )
    if done.returncode:
        error = done.stderr.strip().splitlines()[-1]
        raise UserError(f"{host}: the drill could not start: {error}. Is the password right?")
    return [json.loads(line) for line in done.stdout.splitlines()]
