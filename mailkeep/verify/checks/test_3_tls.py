"""How connections are encrypted, and the certificate that is shown."""

import base64
from datetime import UTC, datetime, timedelta

from cryptography import x509

from mailkeep.inventory import tls_certificate
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import CheckFailedError, fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult

DAYS_LEFT = 21
PART_LEFT = 1 / 6  # of a certificate's life: those by ACME may last for days only


def test_old_tls_is_refused(seen: ProbeResult, deploy: str) -> None:
    """TLS 1.0 and 1.1 are refused on every port."""
    fail_if_any(
        (f"port {one['port']}: {one['old']}" for one in seen["tls"] if one["old"] != "refused"),
        expected="refused",
        remedy=f"TLS 1.2 is the least in main.cf and dovecot.conf: {deploy} restores it.",
    )


def test_weak_ciphers_are_refused(seen: ProbeResult, deploy: str) -> None:
    """Weak ciphers are refused on every port.

    Those without forward secrecy, authentication or encryption, and those with SHA-1."""
    fail_if_any(
        (f"port {one['port']}: {one['weak']}" for one in seen["tls"] if one["weak"] != "refused"),
        expected="refused",
        remedy=f"The lists of ciphers in main.cf and dovecot.conf do it: {deploy} restores them.",
    )


def test_the_declared_certificate_is_shown(
    seen: ProbeResult, settings: Settings, secrets: Secrets, deploy: str
) -> None:
    """Every port shows the declared certificate, and it is for this host.

    By ACME, every port shows the same one."""
    shown = _shown(seen)
    by_acme = settings.tls.mode == "acme"
    expected = next(iter(shown.values())) if by_acme else _declared(secrets)
    fail_if_any(
        (f"port {port}: {_described(other)}" for port, other in shown.items() if other != expected),
        expected=_described(expected),
        remedy=f"{deploy} puts it in place and has the services read it.",
    )
    needed = (settings.host.name,) if by_acme else settings.certificate_names  # by ACME, the others may come later
    if not all(tls_certificate.covers_host(expected, name) for name in needed):
        raise CheckFailedError(
            f"a certificate for {', '.join(needed)}",
            _described(expected),
            _ASK if by_acme else "Bring in a certificate for these names with `mailkeep tls`.",
        )


def test_the_certificate_lasts(seen: ProbeResult, settings: Settings, secrets: Secrets) -> None:
    """The certificate does not run out soon.

    By ACME, it is the authority's, and for the key in the vault."""
    if settings.tls.mode != "acme":
        faults, remedy = _ends(_declared(secrets)), "Renew it, bring it in with `mailkeep tls`, and deploy."
    else:
        one = next(iter(_shown(seen).values()))
        faults = [*_ends(one), *_not_yet(one, _declared(secrets), settings.certificate_names)]
        remedy = f"Just after a deploy, a new one is under way. Else: {_ASK}"
    warn_if_any(faults, expected=f"at least {DAYS_LEFT} days left", remedy=remedy)


_ASK = "`systemctl start mailkeep-certificate` on the server gets one, or says why not."


def _not_yet(one: x509.Certificate, declared: x509.Certificate, names: tuple[str, ...]) -> list[str]:
    if one.public_key() != declared.public_key():
        return ["it is for another key than the one in the vault"]
    if one.issuer == one.subject:
        return ["it is self-signed, and none of the authority's"]
    lacking = ", ".join(name for name in names if not tls_certificate.covers_host(one, name))
    return [f"it is not for {lacking}"] if lacking else []


def _ends(one: x509.Certificate) -> list[str]:
    """What it has left, where that is less than it should be."""
    end = one.not_valid_after_utc
    left, least = end - datetime.now(UTC), min(timedelta(DAYS_LEFT), (end - one.not_valid_before_utc) * PART_LEFT)
    return [f"{left.days} days left"] if left < least else []


def _shown(seen: ProbeResult) -> dict[int, x509.Certificate]:
    return {one["port"]: x509.load_der_x509_certificate(base64.b64decode(one["certificate"])) for one in seen["tls"]}


def _declared(secrets: Secrets) -> x509.Certificate:
    return x509.load_pem_x509_certificates(secrets.tls.certificate)[0]


def _described(shown: x509.Certificate) -> str:
    until = f"{shown.not_valid_after_utc:%Y-%m-%d}"
    return f"{shown.subject.rfc4514_string()}, serial number {shown.serial_number:x}, valid until {until}"
