"""DKIM keys of a vault."""

import base64
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
from mailkeep.inventory import tls_certificate
from mailkeep.inventory.vault import Vault
from mailkeep.inventory.vault_entries import DKIM_NAME, DkimEntry
from mailkeep.settings.models import Settings

DKIM_BITS = 2048  # RFC 8301 §3.2: at least 1024, should be 2048; 4096 needs more than one DNS packet


@dataclass(frozen=True, slots=True)
class DkimKey:
    """The key that signs for a domain; its record is at `SELECTOR._domainkey.DOMAIN` (RFC 6376 §3.6.2.1)."""

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
    """Every mail domain, and the host name: what the server itself sends comes from there."""
    return tuple(dict.fromkeys((*settings.domains, settings.host.name)))


def list_dkim_entries(safe: Vault) -> list[DkimEntry]:
    """Per domain from the oldest to the newest."""
    found = map(DKIM_NAME.fullmatch, safe.names())
    return [DkimEntry(one["domain"], one["selector"], one["state"] or "") for one in found if one]


def current_selectors(safe: Vault) -> dict[str, str]:
    """Per domain the newest selector, of those that have no other state."""
    return {one.domain: one.selector for one in list_dkim_entries(safe) if not one.state}


def read_dkim_key(safe: Vault, stored: DkimEntry) -> DkimKey:
    where, pem = f"{safe.directory / stored.name}.age", safe.read(stored.name)
    if not isinstance(tls_certificate.parse_private_key(where, pem), rsa.RSAPrivateKey):
        raise UserError(f"{where}: not an RSA key, and other kinds are not signed with.")
    return DkimKey(stored.domain, stored.selector, pem)


def create_dkim_key(safe: Vault, domain: str, today: date, state: str = "") -> DkimEntry:
    """Makes a key under a selector of this day."""
    made = DkimEntry(domain, f"s{today:%Y%m%d}", state)
    safe.write(made.name, generate_dkim_pem())
    return made


def generate_dkim_pem() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=DKIM_BITS)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
