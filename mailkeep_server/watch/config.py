"""What the watch has to know, as `mailkeep deploy` writes it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path("/etc/mailkeep/watch.json")
STATE = Path("/var/lib/mailkeep-watch")
RUN = Path("/run/mailkeep-watch")


@dataclass(frozen=True)
class Webhook:
    """Where alerts go beside mail; `url` and `token` are secret."""

    format: str
    template: str
    url: str
    token: str

    def __repr__(self) -> str:
        return f"Webhook({self.format})"


@dataclass(frozen=True)
class Config:
    host: str
    admins: list[str]
    accounts: dict[str, list[str]]  # with the addresses that each owns
    units: list[str]
    jails: dict[str, list[int] | None]  # with the ports that each closes; None: all
    own: list[str]  # addresses and networks that must never be banned
    certificate: str
    certificate_days: int
    queue: int  # messages
    disk: int  # per cent
    failures: int  # of logins, in ten minutes
    control: str  # the guard's socket
    frozen: str  # the file of frozen accounts
    smtp: str  # the socket of the smtpd for alerts
    world: str  # the file of troubles with DNS records and blocklists
    renewal: str  # the file of troubles with the certificate authority; empty where none is asked
    webhook: Webhook | None = None


def load(file: Path = FILE) -> Config:
    """Raises OSError, ValueError, TypeError or KeyError for a file that is not as `mailkeep deploy` writes it."""
    written: dict[str, Any] = json.loads(file.read_text())
    webhook = written.pop("webhook")
    return Config(**written, webhook=_webhook(webhook, file.parent) if webhook else None)


def _webhook(written: Mapping[str, str], directory: Path) -> Webhook:
    url, token = (directory / written["secret"]).read_text().split("\n")[:2]
    return Webhook(written["format"], written["template"], url, token)
