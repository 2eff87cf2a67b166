"""What others write in reports, made fit for a terminal and for a database."""

import re
from ipaddress import ip_address

MAX_COUNT = 10**9
"""A row that names more messages is a lie: one domain does not send as many in a day to one receiver."""
_DOMAIN = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")


class ReportError(Exception):
    """Why this is no report that can be read, for the journal."""


def clean_text(text: object, limit: int = 100) -> str:
    """One line of printable characters. Control characters, escape sequences and marks that turn the direction of
    writing (Unicode's category Cf) become U+FFFD."""
    words = " ".join(str(text)[: 4 * limit].split())
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in words)[:limit]


def clean_domain(text: object) -> str:
    """A domain name in lower case; "" of anything else."""
    name = str(text)[:300].strip().strip(".").lower()
    return name if _DOMAIN.fullmatch(name) else ""


def clean_address(text: object) -> str:
    """An IP address as it is usually written, an IPv4 address within IPv6 as IPv4. Raises ReportError."""
    try:
        address = ip_address(str(text).strip())
    except ValueError:
        raise ReportError("a source is no IP address") from None
    if address.version == 6:
        if address.scope_id is not None:
            raise ReportError("a source is an address of one link only")
        address = address.ipv4_mapped or address
    return str(address)


def read_count(text: object) -> int:
    """A number of messages or sessions. Raises ReportError."""
    number = read_integer(text)
    if not 0 <= number <= MAX_COUNT:
        raise ReportError("a number is negative or too large")
    return number


def read_integer(text: object) -> int:
    """Raises ReportError."""
    if isinstance(text, float) and text.is_integer():
        text = f"{text:.0f}"
    digits = str(text).strip() if isinstance(text, str | int) and not isinstance(text, bool) else ""
    if not re.fullmatch(r"-?[0-9]{1,18}", digits):
        raise ReportError("a number is none, or too long")
    return int(digits)
