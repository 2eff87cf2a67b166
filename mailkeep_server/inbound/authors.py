"""The domains that a message says it is from: those of the addresses in From: (RFC 9989 section 5.3.1)."""

import re
from collections.abc import Iterable

from mailkeep_server.common.dns_query import is_name
from mailkeep_server.guard.from_header import parse_line

MAX_LENGTH = 4000
"""Characters of a line that is read as mail programs read it. In a longer one, each at sign counts."""
MAX_DOMAINS = 10

_AFTER_AT_SIGN = re.compile(r"@\s*([^\s@<>()\[\],;:\"]+)")


def list_author_domains(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """Each once, in ASCII and lower case. Without From:, those of Sender:, which some mail programs show then."""
    lines = [(name.lower(), value) for name, value in headers if name.lower() in (b"from", b"sender")]
    values = [value for name, value in lines if name == b"from"] or [value for _, value in lines]
    addresses = [address for value in values for address in _list_addresses(value.decode("utf-8", "replace"))]
    domains = (write_in_ascii(address.rpartition("@")[2]) for address in addresses)
    return list(dict.fromkeys(domain for domain in domains if is_name(domain)))[:MAX_DOMAINS]


def _list_addresses(value: str) -> Iterable[str]:
    """The declared ones. If the line cannot be read, all that it may show."""
    text = value.strip(" \t\r\n")
    if len(text) > MAX_LENGTH:
        return [f"@{domain}" for domain in _AFTER_AT_SIGN.findall(text)]
    line = parse_line("from", text)
    return line.addresses or (*line.shown, *line.doubtful)


def write_in_ascii(domain: str) -> str:
    """As the DNS has it (RFC 5890 section 2.3.2.1); empty if it cannot be written so."""
    domain = domain.strip().lower().removesuffix(".")
    if domain.isascii():
        return domain
    try:
        return domain.encode("idna").decode()
    except ValueError:
        return ""
