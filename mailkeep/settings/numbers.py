"""The kinds of numbers in `mail.yml`: integers, sizes, ports; and switches.

Each parser returns the value, or raises `invalid` with what it expects.
"""

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from mailkeep.settings.field_errors import invalid

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# TCP services by their names in /etc/services, where nft and fail2ban look them up.
SERVICES = {
    "ftp": 21,
    "ssh": 22,
    "telnet": 23,
    "smtp": 25,
    "domain": 53,
    "http": 80,
    "kerberos": 88,
    "pop3": 110,
    "imap2": 143,
    "imap": 143,
    "ldap": 389,
    "https": 443,
    "submissions": 465,
    "submission": 587,
    "ldaps": 636,
    "domain-s": 853,
    "rsync": 873,
    "imaps": 993,
    "pop3s": 995,
    "sieve": 4190,
    "xmpp-client": 5222,
    "xmpp-server": 5269,
    "postgresql": 5432,
    "http-alt": 8080,
}

MAIL_SERVICES = ("smtp", "imap", "submissions", "submission", "imaps", "sieve")
"""What every server serves."""
PROXY_PORTS = {name: 10_000 + SERVICES[name] for name in MAIL_SERVICES}
"""By service, the port for connections that the machine of `host.forwarded_from` forwards (PROXY protocol)."""

_SWITCHES = {"true": True, "yes": True, "false": False, "no": False}


def parse_port(value: object) -> int:
    """A TCP port by number, or by its name in /etc/services."""
    if isinstance(value, str) and value in SERVICES:
        return SERVICES[value]
    number = _parse_integer(value)
    if number is None or not 1 <= number <= 65535:
        raise invalid(f"a port from 1 to 65535, or one of {', '.join(SERVICES)}")
    return number


def _parse_integer(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,14}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def integer_between(low: int, high: int) -> tuple[BeforeValidator, WithJsonSchema]:
    """The metadata of a whole number from `low` to `high`."""

    def parse_integer(value: object) -> int:
        number = _parse_integer(value)
        if number is None or not low <= number <= high:
            raise invalid(f"a whole number from {low} to {high}")
        return number

    return BeforeValidator(parse_integer), WithJsonSchema({"type": "integer", "minimum": low, "maximum": high})


def size_between(low: str, high: str) -> tuple[BeforeValidator, WithJsonSchema]:
    """The metadata of a size in bytes from `low` to `high`, both written as in `mail.yml`."""

    def parse_size(value: object) -> int:
        size = _parse_size(value)
        if size is None:
            raise invalid("a size such as 500M or 2G")
        if not low_bytes <= size <= high_bytes:
            raise invalid(f"a size from {low} to {high}")
        return size

    low_bytes, high_bytes = _parse_size(low) or 0, _parse_size(high) or 0
    text = {"type": "string", "pattern": "^[0-9]{1,15}[KMGT]?$"}
    return BeforeValidator(parse_size), WithJsonSchema({"anyOf": [text, {"type": "integer", "minimum": 0}]})


def _parse_size(value: object) -> int | None:
    match = re.fullmatch(r"([0-9]{1,15})([KMGT])", value) if isinstance(value, str) else None
    return int(match[1]) * UNITS[match[2]] if match else _parse_integer(value)


def format_size(size: int) -> str:
    """Bytes as in `mail.yml`: 500M."""
    unit = next(unit for unit in reversed(UNITS) if size % UNITS[unit] == 0 and (size or not unit))
    return f"{size // UNITS[unit]}{unit}"


def parse_switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value not in _SWITCHES:
        raise invalid("true or false")
    return _SWITCHES[value]


Port = Annotated[
    int,
    BeforeValidator(parse_port),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, {"enum": [*SERVICES]}]}),
]
ShortOpening = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^(?:[0-9]{1,5}|[a-z0-9-]+)/(?:tcp|udp)$"})]
"""A port with its protocol: 51820/udp."""
Switch = Annotated[
    bool, BeforeValidator(parse_switch), WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["yes", "no"]}]})
]
