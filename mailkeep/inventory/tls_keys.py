"""TLS keys of a vault."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from mailkeep.errors import UserError
from mailkeep.inventory import tls_certificate
from mailkeep.inventory.hosts import inventory_label
from mailkeep.inventory.vault import Vault, open_vault, write_private_file
from mailkeep.inventory.vault_entries import ACME_TLS, ACME_TLS_NAME, SELF_SIGNED, TLS_KEY
from mailkeep.settings.models import Settings


@dataclass(frozen=True, slots=True)
class TlsPair:
    """Certificate chain, the server's own first, and private key; both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def import_certificate(settings: Settings, inventory: Path, chain: Path, key: Path) -> list[str]:
    """Takes over a certificate chain (copied beside mail.yml) and its key (into the vault), also in place of
    former ones, after the same checks as `load`. Returns what was done and what is left to do."""
    pair = TlsPair(_file(chain), _file(key))
    tls_certificate.check_certificate(
        str(chain), pair.certificate, str(key), pair.key, settings.certificate_names, datetime.now(UTC)
    )
    target = inventory / (settings.tls.certificate or "tls.pem")
    safe = open_vault(inventory)
    other = _is_another_key(settings, safe, pair)
    safe.write(TLS_KEY, pair.key)
    write_private_file(target, pair.certificate)
    done = [f"{target}: the certificate chain", f"{safe.directory / TLS_KEY}.age: its key, encrypted"]
    if other:
        done.append(
            "It is another key than before. Where your zone is signed (DNSSEC), publish the new TLSA record "
            f"(`mailkeep dns {inventory_label(inventory)}`) beside the former one, wait an hour, and only then deploy."
        )
    if settings.tls.mode != "files":
        done.append(f"To use it, write in mail.yml:\ntls:\n  mode: files\n  certificate: {target.name}")
    return done


def _is_another_key(settings: Settings, safe: Vault, pair: TlsPair) -> bool:
    """Than the one that a server of this vault shows."""
    name = SELF_MADE.get(settings.tls.mode, TLS_KEY)
    if name not in safe.names():
        return False
    former = tls_certificate.split_pem(safe.read(name))[1]
    ours, theirs = (tls_certificate.parse_private_key(name, key).public_key() for key in (former, pair.key))
    return ours != theirs


# What is made here goes under which name.
SELF_MADE = {"self-signed": SELF_SIGNED, "acme": ACME_TLS}


def has_valid_certificate(settings: Settings, safe: Vault) -> bool:
    """A certificate for a former host name, or one that has run out, does not count."""
    name = SELF_MADE[settings.tls.mode]
    if name not in safe.names():
        return False
    pem = safe.read(name)
    where = f"{safe.directory / name}.age"
    leaf = tls_certificate.parse_chain(where, pem)[0]
    return tls_certificate.covers_host(leaf, settings.host.name) and datetime.now(UTC) < leaf.not_valid_after_utc


def read_tls_pair(settings: Settings, inventory: Path, safe: Vault) -> TlsPair:
    if name := SELF_MADE.get(settings.tls.mode):
        return TlsPair(*tls_certificate.split_pem(safe.read(name)))
    path = inventory / str(settings.tls.certificate)
    pair = TlsPair(_file(path), safe.read(TLS_KEY))
    where = f"{safe.directory / TLS_KEY}.age"
    tls_certificate.check_certificate(
        str(path), pair.certificate, where, pair.key, settings.certificate_names, datetime.now(UTC)
    )
    return pair


def read_tls_key(safe: Vault, name: str) -> ec.EllipticCurvePrivateKey:
    where = f"{safe.directory / name}.age"
    key = tls_certificate.parse_private_key(where, tls_certificate.split_pem(safe.read(name))[1])
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{where}: not an ECDSA key, as `mailkeep keys` makes it. Restore it from git or a backup.")
    return key


def list_other_entries(settings: Settings, safe: Vault) -> list[str]:
    """The names of keys for ACME that are coming, or going."""
    found = map(ACME_TLS_NAME.fullmatch, safe.names()) if settings.tls.mode == "acme" else ()
    return [one[0] for one in found if one and one["state"]]


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
