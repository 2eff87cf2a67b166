"""What the operator gets from others and puts into the vault: passwords, the webhook, the DNS provider's token."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from mailkeep.errors import UserError
from mailkeep.inventory.vault import open_vault_to_write
from mailkeep.inventory.vault_entries import DNS_CREDENTIALS, RELAY, SHARED_STORE, WEBHOOK

DnsCredentials = Mapping[str, str]
"""What the DNS provider asks for, such as a token, by the variable names that lego uses."""

_URL = re.compile(r"https?://[!-~]+")
_TOKEN = re.compile(r"[!-~]*")
_VARIABLE = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>[ -~]*)")


def save_relay_password(inventory: Path, password: str) -> None:
    """UserError if it is empty or holds a character that no SASL password map can carry."""
    _save_password(inventory, RELAY, "relay host", password)


def save_shared_store_password(inventory: Path, password: str) -> None:
    """UserError as for the relay host's password."""
    _save_password(inventory, SHARED_STORE, "guard's shared store", password)


def _save_password(inventory: Path, entry: str, owner: str, password: str) -> None:
    if not password or not password.isprintable() or password != password.strip():
        raise UserError(
            f"The password of the {owner} must be one line of printable characters, without a space at either end."
        )
    open_vault_to_write(inventory).write(entry, password.encode())


def save_webhook(inventory: Path, url: str, token: str) -> None:
    """Where alerts are posted, and the token to send there (`Authorization: Bearer`), or "". UserError, which shows
    neither, if they cannot be that."""
    if not _is_webhook_url(url):
        raise UserError(
            "The webhook's URL must be complete, such as https://ntfy.sh/SECRET-TOPIC. It is not shown here."
        )
    if not _TOKEN.fullmatch(token):
        raise UserError("The webhook's token must be printable ASCII without spaces. It is not shown here.")
    open_vault_to_write(inventory).write(WEBHOOK, f"{url}\n{token}".encode())


def _is_webhook_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_endpoint = parts.hostname and parts.port != 0
    except ValueError:  # a port beyond 65535, half an IPv6 address
        return False
    return bool(_URL.fullmatch(url) and has_endpoint and not parts.username and not parts.fragment)


def save_dns_credentials(inventory: Path, lines: str) -> list[str]:
    """What the DNS provider asks for, one `NAME=value` a line. Returns the names. UserError, which shows no value, if a
    line has another form."""
    credentials = parse_dns_credentials(lines)
    text = "".join(f"{name}={value}\n" for name, value in credentials.items())
    open_vault_to_write(inventory).write(DNS_CREDENTIALS, text.encode())
    return [*credentials]


def parse_dns_credentials(lines: str) -> DnsCredentials:
    matches = [_VARIABLE.fullmatch(line.strip()) for line in lines.splitlines() if line.strip()]
    credentials = {match["name"]: match["value"] for match in matches if match}
    if not matches or len(credentials) != len(matches):
        raise UserError(
            "Expected lines such as RFC2136_NAMESERVER=192.0.2.53, each name once, in printable ASCII. They are not "
            "shown here. `lego dnshelp -c PROVIDER` lists the names."
        )
    return credentials
