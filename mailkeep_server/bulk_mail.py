"""Mail that was sorted because of a mail bomb: its folders, and the way back into the inbox, by doveadm(1)."""

import json

from mailkeep_server.common.bulk_folders import FOLDER, FOLDERS
from mailkeep_server.common.commands import run

MOVE_TIMEOUT = 3600.0
"""Seconds, for a folder of any size."""


def count_messages(account: str) -> dict[str, int]:
    """By folder, the oldest first."""
    rows = json.loads(run("doveadm", "-f", "json", "mailbox", "status", "-u", account, "messages", FOLDERS) or "[]")
    folders = {row["mailbox"]: int(row["messages"]) for row in rows}
    return {name: folders[name] for name in sorted(folders) if FOLDER.fullmatch(name)}


def move_to_inbox(account: str, folder: str) -> None:
    """What arrives in the folder meanwhile stays there, and the folder with it."""
    run("doveadm", "move", "-u", account, "INBOX", "mailbox", folder, "all", timeout=MOVE_TIMEOUT)
    run("doveadm", "mailbox", "delete", "-u", account, "-e", "-s", folder, check=False)
