"""The watch's configuration, `/etc/mailkeep/watch.json`, as `mailkeep.parts.alerts` writes it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailkeep_server.common import paths

FILE = Path(paths.WATCH_CONFIG)


@dataclass(frozen=True)
class WebhookConfig:
    """A second channel beside mail. `url` and `token` are secret."""

    format: str
    template: str
    url: str
    token: str

    def __repr__(self) -> str:
        return f"WebhookConfig({self.format})"


@dataclass(frozen=True)
class RelayConfig:
    """`password_file` is Postfix's table; there is none where the relay host needs no login."""

    host: str
    port: int
    password_file: str


@dataclass(frozen=True)
class BackupPlan:
    """The targets by name, and the age of the last backup from which on it is late."""

    targets: list[str]
    max_age_hours: int


@dataclass(frozen=True)
class WatchConfig:
    host: str
    admins: list[str]
    accounts: dict[str, list[str]]
    """Each with the addresses that it owns, its own among them."""
    confirm_at: dict[str, str]
    """By account, an address elsewhere of its owner."""
    units: list[str]
    """systemd units that must run."""
    on_demand: list[str]
    """Those of them that end when idle, and that their sockets start."""
    jails: dict[str, list[int] | None]
    """Each with the ports that it closes to a banned address; None: all."""
    jail_rules: dict[str, dict[str, Any]]
    """Each jail's `mailkeep_server.common.ban_proof.JailRules`."""
    open_ports: list[int]
    """The TCP ports that mail.yml opens to everyone."""
    never_ban: list[str]
    """Addresses and networks, of the server and of its administrators."""
    certificate_file: str
    min_certificate_days: int
    max_queued_messages: int
    max_disk_percent: int
    max_leaving: dict[str, int]
    """`max_per_hour` and `max_per_day`: recipients elsewhere."""
    domains: list[str]
    """Of this server: mail to any other leaves it."""
    max_failed_logins: int
    """In ten minutes."""
    control_socket: str
    """The guard's."""
    freeze_list: str
    smtp_socket: str
    """Of the smtpd that takes mail to administrators alone."""
    unsigned_smtp_socket: str
    """Of another one, which asks no milter."""
    signing_domains: list[str]
    """Whose mail OpenDKIM signs."""
    local_resolver: bool
    """Whether unbound on this machine answers its questions."""
    addresses: list[str]
    """The server's public addresses."""
    dns_troubles_file: str
    """Empty where nothing checks the DNS records."""
    renewal_troubles_file: str
    """Empty where no certificate authority is asked."""
    report_announcements_file: str
    """Empty where reports arrive at another server."""
    spam_filter: str = "off"
    """`off`, `light` or `full`."""
    relay: RelayConfig | None = None
    """The relay host that takes all outgoing mail, if there is one."""
    backup: BackupPlan | None = None
    """None where no backups are made."""
    webhook: WebhookConfig | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """How notifications leave the server."""
        return ("mail", "webhook") if self.webhook else ("mail",)


def load_config(file: Path = FILE) -> WatchConfig:
    """Raises OSError, ValueError, TypeError or KeyError for a file that is not as `mailkeep deploy` writes it."""
    fields: dict[str, Any] = json.loads(file.read_text())
    webhook, relay, backup = (fields.pop(name) for name in ("webhook", "relay", "backup"))
    return WatchConfig(
        **fields,
        backup=BackupPlan(**backup) if backup else None,
        relay=RelayConfig(**relay) if relay else None,
        webhook=_load_webhook(webhook, file.parent) if webhook else None,
    )


def _load_webhook(fields: Mapping[str, str], directory: Path) -> WebhookConfig:
    url, token = (directory / fields["secret_file"]).read_text().split("\n")[:2]
    return WebhookConfig(fields["format"], fields["template"], url, token)
