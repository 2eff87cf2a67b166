"""What a server needs that must not be public: DKIM keys, the TLS key, the relay host's password and the like.

In the vault: `dkim/DOMAIN/SELECTOR`, `tls/self-signed` and `tls/acme` (key and certificate), `tls/key`, `acme` (what a
DNS provider wants to know), `relay`, `webhook`, `store`.
The newest selector signs; `SELECTOR.next` is one that will once its record is seen, `SELECTOR.until-YYYYMMDD` one that
did, whose record stays until that day. In the same way `tls/acme.next` is the key that will be shown,
`tls/acme.from-YYYYMMDDHHMM` one whose record was seen and that may be shown from then on (UTC), `tls/acme.former` one
that was shown.
"""

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from mailkeep.errors import UserError
from mailkeep.inventory import tls_certificate
from mailkeep.inventory.credentials import DnsCredentials, parse_dns_credentials
from mailkeep.inventory.dkim_keys import (
    DKIM_BITS,
    DkimKey,
    create_dkim_key,
    current_selectors,
    list_dkim_entries,
    read_dkim_key,
    signing_domains,
)
from mailkeep.inventory.hosts import inventory_label
from mailkeep.inventory.tls_keys import (
    SELF_MADE,
    TlsPair,
    has_valid_certificate,
    list_other_entries,
    read_tls_key,
    read_tls_pair,
)
from mailkeep.inventory.vault import open_vault
from mailkeep.inventory.vault_entries import (
    ACME,
    ACME_TLS_NAME,
    DKIM_NAME,
    RELAY,
    SELF_SIGNED,
    STORE,
    TLS_KEY,
    WEBHOOK,
    DkimEntry,
)
from mailkeep.settings.models import Settings


@dataclass(frozen=True, slots=True)
class Secrets:
    """`dkim` has the keys that sign, one a domain; `other_dkim` those whose records are published beside theirs.
    `tls` is what the server shows; by ACME its key, and what it shows until it has a certificate of the authority's.
    `other_tls` are certificates with the keys that are published beside that one."""

    dkim: tuple[DkimKey, ...]
    tls: TlsPair
    relay_password: str | None = field(repr=False)
    webhook: str | None = field(repr=False, default=None)  # its URL, and on a second line its token, if any
    store_password: str | None = field(repr=False, default=None)
    other_dkim: tuple[DkimKey, ...] = ()
    other_tls: tuple[bytes, ...] = ()
    acme: DnsCredentials | None = field(repr=False, default=None)

    @property
    def published_tls(self) -> tuple[bytes, ...]:
        return (self.tls.certificate, *self.other_tls)

    @property
    def published_dkim(self) -> tuple[DkimKey, ...]:
        return tuple(dict.fromkeys((*self.dkim, *self.other_dkim)))  # an interrupted rotation leaves one twice


def load_secrets(settings: Settings, inventory: Path) -> Secrets:
    """All that these settings need; UserError says what is missing or wrong and what to run."""
    if lacking := list_missing(settings, inventory):
        raise UserError("\n".join((f"{inventory / 'secrets'}: not all that mail.yml needs is there.", *lacking)))
    safe = open_vault(inventory)
    domains, signing = signing_domains(settings), current_selectors(safe)
    return Secrets(
        dkim=tuple(read_dkim_key(safe, DkimEntry(domain, signing[domain])) for domain in domains),
        tls=read_tls_pair(settings, inventory, safe),
        relay_password=safe.read(RELAY).decode() if _needs_relay_password(settings) else None,
        webhook=safe.read(WEBHOOK).decode() if settings.alerts.webhook else None,
        store_password=safe.read(STORE).decode() if settings.guard.store else None,
        other_dkim=tuple(
            read_dkim_key(safe, one) for one in list_dkim_entries(safe) if one.state and one.domain in domains
        ),
        other_tls=tuple(tls_certificate.split_pem(safe.read(name))[0] for name in list_other_entries(settings, safe)),
        acme=parse_dns_credentials(safe.read(ACME).decode()) if _needs_credentials(settings) else None,
    )


