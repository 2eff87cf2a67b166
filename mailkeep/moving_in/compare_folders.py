"""Compares the messages of the source with those of the folder here, one by one. Pure functions: no network."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from mailkeep.moving_in.copy_model import CopiedMessage, FolderResult
from mailkeep_server.common.mail_frames import FolderMessage


class Difference(NamedTuple):
    """`kind` is one of missing, gone, unread, refused, bytes, flags, date. `message` names it for a person."""

    folder: str
    kind: str
    message: str
    text: str


class Comparison(NamedTuple):
    """`kept_uids` counts messages that have the source's UID; `others` are messages here that are not the source's.

    `changed` are messages whose flags the source has changed since their arrival, and nobody here: UID, key and flags.
    """

    differences: list[Difference]
    kept_uids: int
    others: int
    changed: list[tuple[int, str, list[str]]]


TEXTS = {
    "missing": "is not here",
    "gone": "had arrived, and its owner has moved or deleted it here since",
    "unread": "could not be read from the source",
    "bytes": "has other bytes here",
}


def compare_messages(result: FolderResult, messages: Iterable[FolderMessage], uid_validity: int) -> Comparison:
    """`result` has all messages of the source that belong into one folder, `messages` all messages of that folder.

    A message is found by the UID that it got on arrival, else by its bytes. Each message here counts for one there.
    """
    by_uid = {message.uid: message for message in messages}
    by_digest: dict[str, list[int]] = defaultdict(list)
    for uid, message in by_uid.items():
        by_digest[message.digest].append(uid)
    taken: set[int] = set()
    pairs: list[tuple[CopiedMessage, FolderMessage | None]] = []
    later: list[CopiedMessage] = []
    for copied in result.messages:
        arrival = copied.arrival
        uid = arrival.uid if arrival and arrival.uid_validity == uid_validity else 0
        if uid in by_uid and uid not in taken:
            taken.add(uid)
            pairs.append((copied, by_uid[uid]))
        else:
            later.append(copied)
    for copied in later:
        uid = next((uid for uid in by_digest.get(copied.digest, ()) if uid not in taken), 0)
        taken.add(uid)
        pairs.append((copied, by_uid.get(uid)))
    differences = [
        difference
        for copied, present in pairs
        for difference in _compare_message(copied, present, result.refused.get(copied.key, ""))
    ]
    kept = sum(bool(present and copied.uid and copied.uid == present.uid) for copied, present in pairs)
    changed = [
        (present.uid, copied.key, copied.flags)
        for copied, present in pairs
        if present and copied.arrival and {*copied.arrival.flags} == {*present.flags} != {*copied.flags}
    ]
    return Comparison(differences, kept, len(by_uid) - len(taken - {0}), changed)


def _compare_message(copied: CopiedMessage, present: FolderMessage | None, refusal: str) -> list[Difference]:
    def differ(kind: str, text: str) -> Difference:
        return Difference(copied.folder, kind, copied.message_id or copied.name, text)

    if not copied.digest:
        return [differ("unread", TEXTS["unread"])]
    if not present:
        if refusal:
            return [differ("refused", f"Dovecot does not take it: {refusal}")]
        kind = "gone" if copied.arrival else "missing"
        return [differ(kind, TEXTS[kind])]
    differences = []
    if copied.digest != present.digest:
        differences.append(differ("bytes", TEXTS["bytes"]))
    if {*copied.flags} != {*present.flags}:
        differences.append(differ("flags", f"{_join(copied.flags)} there, {_join(present.flags)} here"))
    if copied.date != present.date:
        differences.append(differ("date", f"{copied.date - present.date:+} seconds from the date of arrival here"))
    return differences


def _join(flags: list[str]) -> str:
    return " ".join(sorted(flags)) or "no flags"
