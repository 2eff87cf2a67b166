"""Mail that was sorted because of a mail bomb: its folders, and the way back into the inbox, by doveadm(1)."""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from mailkeep_server.common.bulk_folders import FOLDER, FOLDERS
from mailkeep_server.common.commands import run
from mailkeep_server.common.wording import count_noun

MOVE_TIMEOUT = 3600.0
"""Seconds, for a folder of any size."""


def describe_accounts(state: dict[str, Any], accounts: Iterable[str]) -> list[str]:
    """`state` is the guard's: bombs with their beginnings, and floods, by account."""
    lines = [
        f"{account} gets a mail bomb since {datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M} UTC"
        for account, began in state["bombs"].items()
    ]
    lines += [f"{account} gets more mail than its limit: more is refused for now" for account in state["floods"]]
    lines += [
        f"{account}: {count_noun(number, 'message')} in {folder}; `mailkeepctl unsort {account}` moves them"
        for account in sorted(accounts)
        for folder, number in count_messages(account).items()
    ]
    return lines or ["No account gets too much mail, and no mail is sorted."]


def empty_folders(account: str) -> Iterator[str]:
    """Moves all of it to the inbox. Yields a line for each folder that is done."""
    folders = count_messages(account)
    if not folders:
        yield f"{account} has no sorted mail."
    for folder, number in folders.items():
        _move_to_inbox(account, folder)
        yield f"{count_noun(number, 'message')} of {folder} moved to the inbox of {account}."


def count_messages(account: str) -> dict[str, int]:
    """By folder, the oldest first."""
    rows = json.loads(run("doveadm", "-f", "json", "mailbox", "status", "-u", account, "messages", FOLDERS) or "[]")
    folders = {row["mailbox"]: int(row["messages"]) for row in rows}
    return {name: folders[name] for name in sorted(folders) if FOLDER.fullmatch(name)}


def _move_to_inbox(account: str, folder: str) -> None:
    """What arrives in the folder meanwhile stays there, and the folder with it."""
    run("doveadm", "move", "-u", account, "INBOX", "mailbox", folder, "all", timeout=MOVE_TIMEOUT)
    run("doveadm", "mailbox", "delete", "-u", account, "-e", "-s", folder, check=False)
