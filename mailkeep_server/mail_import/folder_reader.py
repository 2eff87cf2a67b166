"""What is in a folder, message by message, as a client of the account sees it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mailkeep_server.common.mail_frames import FolderMessage
from mailkeep_server.common.message_bytes import digest_content
from mailkeep_server.mail_import.imap_session import FolderState, ImapError, ImapSession, Value, read_bytes
from mailkeep_server.mail_import.messages import read_date

KIB = 1024  # STORAGE of RFC 2087


def read_folder(session: ImapSession, name: bytes) -> tuple[FolderState, Iterator[FolderMessage]]:
    """All messages, as they are read. A folder that does not exist is empty. Raises SessionEndedError."""
    try:
        state = session.select_folder(name)
    except ImapError:
        return FolderState(0, 0, 0), iter(())
    return state, _read_messages(session) if state.messages else iter(())


def read_quota(session: ImapSession) -> dict[str, Any]:
    """Used and allowed bytes and messages (RFC 2087). What is not limited is left out."""
    responses, _ = session.run(b'GETQUOTAROOT "INBOX"')
    quota: dict[str, Any] = {}
    for _, words, _ in responses:
        if len(words) == 3 and words[0] == b"QUOTA" and isinstance(values := words[2], list):
            for name, used, limit in zip(values[::3], values[1::3], values[2::3], strict=False):
                factor = KIB if name == b"STORAGE" else 1
                quota[read_bytes(name).decode().lower()] = [
                    int(read_bytes(used)) * factor,
                    int(read_bytes(limit)) * factor,
                ]
    return quota


def read_flags(values: dict[str, Value]) -> list[str]:
    """The flags and keywords of a message, without those of the session."""
    flags = values.get("FLAGS")
    words = [read_bytes(word).decode(errors="replace") for word in flags] if isinstance(flags, list) else []
    return sorted(word for word in words if word != "\\Recent")


def _read_messages(session: ImapSession) -> Iterator[FolderMessage]:
    for values in session.fetch("1:*", "UID FLAGS INTERNALDATE BODY.PEEK[]"):
        body, uid = values.get("BODY[]"), int(read_bytes(values.get("UID", b"0")))
        if not uid or not isinstance(body, bytes | Path):
            continue
        digest, facts = digest_content(body)
        date = read_date(read_bytes(values["INTERNALDATE"]).decode(errors="replace"))
        yield FolderMessage(uid, read_flags(values), date, facts.imap_size, digest, facts.message_id)
