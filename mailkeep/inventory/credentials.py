"""Passwords and tokens of others' services, in the vault."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from mailkeep.errors import UserError
from mailkeep.inventory.vault import open_vault
from mailkeep.inventory.vault_entries import ACME, RELAY, STORE, WEBHOOK

_URL = re.compile(r"https?://[!-~]+")
_VARIABLE = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>[ -~]*)")

DnsCredentials = Mapping[str, str]
"""What a DNS provider wants to know, such as a token, by the names that lego has for it."""


def save_relay_password(inventory: Path, password: str) -> None:
    """UserError when it is empty or holds a character that no SASL password map can carry."""
    _set_password(inventory, RELAY, "relay host", password)


def save_store_password(inventory: Path, password: str) -> None:
    """UserError as for the relay host's."""
    _set_password(inventory, STORE, "guard's store", password)


def _set_password(inventory: Path, name: str, whose: str, password: str) -> None:
    if not password or not password.isprintable() or password != password.strip():
        raise UserError(f"The password of the {whose} must be one line of printable characters, no space around it.")
    open_vault(inventory).write(name, password.encode())


def save_webhook(inventory: Path, url: str, token: str) -> None:
    """Where alerts are posted, and what to log in with there (`Authorization: Bearer`), or "". UserError, in which
    neither appears, when they cannot be that."""
    if not _is_webhook(url):
        raise UserError("The webhook's URL must be whole, such as https://ntfy.sh/SECRET-TOPIC; it is not shown here.")
    if not re.fullmatch(r"[!-~]*", token):
        raise UserError("The webhook's token must be printable ASCII without spaces; it is not shown here.")
    open_vault(inventory).write(WEBHOOK, f"{url}\n{token}".encode())


def _is_webhook(url: str) -> bool:
    try:
        parts = urlsplit(url)
        reachable = parts.hostname and parts.port != 0
    except ValueError:  # a port beyond 65535, half an IPv6 address
        return False
    return bool(_URL.fullmatch(url) and reachable and not parts.username and not parts.fragment)


def save_dns_credentials(inventory: Path, lines: str) -> list[str]:
    """What the DNS provider wants to know, a line `NAME=value` each. Returns the names. UserError, in which no value
    appears, when a line is no such thing."""
    found = parse_dns_credentials(lines)
    open_vault(inventory).write(ACME, "".join(f"{name}={value}\n" for name, value in found.items()).encode())
    return [*found]


def parse_dns_credentials(lines: str) -> DnsCredentials:
    found = [_VARIABLE.fullmatch(line.strip()) for line in lines.splitlines() if line.strip()]
    variables = {one["name"]: one["value"] for one in found if one}
    if not found or len(variables) != len(found):
        raise UserError(
            "Expected lines such as RFC2136_NAMESERVER=192.0.2.53, each name once, in printable ASCII; they are not "
            "shown here. `lego dnshelp -c PROVIDER` lists the names."
        )
    return variables
