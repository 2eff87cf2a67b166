"""The TLS keys in a vault: created by Mailkeep (`self-signed`, `acme`), or brought by the operator (`files`)."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from mailkeep.errors import UserError
from mailkeep.inventory import tls_certificate
from mailkeep.inventory.hosts import inventory_label
from mailkeep.inventory.vault import Vault, open_vault_to_write, write_private_file
from mailkeep.inventory.vault_entries import ACME_TLS, SELF_SIGNED, TLS_KEY, AcmeTlsEntry, parse_acme_tls_entry
from mailkeep.settings.models import Settings

CREATED_ENTRIES = {"self-signed": SELF_SIGNED, "acme": ACME_TLS}
"""By `tls.mode`, the entry of the key that Mailkeep creates."""


@dataclass(frozen=True, slots=True)
class TlsPair:
    """Certificate chain, the server's own first, and private key; both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def list_acme_tls_entries(vault: Vault) -> list[AcmeTlsEntry]:
    return [entry for name in vault.names() if (entry := parse_acme_tls_entry(name))]


def read_tls_pair(settings: Settings, inventory: Path, vault: Vault) -> TlsPair:
    """The certificate and key that the server starts with. UserError if the pair will not do."""
    if name := CREATED_ENTRIES.get(settings.tls.mode):
        return TlsPair(*tls_certificate.split_pem(vault.read(name)))
    chain = inventory / str(settings.tls.certificate)
    pair = TlsPair(_read_file(chain), vault.read(TLS_KEY))
    _check_pair(settings, pair, str(chain), f"{vault.directory / TLS_KEY}.age")
    return pair


def has_valid_certificate(settings: Settings, vault: Vault) -> bool:
    """Whether the certificate that Mailkeep created is for the present host name, and has not expired."""
    name = CREATED_ENTRIES[settings.tls.mode]
    if name not in vault.names():
        return False
    leaf = tls_certificate.parse_chain(f"{vault.directory / name}.age", vault.read(name))[0]
    return tls_certificate.covers_host(leaf, settings.host.name) and datetime.now(UTC) < leaf.not_valid_after_utc


def create_certificate(settings: Settings, vault: Vault, today: date) -> str:
    """Creates a self-signed certificate for the host, and describes it. The vault's key is kept if there is one. TLSA
    records name it, so neither a new host name nor an expired certificate may replace it."""
    name = CREATED_ENTRIES[settings.tls.mode]
    kept_key = _read_created_key(vault, name) if name in vault.names() else None
    pem = tls_certificate.create_self_signed(settings.host.name, today, kept_key)
    vault.write(name, pem)
    return f"self-signed certificate for {settings.host.name}, {tls_certificate.describe_certificate(pem)}"


def import_certificate(settings: Settings, inventory: Path, chain: Path, key: Path) -> list[str]:
    """Copies a certificate chain beside mail.yml and its key into the vault, after the checks of `read_tls_pair`. Those
    before are replaced. Returns what was done and what is left to do."""
    pair = TlsPair(_read_file(chain), _read_file(key))
    _check_pair(settings, pair, str(chain), str(key))
    target = inventory / (settings.tls.certificate or "tls.pem")
    vault = open_vault_to_write(inventory)
    is_new_key = _differs_from_vault(settings, vault, pair)
    vault.write(TLS_KEY, pair.key)
    write_private_file(target, pair.certificate)
    lines = [f"{target}: the certificate chain", f"{vault.directory / TLS_KEY}.age: its key, encrypted"]
    if is_new_key:
        lines.append(
            "This is another key than before. If your zone is signed (DNSSEC), publish the new TLSA record "
            f"(`mailkeep dns {inventory_label(inventory)}`) beside the former one, wait an hour, then deploy."
        )
    if settings.tls.mode != "files":
        lines.append(f"To use it, write in mail.yml:\ntls:\n  mode: files\n  certificate: {target.name}")
    return lines


def _check_pair(settings: Settings, pair: TlsPair, chain_file: str, key_file: str) -> None:
    names, now = settings.certificate_names, datetime.now(UTC)
    tls_certificate.check_certificate(chain_file, pair.certificate, key_file, pair.key, names, now)


def _differs_from_vault(settings: Settings, vault: Vault, pair: TlsPair) -> bool:
    """Whether this key differs from the TLS key in the vault; without one there, no."""
    name = CREATED_ENTRIES.get(settings.tls.mode, TLS_KEY)
    if name not in vault.names():
        return False
    former_key = tls_certificate.split_pem(vault.read(name))[1]
    former, new = (tls_certificate.parse_private_key(name, key).public_key() for key in (former_key, pair.key))
    return former != new


def _read_created_key(vault: Vault, name: str) -> ec.EllipticCurvePrivateKey:
    file = f"{vault.directory / name}.age"
    key = tls_certificate.parse_private_key(file, tls_certificate.split_pem(vault.read(name))[1])
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{file}: this is no ECDSA key, as `mailkeep keys` creates. Restore it from git or a backup.")
    return key


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
