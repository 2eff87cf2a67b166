"""How connections are encrypted, and the certificate that is shown."""

import base64
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mailkeep import certificate
from mailkeep.secrets import Secrets, tls_names
from mailkeep.settings import Settings
from mailkeep.verify.promises import BrokenError, doubt, hold
from mailkeep.verify.target import Seen

DAYS_LEFT = 21


def test_old_tls_is_refused(seen: Seen, deploy: str) -> None:
    """TLS 1.0 and 1.1 are refused on every port."""
    hold(
        (f"port {one['port']}: {one['old']}" for one in seen["tls"] if one["old"] != "refused"),
        expected="refused",
        remedy=f"TLS 1.2 is the least in main.cf and dovecot.conf: {deploy} restores it.",
    )


def test_weak_ciphers_are_refused(seen: Seen, deploy: str) -> None:
    """Weak ciphers are refused on every port.

    Those without forward secrecy, authentication or encryption, and those with SHA-1."""
    hold(
        (f"port {one['port']}: {one['weak']}" for one in seen["tls"] if one["weak"] != "refused"),
        expected="refused",
        remedy=f"The lists of ciphers in main.cf and dovecot.conf do it: {deploy} restores them.",
    )


def test_the_declared_certificate_is_shown(seen: Seen, settings: Settings, secrets: Secrets, deploy: str) -> None:
    """Every port shows the declared certificate, and it is for this host."""
    declared = _declared(secrets)
    shown = {one["port"]: base64.b64decode(one["certificate"]) for one in seen["tls"]}
    der = declared.public_bytes(Encoding.DER)
    hold(
        (f"port {port}: {_described(other)}" for port, other in shown.items() if other != der),
        expected=_described(der),
        remedy=f"{deploy} puts it in place and has the services read it.",
    )
    names = tls_names(settings)
    if not all(certificate.covers(declared, name) for name in names):
        raise BrokenError(
            f"a certificate for {', '.join(names)}",
            _described(der),
            "Bring in a certificate for these names with `mailkeep tls`.",
        )


def test_the_certificate_lasts(secrets: Secrets) -> None:
    """The certificate does not run out soon."""
    left = _declared(secrets).not_valid_after_utc - datetime.now(UTC)
    doubt(
        [f"{left.days} days left"] if left.days < DAYS_LEFT else [],
        expected=f"at least {DAYS_LEFT} days left",
        remedy="Renew it, bring it in with `mailkeep tls`, and deploy.",
    )


def _declared(secrets: Secrets) -> x509.Certificate:
    return x509.load_pem_x509_certificates(secrets.tls.certificate)[0]


def _described(der: bytes) -> str:
    shown = x509.load_der_x509_certificate(der)
    until = f"{shown.not_valid_after_utc:%Y-%m-%d}"
    return f"{shown.subject.rfc4514_string()}, serial number {shown.serial_number:x}, valid until {until}"
