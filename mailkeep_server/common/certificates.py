"""Reading certificates and keys with openssl(1): Python's standard library cannot."""

import re
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

MAX_ERROR_CHARS = 400
OPENSSL_TIMEOUT = 20.0  # seconds
_END_OF_KEY = "-----END PUBLIC KEY-----"
_FORMATS = ("-nameopt", "RFC2253", "-dateopt", "iso_8601")


class CertificateError(Exception):
    """openssl could not do what was asked; the message says what it printed."""


@dataclass(frozen=True)
class Certificate:
    """Times are seconds since the epoch."""

    public_key: str
    """PEM, as `read_public_key` gives it."""
    names: frozenset[str]
    """The DNS names that it is for (subjectAltName)."""
    not_before: float
    not_after: float
    self_signed: bool

    def remaining_fraction(self, now: float) -> float:
        """The fraction of its lifetime that is left; 0 before its start and after its end."""
        if not self.not_before <= now < self.not_after:
            return 0.0
        return (self.not_after - now) / (self.not_after - self.not_before)

    def is_accepted_for(self, host: str, now: float) -> bool:
        """Whether clients that trust its authority accept it for this host."""
        return not self.self_signed and host in self.names and self.remaining_fraction(now) > 0


def read_certificate(pem: str, timeout: float = OPENSSL_TIMEOUT) -> Certificate:
    """The first certificate of a PEM text. Raises CertificateError if there is none, or after `timeout` seconds."""
    fields_shown = ("-pubkey", "-subject", "-issuer", "-dates", "-ext", "subjectAltName")
    output = run_openssl("x509", "-noout", *fields_shown, *_FORMATS, stdin=pem, timeout=timeout)
    key, _, rest = output.partition(_END_OF_KEY)
    fields = dict(line.split("=", 1) for line in rest.splitlines() if re.match(r"\w+=", line))
    return Certificate(
        public_key=f"{key}{_END_OF_KEY}",
        names=frozenset(re.findall(r"DNS:([^,\s]+)", rest)),
        not_before=_parse_time(fields["notBefore"]),
        not_after=_parse_time(fields["notAfter"]),
        self_signed=fields["subject"] == fields["issuer"],
    )


def _parse_time(text: str) -> float:
    """`2026-11-25 16:00:00Z`, as openssl prints it by `-dateopt iso_8601`."""
    return datetime.fromisoformat(text).timestamp()


def read_public_key(key_file: Path) -> str:
    """The public key (PEM) of a private one. Raises CertificateError."""
    return run_openssl("pkey", "-pubout", "-in", str(key_file)).strip()


def build_signing_request(key_file: Path, names: list[str]) -> str:
    """A certificate signing request (PEM) for these DNS names. Raises CertificateError."""
    alternative_names = ",".join(f"DNS:{name}" for name in names)
    return run_openssl(
        "req", "-new", "-key", str(key_file), "-subj", "/", "-addext", f"subjectAltName={alternative_names}"
    )


def run_openssl(*arguments: str, stdin: str = "", timeout: float = OPENSSL_TIMEOUT) -> str:
    """Its standard output. Raises CertificateError."""
    try:
        done = subprocess.run(
            ["openssl", *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise CertificateError(f"openssl {arguments[0]} did not end within {timeout:.0f} s") from None
    if done.returncode:
        raise CertificateError(f"openssl {arguments[0]}: {' '.join(done.stderr.split())[:MAX_ERROR_CHARS]}")
    return done.stdout
