"""Certificates: creating a self-signed one, and checking a chain and its key before a server gets them."""

import re
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mailkeep.errors import UserError

# Mail clients pin a self-signed certificate, so each renewal costs every user a warning.
_SELF_SIGNED_DAYS = 3650
_PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----\n?", re.DOTALL)


def create_self_signed(host: str, today: date, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """PEM of a P-256 key (`key`, or a new one) and a certificate for this host, valid from the day before `today`."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    start = datetime.combine(today, time(), UTC) - timedelta(days=1)  # for clients whose clock is slow
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])  # X.520: ub-common-name; the SAN counts
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=_SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def split_pem(pem: bytes) -> tuple[bytes, bytes]:
    """(certificates, private key) of a PEM that holds both."""
    return _PRIVATE.sub(b"", pem), b"".join(_PRIVATE.findall(pem))


def describe_certificate(pem: bytes) -> str:
    """Its last day, and the SHA-256 fingerprint by which a user can recognise it."""
    leaf = x509.load_pem_x509_certificate(pem)
    fingerprint = leaf.fingerprint(hashes.SHA256()).hex(":")
    return f"valid until {leaf.not_valid_after_utc:%Y-%m-%d}, SHA-256 {fingerprint}"


def parse_chain(file: str, pem: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one. UserError, which names `file`, if there is none."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise UserError(f"{file}: no certificate in PEM form (-----BEGIN CERTIFICATE-----) is in this file.") from None


def parse_private_key(file: str, pem: bytes, min_rsa_bits: int = 2048) -> PrivateKeyTypes:
    """An RSA or ECDSA key in PEM. UserError, which names `file`, for any other, or one with a passphrase."""
    try:
        key = load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise UserError(
            f"{file}: this key has a passphrase, which a server cannot enter. "
            "Remove it with `openssl pkey -in KEY.pem -out NEW.pem`; the vault encrypts the key."
        ) from None
    except Exception:  # cryptography raises several kinds; the text could quote the key
        raise UserError(f"{file}: no private key in PEM form (-----BEGIN PRIVATE KEY-----) is in this file.") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise UserError(f"{file}: neither an RSA nor an ECDSA key; many mail servers and clients know no other.")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < min_rsa_bits:
        raise UserError(f"{file}: an RSA key of {key.key_size} bits; at least {min_rsa_bits} are needed.")
    return key


def covers_host(leaf: x509.Certificate, host: str) -> bool:
    """Whether the DNS names of the certificate match, `*` standing for one whole label (RFC 9525 §6.3)."""
    return any(name.lower() in (host, "*." + host.partition(".")[2]) for name in dns_names(leaf))


def dns_names(leaf: x509.Certificate) -> list[str]:
    """The subject alternative names; the common name does not count (RFC 9525 §2)."""
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return extension.value.get_values_for_type(x509.DNSName)


def check_certificate(
    chain_file: str, chain_pem: bytes, key_file: str, key_pem: bytes, hosts: tuple[str, ...], now: datetime
) -> None:
    """UserError unless the key belongs to the first certificate, which covers these host names. Each certificate must
    be issued by the next, and all must be valid now."""
    if _PRIVATE.search(chain_pem):
        raise UserError(
            f"{chain_file}: this file holds a private key in clear text. Take the key out of it; "
            "`mailkeep tls import NAME --certificate CHAIN.pem --key KEY.pem` puts the key into the vault."
        )
    certificates = parse_chain(chain_file, chain_pem)
    _check_key(chain_file, certificates, key_file, key_pem)
    _check_order(chain_file, certificates)
    leaf = certificates[0]
    if uncovered := ", ".join(host for host in hosts if not covers_host(leaf, host)):
        names = ", ".join(dns_names(leaf)) or "no DNS name at all"
        raise UserError(
            f"{chain_file}: the certificate is for {names}; it must be for {uncovered} too. The server uses that name "
            "(host.name, and the names of `web` and `dns.mta_sts` over HTTPS). Get a certificate for all of them."
        )
    for number, certificate in enumerate(certificates, start=1):
        _check_dates(f"{chain_file}: certificate {number}", certificate, now)


def _check_key(chain_file: str, certificates: list[x509.Certificate], key_file: str, key_pem: bytes) -> None:
    public = _encode_public(parse_private_key(key_file, key_pem).public_key())
    matching = [
        number
        for number, certificate in enumerate(certificates, start=1)
        if _encode_public(certificate.public_key()) == public
    ]
    if not matching:
        raise UserError(
            f"{chain_file}: none of its certificates belongs to the key {key_file}. "
            "Bring the two that were issued together: "
            "`mailkeep tls import NAME --certificate CHAIN.pem --key KEY.pem`."
        )
    if matching[0] != 1:
        raise UserError(
            f"{chain_file}: the server's own certificate is number {matching[0]}; it must be the first, "
            "then each followed by its issuer (RFC 8446 §4.4.2)."
        )


def _check_order(chain_file: str, certificates: list[x509.Certificate]) -> None:
    for number, (issued, issuer) in enumerate(pairwise(certificates), start=1):
        try:
            issued.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            raise UserError(
                f"{chain_file}: certificate {number} is not issued by the next one. After the server's own, each must "
                "be followed by its issuer (RFC 8446 §4.4.2). Remove certificates that do not belong to the chain."
            ) from None


def _check_dates(position: str, certificate: x509.Certificate, now: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise UserError(
            f"{position} expired on {end:%Y-%m-%d %H:%M} UTC. Renew it, then run `mailkeep tls import` again."
        )
    if now < start:
        raise UserError(
            f"{position} is valid only from {start:%Y-%m-%d %H:%M} UTC on. Is the clock of this machine right?"
        )


def _encode_public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
