"""Message-IDs as both ends of a complaint compare them: what the guard saw leave, and what a report names.

A thief writes the header as he likes: twice, folded, with comments. So a message may have several IDs, and each counts.
Digests have one length, whatever the header holds.
"""

import re
from collections.abc import Iterable
from hashlib import blake2b

MAX_IDS = 3
"""Of one message."""
MAX_VALUE = 1000
"""Characters of one header field that are read."""
_DIGEST_BYTES = 16
_ANGLES = re.compile(r"<([^<>]+)>")


def digest_message_ids(values: Iterable[str]) -> list[str]:
    """In hexadecimal digits, of the first MAX_IDS that the values of `Message-ID:` name.

    White space does not count: each server folds anew. Without `<` and `>`, the whole value is the ID.
    """
    digests: list[str] = []
    for value in values:
        text = "".join(value.split())[:MAX_VALUE]
        for message_id in _ANGLES.findall(text) or [text]:
            digest = blake2b(message_id.encode("utf-8", "surrogateescape"), digest_size=_DIGEST_BYTES).hexdigest()
            if message_id and digest not in digests:
                digests.append(digest)
            if len(digests) == MAX_IDS:
                return digests
    return digests
