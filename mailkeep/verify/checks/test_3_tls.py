"""How connections are encrypted, and the certificate that is shown."""

import base64
from datetime import UTC, datetime, timedelta

from cryptography import x509

from mailkeep import certificate
from mailkeep.secrets import Secrets, tls_names
from mailkeep.settings import Settings
from mailkeep.verify.promises import BrokenError, doubt, hold
from mailkeep.verify.target import Seen

DAYS_LEFT = 21
PART_LEFT = 1 / 6  # of a certificate's life: those by ACME may last for days only


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
    """Every port shows the declared certificate, and it is for this host.

    By ACME, one for the declared key."""
    declared, by_acme = _declared(secrets), settings.tls.mode == "acme"
    shown = _shown(seen)
    hold(
        (f"port {port}: {_described(other)}" for port, other in shown.items() if not _same(other, declared, by_acme)),
        expected=_described(declared) + (", or another one for its key" if by_acme else ""),
        remedy=_ACME_SAYS if by_acme else f"{deploy} puts it in place and has the services read it.",
    )
    for one in (declared, *shown.values()):
        needed = (settings.host.name,) if by_acme else tls_names(settings)  # by ACME, the others may come later
        if not all(certificate.covers(one, name) for name in needed):
            raise BrokenError(
                f"a certificate for {', '.join(needed)}",
                _described(one),
                _ACME_SAYS if by_acme else "Bring in a certificate for these names with `mailkeep tls`.",
            )


def test_the_certificate_lasts(seen: Seen, settings: Settings, secrets: Secrets) -> None:
    """The certificate does not run out soon.

    By ACME, it is the authority's."""
    by_acme = settings.tls.mode == "acme"
    doubt(
        {said for one in _shown(seen).values() if (said := _fault(one, tls_names(settings)))}
        if by_acme
        else [said for said in (_ends(_declared(secrets)),) if said],
        expected=f"at least {DAYS_LEFT} days left",
        remedy=_ACME_SAYS if by_acme else "Renew it, bring it in with `mailkeep tls`, and deploy.",
    )


_ACME_SAYS = "`systemctl start mailkeep-certificate` on the server gets one, or says why not."


def _shown(seen: Seen) -> dict[int, x509.Certificate]:
    return {one["port"]: x509.load_der_x509_certificate(base64.b64decode(one["certificate"])) for one in seen["tls"]}


def _same(one: x509.Certificate, declared: x509.Certificate, by_acme: bool) -> bool:
    return one.public_key() == declared.public_key() if by_acme else one == declared


def _fault(one: x509.Certificate, names: tuple[str, ...]) -> str:
    if one.issuer == one.subject:
        return "there is none of the authority's yet"
    lacking = ", ".join(name for name in names if not certificate.covers(one, name))
    return f"it is not for {lacking}" if lacking else _ends(one)


def _ends(one: x509.Certificate) -> str:
    """Whether it has less left than it should, and how much."""
    end = one.not_valid_after_utc
    left, least = end - datetime.now(UTC), min(timedelta(DAYS_LEFT), (end - one.not_valid_before_utc) * PART_LEFT)
    return f"{left.days} days left" if left < least else ""


def _declared(secrets: Secrets) -> x509.Certificate:
    return x509.load_pem_x509_certificates(secrets.tls.certificate)[0]


def _described(shown: x509.Certificate) -> str:
    until = f"{shown.not_valid_after_utc:%Y-%m-%d}"
    return f"{shown.subject.rfc4514_string()}, serial number {shown.serial_number:x}, valid until {until}"
