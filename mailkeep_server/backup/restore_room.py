"""Whether mail that is to be restored has room, on the disks and in the account's quota: asked before any is restored.

So a restore that cannot end is refused whole, and no mailbox is full of half of it.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mailkeep_server.common import mailboxes
from mailkeep_server.common.folder_names import encode_name
from mailkeep_server.common.message_bytes import digest_content
from mailkeep_server.common.wording import count_noun
from mailkeep_server.mail_import.append import PresentMessages, split_batches
from mailkeep_server.mail_import.folder_reader import read_quota
from mailkeep_server.mail_import.imap_session import ImapError, ImapSession
from mailkeep_server.mail_import.messages import Message

MEGABYTE = 2**20
MIN_FREE = 16 * MEGABYTE
"""Left for the services of the machine."""


def find_lack_on_disk(size: int, places: Iterable[Path]) -> str:
    """Why so many bytes have no room at each of these places, of which several may be on one disk. Empty if they do."""
    disks: dict[int, tuple[Path, int]] = {}
    for place in places:
        first, needed = disks.get(place.stat().st_dev, (place, 0))
        disks[place.stat().st_dev] = first, needed + size
    for place, needed in disks.values():
        free = shutil.disk_usage(place).free
        if needed + MIN_FREE > free:
            return (
                f"restoring takes {needed / MEGABYTE:.0f} MB on the disk of {place}, and {free / MEGABYTE:.0f} MB are "
                "free. Make room, then run it again: nothing was restored yet"
            )
    return ""


def list_places(scratch: Path) -> tuple[Path, Path]:
    """Restored mail is written twice: to a scratch directory, then to the mailbox."""
    return scratch, Path(mailboxes.ROOT)


def find_lack_of_quota(session: ImapSession, folders: Sequence[tuple[str, Sequence[Message]]]) -> str:
    """Why those of the messages that their folders lack do not fit into the quota. Empty if they do."""
    quota = read_quota(session)
    if not quota:
        return ""
    missing = [_measure_missing(session, folder, messages) for folder, messages in folders]
    needed = {"message": sum(count for count, _ in missing), "storage": sum(size for _, size in missing)}
    for name, (used, limit) in quota.items():
        room = max(limit - used, 0)
        if needed.get(name, 0) > room:
            describe = _DESCRIPTIONS[name]
            return f"its quota has room for {describe(room)}, and the mail takes {describe(needed[name])}"
    return ""


def _measure_missing(session: ImapSession, folder: str, messages: Sequence[Message]) -> tuple[int, int]:
    """The number and bytes of the messages that the folder lacks."""
    name, count, size = encode_name(folder).encode(), 0, 0
    try:
        state = session.select_folder(name)
        session.unselect_folder()
        present = PresentMessages(session, name, state.messages, ())
    except ImapError:  # there is no such folder yet
        present = PresentMessages(session, name, 0, ())
    for batch in split_batches(messages):
        digests = [digest_content(message.content) for message in batch]
        present.hash_sizes({facts.imap_size for _, facts in digests})
        for digest, facts in digests:
            if not present.take(digest):
                count, size = count + 1, size + facts.imap_size
    return count, size


_DESCRIPTIONS: dict[str, Callable[[int], str]] = {
    "storage": lambda size: f"{size / MEGABYTE:.1f} MB",
    "message": lambda number: count_noun(number, "message"),
}
