"""All secrets that a server needs, read from its vault: DKIM keys, the TLS key, passwords and tokens."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from mailkeep.errors import UserError
from mailkeep.inventory import dkim_keys, tls_keys
from mailkeep.inventory.backup_keys import BackupKeys
from mailkeep.inventory.credentials import DnsCredentials, parse_dns_credentials
from mailkeep.inventory.dkim_keys import DkimKey, current_selectors, list_dkim_entries, read_dkim_key, signing_domains
from mailkeep.inventory.hosts import inventory_label
from mailkeep.inventory.tls_certificate import split_pem
from mailkeep.inventory.tls_keys import CREATED_ENTRIES, TlsPair, list_acme_tls_entries
from mailkeep.inventory.vault import Vault, open_vault, open_vault_to_write
from mailkeep.inventory.vault_entries import (
    BACKUP_PASSPHRASE,
    BACKUP_SSH_KEY,
    DNS_CREDENTIALS,
    RELAY,
    SELF_SIGNED,
    SHARED_STORE,
    TLS_KEY,
    WEBHOOK,
    DkimEntry,
    parse_acme_tls_entry,
    parse_dkim_entry,
)
from mailkeep.settings.models import Settings


@dataclass(frozen=True, slots=True)
class Secrets:
    """`dkim` holds the key that signs for each domain, `other_dkim` next and former keys, whose records are published
    too. `tls` is the certificate and key that the server starts with; with ACME it gets another certificate for that
    key. `other_tls` are the certificates of next and former TLS keys, whose TLSA records are published too."""

    dkim: tuple[DkimKey, ...]
    tls: TlsPair
    relay_password: str | None = field(repr=False)
    webhook: str | None = field(repr=False, default=None)  # URL, newline, token or ""
    shared_store_password: str | None = field(repr=False, default=None)
    other_dkim: tuple[DkimKey, ...] = ()
    other_tls: tuple[bytes, ...] = ()
    dns_credentials: DnsCredentials | None = field(repr=False, default=None)
    backup: BackupKeys | None = field(repr=False, default=None)

    @property
    def published_tls(self) -> tuple[bytes, ...]:
        """The certificates, PEM, whose TLSA records are published."""
        return (self.tls.certificate, *self.other_tls)

    @property
    def published_dkim(self) -> tuple[DkimKey, ...]:
        """The keys whose records are published, each once: an interrupted rotation leaves one in two states."""
        return tuple(dict.fromkeys((*self.dkim, *self.other_dkim)))


def load_secrets(settings: Settings, inventory: Path) -> Secrets:
    """All secrets that these settings need. UserError says what is missing or wrong and which command mends it.

    Asks the clock: an expired certificate is refused.
    """
    if missing := list_missing(settings, inventory):
        raise UserError("\n".join((f"{inventory / 'secrets'}: secrets that mail.yml needs are missing.", *missing)))
    vault = open_vault(inventory)
    domains, selectors = signing_domains(settings), current_selectors(vault)
    other_dkim = [entry for entry in list_dkim_entries(vault) if entry.state != "current" and entry.domain in domains]
    texts = {name: vault.read(name).decode() for name, is_needed in NEEDED_TEXTS.items() if is_needed(settings)}
    return Secrets(
        dkim=tuple(read_dkim_key(vault, DkimEntry(domain, selectors[domain])) for domain in domains),
        tls=tls_keys.read_tls_pair(settings, inventory, vault),
        relay_password=texts.get(RELAY),
        webhook=texts.get(WEBHOOK),
        shared_store_password=texts.get(SHARED_STORE),
        other_dkim=tuple(read_dkim_key(vault, entry) for entry in other_dkim),
        other_tls=_read_other_certificates(settings, vault),
        dns_credentials=parse_dns_credentials(texts[DNS_CREDENTIALS]) if DNS_CREDENTIALS in texts else None,
        backup=BackupKeys(texts[BACKUP_PASSPHRASE], texts[BACKUP_SSH_KEY]) if BACKUP_PASSPHRASE in texts else None,
    )


def list_missing(settings: Settings, inventory: Path) -> list[str]:
    """The secrets that the settings need and the vault lacks: a line each, with the command that mends it."""
    vault, label = open_vault(inventory), inventory_label(inventory)
    lines = []
    selectors = current_selectors(vault)
    if unsigned := [domain for domain in signing_domains(settings) if domain not in selectors]:
        lines.append(
            f"No DKIM key for {', '.join(unsigned)}: if there was one, restore it from git or a backup. For a new "
            f"domain run `mailkeep keys {label}`, publish what `mailkeep dns {label}` prints, then deploy."
        )
    if settings.tls.mode in CREATED_ENTRIES and not tls_keys.has_valid_certificate(settings, vault):
        lines.append(f"No self-signed certificate for {settings.host.name}: run `mailkeep keys {label}`.")
    if settings.tls.mode == "files" and TLS_KEY not in vault.names():
        lines.append(f"No TLS key: run `mailkeep tls import {label} --certificate CHAIN.pem --key KEY.pem`.")
    commands = {
        DNS_CREDENTIALS: f"No credentials for {settings.tls.acme.provider}: run `mailkeep acme {label}`.",
        RELAY: f"No password for the relay host: run `mailkeep relay {label}`.",
        WEBHOOK: f"No URL for the webhook: run `mailkeep webhook {label}`.",
        SHARED_STORE: f"No password for the guard's shared store: run `mailkeep store {label}`.",
        BACKUP_PASSPHRASE: f"No passphrase for backups: run `mailkeep backup {label} --init`.",
        BACKUP_SSH_KEY: f"No SSH key for backups: run `mailkeep backup {label} --init`.",
    }
    names = vault.names()
    return lines + [line for name, line in commands.items() if NEEDED_TEXTS[name](settings) and name not in names]


def create_missing_keys(settings: Settings, inventory: Path, today: date) -> list[str]:
    """Creates the keys that the settings need and the vault lacks; returns a line for each. Replaces no valid key.
    UserError if this user cannot open the vault."""
    vault, lines = open_vault_to_write(inventory), []
    selectors = current_selectors(vault)
    for domain in signing_domains(settings):
        if domain not in selectors:
            entry = dkim_keys.create_dkim_key(vault, domain, today)
            lines.append(f"DKIM key for {domain}, selector {entry.selector} (RSA {dkim_keys.KEY_BITS})")
    if settings.tls.mode in CREATED_ENTRIES and not tls_keys.has_valid_certificate(settings, vault):
        lines.append(tls_keys.create_certificate(settings, vault, today))
    return lines


def list_unused(settings: Settings, inventory: Path) -> list[str]:
    """Names in the vault that these settings do not need, such as keys of domains that left mail.yml. Of a domain that
    is still in mail.yml all selectors are needed: mail that they signed may be on its way."""
    return [name for name in open_vault(inventory).names() if not _is_needed(settings, name)]


def _is_needed(settings: Settings, name: str) -> bool:
    if entry := parse_dkim_entry(name):
        return entry.domain in signing_domains(settings)
    if parse_acme_tls_entry(name):
        return settings.tls.mode == "acme"
    if name in NEEDED_TEXTS:
        return NEEDED_TEXTS[name](settings)
    return name == {"self-signed": SELF_SIGNED, "files": TLS_KEY}.get(settings.tls.mode)


def _read_other_certificates(settings: Settings, vault: Vault) -> tuple[bytes, ...]:
    """Of the next and the former TLS key, where there are any."""
    if settings.tls.mode != "acme":
        return ()
    others = [entry for entry in list_acme_tls_entries(vault) if entry.state != "current"]
    return tuple(split_pem(vault.read(entry.name))[0] for entry in others)


NEEDED_TEXTS: dict[str, Callable[[Settings], bool]] = {
    DNS_CREDENTIALS: lambda settings: settings.tls.mode == "acme" and settings.tls.acme.challenge == "dns-01",
    RELAY: lambda settings: settings.relay is not None and settings.relay.user is not None,
    WEBHOOK: lambda settings: settings.alerts.webhook is not None,
    SHARED_STORE: lambda settings: settings.guard.shared_store is not None,
    BACKUP_PASSPHRASE: lambda settings: settings.backup is not None,
    BACKUP_SSH_KEY: lambda settings: settings.backup is not None,
}
"""By entry, whether these settings need it."""