def list_missing(settings: Settings, inventory: Path) -> list[str]:
    """What the settings need and the vault lacks: a line each, with the command that mends it."""
    safe, name = open_vault(inventory), inventory_label(inventory)
    there, active = set(safe.names()), current_selectors(safe)
    lines = []
    if unsigned := [domain for domain in signing_domains(settings) if domain not in active]:
        lines.append(
            f"No DKIM key for {', '.join(unsigned)}: if there was one, restore it from git or a backup. "
            f"For a new domain run `mailkeep keys {name}`, then publish what `mailkeep dns {name}` prints, before "
            "you deploy."
        )
    if settings.tls.mode in SELF_MADE and not has_valid_certificate(settings, safe):
        lines.append(f"No self-signed certificate for {settings.host.name}: run `mailkeep keys {name}`.")
    if _needs_credentials(settings) and ACME not in there:
        lines.append(f"No credentials for {settings.tls.acme.provider}: run `mailkeep acme {name}`.")
    if settings.tls.mode == "files" and TLS_KEY not in there:
        lines.append(f"No TLS key: run `mailkeep tls {name} --certificate CHAIN.pem --key KEY.pem`.")
    if _needs_relay_password(settings) and RELAY not in there:
        lines.append(f"No password for the relay host: run `mailkeep relay {name}`.")
    if settings.alerts.webhook and WEBHOOK not in there:
        lines.append(f"No URL for the webhook: run `mailkeep webhook {name}`.")
    if settings.guard.store and STORE not in there:
        lines.append(f"No password for the guard's store: run `mailkeep store {name}`.")
    return lines


def create_missing_keys(settings: Settings, inventory: Path, today: date) -> list[str]:
    """Makes the keys that the settings need and the vault lacks; a line for each. Replaces no valid key."""
    safe, made = open_vault(inventory), []
    active = current_selectors(safe)
    for domain in signing_domains(settings):
        if domain not in active:
            selector = create_dkim_key(safe, domain, today).selector
            made.append(f"DKIM key for {domain}, selector {selector} (RSA {DKIM_BITS})")
    if settings.tls.mode in SELF_MADE and not has_valid_certificate(settings, safe):
        name = SELF_MADE[settings.tls.mode]
        # TLSA records name its key: neither another host name nor the end of ten years is a reason for another one.
        kept = read_tls_key(safe, name) if name in safe.names() else None
        pem = tls_certificate.create_self_signed(settings.host.name, today, kept)
        safe.write(name, pem)
        made.append(f"self-signed certificate for {settings.host.name}, {tls_certificate.describe_certificate(pem)}")
    return made


def list_unused(settings: Settings, inventory: Path) -> list[str]:
    """Names in the vault that these settings have no use for, such as keys of domains that left mail.yml.
    Older selectors of a domain that is still there do not count: mail signed with them may be under way."""
    needed = {
        SELF_SIGNED: settings.tls.mode == "self-signed",
        TLS_KEY: settings.tls.mode == "files",
        RELAY: _needs_relay_password(settings),
        WEBHOOK: settings.alerts.webhook is not None,
        STORE: settings.guard.store is not None,
        ACME: _needs_credentials(settings),
    }
    domains = signing_domains(settings)

    def used(name: str) -> bool:
        dkim = DKIM_NAME.fullmatch(name)
        if ACME_TLS_NAME.fullmatch(name):
            return settings.tls.mode == "acme"
        return dkim["domain"] in domains if dkim else needed.get(name, False)

    return [name for name in open_vault(inventory).names() if not used(name)]


def _needs_credentials(settings: Settings) -> bool:
    return settings.tls.mode == "acme" and settings.tls.acme.challenge == "dns-01"


def _needs_relay_password(settings: Settings) -> bool:
    return settings.relay is not None and settings.relay.user is not None
