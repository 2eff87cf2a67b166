"""Which mail program has written a message, and how it greets.

Programs write headers in an order and a spelling of their own (`MIME-Version`, `Mime-Version`), in each message.
Most name themselves, and each greets (EHLO, RFC 5321 section 4.1.1.1) in its way. Whoever copies a message of the
account's owner can copy that, too.
"""

import re
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from zlib import crc32

_NAMING = frozenset({"user-agent", "x-mailer"})
_SHAPING = _NAMING | {
    *("message-id", "date", "mime-version", "content-language", "to", "from", "subject", "content-type")
}
"""Of each message, or of each of one program. Answers and attachments bring others."""
MAX_NAMES = 16
NAMELESS = "no name"
_NAME = re.compile(r"[A-Za-z][A-Za-z .-]{0,23}")
"""Versions change with each update."""
_HOST_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)+[a-z][a-z0-9-]{1,62}")
_LOCAL_DOMAINS = frozenset({"local", "lan", "home", "localdomain", "internal", "intranet", "box", "arpa"})
"""Names that routers and computers give themselves, as `pc.fritz.box` and `mac.local`."""
_MAX_DOMAIN = 40


def shapes_program(name: str) -> bool:
    return name.lower() in _SHAPING


def names_program(name: str) -> bool:
    return name.lower() in _NAMING


def describe_program(names: list[str]) -> int:
    """`names` of headers in their order, those that `shapes_program` picks."""
    return crc32(" ".join(names[:MAX_NAMES]).encode(errors="replace"))


def read_name(value: str) -> str:
    """Of a header that `names_program` picks: the program's name without its version."""
    match = _NAME.match(value.strip())
    return match[0].rstrip(" .-").lower() if match else "an unreadable name"


@lru_cache(1024)
def describe_greeting(name: str) -> str:
    """What the names in EHLO of one program have in common, from day to day: the kind of its address or name.

    Each text is short, and safe to show: strangers choose what they say.
    """
    text = name.lower().rstrip(".")
    if text.startswith("[") and text.endswith("]"):
        return _describe_address(text[1:-1].removeprefix("ipv6:"))
    with suppress(ValueError):
        ip_address(text)
        return "an address without brackets"
    if text == "localhost" or text.startswith("localhost."):
        return "localhost"
    if text.isascii() and text.replace("-", "").replace("_", "").isalnum():
        return "a name without a domain"
    if len(text) > 255 or not _HOST_NAME.fullmatch(text):
        return "no valid name"
    labels = text.split(".")
    return "a local name" if labels[-1] in _LOCAL_DOMAINS else f"a name in {'.'.join(labels[-2:])[-_MAX_DOMAIN:]}"


def _describe_address(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        return "no valid name"
    if address.is_loopback:
        return "localhost"
    if address.version == 6:
        return "an IPv6 address"
    return "a private address" if address.is_private else "a public address"
