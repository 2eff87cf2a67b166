"""Shares freezes between servers: an account frozen or thawed on one is frozen or thawed on all."""

import json
from pathlib import Path

from mailkeep_server.common.files import atomic_write
from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard.shared_counter import SharedCounter, SharedStoreError

THAWED = "thawed "
"""Before the entry of a freeze that is over. A missing entry thaws nobody: the store may have come back empty, or as it
was yesterday."""


class FreezeExchange:
    """Keeps this server's freeze list and the store's list in step.

    The difference to the entries on which both last agreed is the change on this server. They are kept in a file.
    """

    def __init__(self, counter: SharedCounter, file: Path) -> None:
        self._counter, self._file, self._agreed_file = counter, file, file.with_name("agreed.json")

    async def exchange_once(self) -> None:
        """Does nothing while the store is away. Raises OSError."""
        local = {name: record.entry for name, record in freeze_list.read_freezes(self._file).items()}
        agreed = self._read_agreed()
        added = {name: entry for name, entry in local.items() if name not in agreed}
        thawed = {name: f"{THAWED}{entry}" for name, entry in agreed.items() if name not in local}
        try:
            shared = await self._counter.exchange_freezes(added | thawed)
        except SharedStoreError:
            return
        for name, entry in shared.items():
            self._apply_entry(name, entry, local, agreed)
        # An account frozen here that the store's list has lost is sent to it again, at the next step.
        now_agreed = {name: entry for name, entry in shared.items() if not entry.startswith(THAWED)}
        if now_agreed != agreed:
            atomic_write(self._agreed_file, json.dumps(now_agreed), 0o640)

    def _apply_entry(self, name: str, entry: str, local: dict[str, str], agreed: dict[str, str]) -> None:
        if name in local and entry == f"{THAWED}{agreed.get(name)}":
            freeze_list.thaw_account(name, self._file)
        elif name not in local and not entry.startswith(THAWED):
            record = freeze_list.parse_entry(entry)
            freeze_list.freeze_account(name, record.by, record.why, record.at, self._file)

    def _read_agreed(self) -> dict[str, str]:
        try:
            entries = json.loads(self._agreed_file.read_text())
            return {str(name): str(entry) for name, entry in entries.items()}
        except (FileNotFoundError, ValueError):
            return {}
