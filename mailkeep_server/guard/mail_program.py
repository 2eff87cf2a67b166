"""Which mail program has written a message: by the order of its headers, and how it spells their names.

Programs write these in an order of their own (`MIME-Version`, `Mime-Version`), whatever the message is. Whoever copies
a message of the account's owner can copy that, too.
"""

from zlib import crc32

_SHAPING = frozenset(
    {"message-id", "date", "mime-version", "user-agent", "x-mailer", "content-language", "to", "from", "subject"}
    | {"content-type"}
)
"""Of each message, or of each of one program. Answers and attachments bring others."""
MAX_NAMES = 16


def shapes_program(name: str) -> bool:
    return name.lower() in _SHAPING


def describe_program(names: list[str]) -> int:
    """`names` of headers in their order, those that `shapes_program` picks."""
    return crc32(" ".join(names[:MAX_NAMES]).encode(errors="replace"))
