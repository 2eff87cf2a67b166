"""The DKIM keys in a vault, one or more for each domain that signs."""

import base64
import re
from dataclasses import dataclass, field
from datetime import date

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from mailkeep.errors import UserError
from mailkeep.inventory.tls_certificate import parse_private_key
from mailkeep.inventory.vault import Vault
from mailkeep.inventory.vault_entries import SELECTOR, DkimEntry, KeyState, parse_dkim_entry
from mailkeep.settings.models import Settings

MIN_BITS = 1024  # RFC 8301 §3.2: signers must not use shorter ones, as a server taken over may have
KEY_BITS = 2048  # RFC 8301 §3.2: at least 1024, should be 2048; the record of 4096 needs more than one DNS packet


@dataclass(frozen=True, slots=True)
class DkimKey:
    """A key that signs for a domain; its record is at `SELECTOR._domainkey.DOMAIN` (RFC 6376 §3.6.2.1)."""

    domain: str
    selector: str
    private_pem: bytes = field(repr=False)

    @property
    def public(self) -> str:
        """The p= tag of the record: base64 of the DER SubjectPublicKeyInfo (RFC 6376 §3.6.1)."""
        key = load_pem_private_key(self.private_pem, None, unsafe_skip_rsa_key_validation=True)
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(der).decode()


def signing_domains(settings: Settings) -> tuple[str, ...]:
    """Every mail domain, and the host name, from which the server itself sends."""
    return tuple(dict.fromkeys((*settings.domains, settings.host.name)))


def list_dkim_entries(vault: Vault) -> list[DkimEntry]:
    """By domain, and for each from the oldest selector to the newest."""
    entries = (entry for name in vault.names() if (entry := parse_dkim_entry(name)))
    return sorted(entries, key=lambda entry: entry.age_key)


def current_selectors(vault: Vault) -> dict[str, str]:
    """For each domain the selector that signs: the newest of its current keys."""
    return {entry.domain: entry.selector for entry in list_dkim_entries(vault) if entry.state == "current"}


def read_dkim_key(vault: Vault, entry: DkimEntry) -> DkimKey:
    """UserError if the entry is missing, unreadable, or holds another kind of key."""
    file, pem = f"{vault.directory / entry.name}.age", vault.read(entry.name)
    if not isinstance(parse_private_key(file, pem, MIN_BITS), rsa.RSAPrivateKey):
        raise UserError(f"{file}: this is no RSA key, and Mailkeep signs with no other kind.")
    return DkimKey(entry.domain, entry.selector, pem)


def create_dkim_key(vault: Vault, domain: str, today: date, state: KeyState = "current") -> DkimEntry:
    """Creates a key whose selector names this day."""
    entry = DkimEntry(domain, f"s{today:%Y%m%d}", state)
    vault.write(entry.name, generate_dkim_pem())
    return entry


def take_over_dkim_key(vault: Vault, domain: str, selector: str, pem: bytes, source: str) -> tuple[DkimEntry, int]:
    """Puts another server's key into the vault, to sign under its selector. Returns its entry and its bits.

    `source` is its file, for the messages. UserError if it is no key that Mailkeep signs with, or if the vault has a
    current key of the domain, which would sign instead.
    """
    key = parse_private_key(source, pem, MIN_BITS)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise UserError(f"{source}: this is no RSA key, and Mailkeep signs with no other kind.")
    entry = DkimEntry(domain, selector.lower())
    if not re.fullmatch(SELECTOR, entry.selector):
        raise UserError(f"{source}: the selector {selector!r} is not one label of letters, digits, - and _.")
    if domain in current_selectors(vault):
        raise UserError(f"{source}: the vault has a key of {domain} already. Nothing was replaced.")
    vault.write(entry.name, _to_pem(key))
    return entry, key.key_size


def generate_dkim_pem() -> bytes:
    """A new private key, PKCS #8 in PEM."""
    return _to_pem(rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS))


def _to_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
