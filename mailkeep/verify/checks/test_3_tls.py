"""TLS versions and ciphers, and the certificate that services show."""

import base64
from datetime import UTC, datetime, timedelta

from cryptography import x509

from mailkeep.inventory import tls_certificate
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import CheckFailedError, fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult

MIN_DAYS_LEFT = 21
MIN_FRACTION_LEFT = 1 / 6  # of a certificate's life, as those by ACME may last for only days

_REQUEST = "`systemctl start mailkeep-certificate` on the server requests a certificate, or says why it gets none."


def test_old_tls_is_refused(observed: ProbeResult, deploy: str) -> None:
    """TLS 1.0 and 1.1 are refused on every port."""
    fail_if_any(
        (f"port {port['port']}: {port['old']}" for port in observed["tls"] if port["old"] != "refused"),
        expected="refused",
        remedy=f"main.cf and dovecot.conf must require TLS 1.2: {deploy} restores them.",
    )


def test_weak_ciphers_are_refused(observed: ProbeResult, deploy: str) -> None:
    """Weak ciphers are refused on every port.

    These are ciphers without forward secrecy, authentication or encryption, and those with SHA-1.
    """
    fail_if_any(
        (f"port {port['port']}: {port['weak']}" for port in observed["tls"] if port["weak"] != "refused"),
        expected="refused",
        remedy=f"main.cf and dovecot.conf list the allowed ciphers: {deploy} restores them.",
    )


def test_the_declared_certificate_is_shown(
    observed: ProbeResult, settings: Settings, secrets: Secrets, deploy: str
) -> None:
    """Every port shows the declared certificate, and it is for this host.

    With ACME no certificate is declared: every port must show the same one.
    """
    shown = _load_shown(observed)
    by_acme = settings.tls.mode == "acme"
    expected = next(iter(shown.values())) if by_acme else _load_declared(secrets)
    fail_if_any(
        (f"port {port}: {_describe(certificate)}" for port, certificate in shown.items() if certificate != expected),
        expected=_describe(expected),
        remedy=f"{deploy} installs it, and lets the services read it.",
    )
    # With ACME, further names may be added to the certificate later.
    names = (settings.host.name,) if by_acme else settings.certificate_names
    if not all(tls_certificate.covers_host(expected, name) for name in names):
        raise CheckFailedError(
            f"a certificate for {', '.join(names)}",
            _describe(expected),
            _REQUEST if by_acme else "Import a certificate for these names with `mailkeep tls import`, and deploy.",
        )


def test_the_certificate_lasts(observed: ProbeResult, settings: Settings, secrets: Secrets) -> None:
    """The certificate does not expire soon.

    With ACME it must also be the authority's, and for the key in the vault.
    """
    if settings.tls.mode != "acme":
        faults = _find_expiry(_load_declared(secrets))
        remedy = "Renew it, import it with `mailkeep tls import`, and deploy."
    else:
        shown, declared = next(iter(_load_shown(observed).values())), _load_declared(secrets)
        faults = [*_find_expiry(shown), *_find_acme_faults(shown, declared, settings.certificate_names)]
        remedy = f"Just after a deploy, the server is still requesting one. Otherwise: {_REQUEST}"
    warn_if_any(faults, expected=f"at least {MIN_DAYS_LEFT} days left", remedy=remedy)


def _find_acme_faults(shown: x509.Certificate, declared: x509.Certificate, names: tuple[str, ...]) -> list[str]:
    if shown.public_key() != declared.public_key():
        return ["it is for another key than the vault's"]
    if shown.issuer == shown.subject:
        return ["it is self-signed: the authority has issued none yet"]
    missing = ", ".join(name for name in names if not tls_certificate.covers_host(shown, name))
    return [f"it is not for {missing}"] if missing else []


def _find_expiry(certificate: x509.Certificate) -> list[str]:
    """The days left, when they are too few."""
    end = certificate.not_valid_after_utc
    lifetime = end - certificate.not_valid_before_utc
    left, required = end - datetime.now(UTC), min(timedelta(MIN_DAYS_LEFT), lifetime * MIN_FRACTION_LEFT)
    return [f"{left.days} days left"] if left < required else []


def _load_shown(observed: ProbeResult) -> dict[int, x509.Certificate]:
    """By port."""
    return {
        port["port"]: x509.load_der_x509_certificate(base64.b64decode(port["certificate"])) for port in observed["tls"]
    }


def _load_declared(secrets: Secrets) -> x509.Certificate:
    return x509.load_pem_x509_certificates(secrets.tls.certificate)[0]


def _describe(certificate: x509.Certificate) -> str:
    end = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    return f"{certificate.subject.rfc4514_string()}, serial number {certificate.serial_number:x}, valid until {end}"
