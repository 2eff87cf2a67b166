"""Certificates as an authority would issue them, good and bad."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

NOW = datetime.now(UTC)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def with_passphrase(key: Key) -> bytes:
    return key_pem(key, BestAvailableEncryption(b"passphrase"))


@dataclass
class Authority:
    name: str
    key: ec.EllipticCurvePrivateKey
    pem: bytes = b""

    def issue_certificate(
        self,
        *names: str,
        key: Key,
        subject: str = "server",
        authority: bool = False,
        start: timedelta = timedelta(days=-10),
        end: timedelta = timedelta(days=80),
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_common_name(subject))
            .issuer_name(_common_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + start)
            .not_valid_after(NOW + end)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def create_root() -> Authority:
    authority = Authority("root", new_key())
    authority.pem = authority.issue_certificate(key=authority.key, subject="root", authority=True)
    return authority


def create_intermediate(above: Authority) -> Authority:
    authority = Authority("intermediate", new_key())
    authority.pem = above.issue_certificate(key=authority.key, subject="intermediate", authority=True)
    return authority


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
