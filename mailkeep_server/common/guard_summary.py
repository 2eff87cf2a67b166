"""The guard's configuration in few lines, to compare the running guard's with the declared one."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SECTIONS = ("limits", "server", "local", "forwards", "lists", "freeze", "holds", "receiving")


def summarise_config(config: Mapping[str, Any]) -> dict[str, str | int]:
    """`config` is as in guard.json. Returns single values by name (`limits.messages_per_day`), and under `accounts` and
    `of accounts` the number of accounts and a digest of the addresses and limits of each; likewise for aliases."""
    numbers = {f"{name}.{key}": value for name in SECTIONS for key, value in config[name].items()}
    accounts = {
        name.lower(): [sorted(map(str.lower, account["addresses"])), account.get("limits", config["limits"])]
        for name, account in config["accounts"].items()
    }
    aliases, catch_all = (
        {name.lower(): sorted(map(str.lower, targets)) for name, targets in config[section].items()}
        for section in ("aliases", "catch_all")
    )
    return {
        "mode": config["mode"],
        "contact": config["contact"],
        "release_address": config["release_address"],
        "domains": " ".join(sorted(config["domains"])),
        **numbers,
        "exempt_networks": " ".join(sorted(config["exempt_networks"])),
        "accounts": len(accounts),
        "of accounts": _digest(accounts),
        "aliases": len(aliases),
        "of aliases": _digest([aliases, catch_all]),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
