"""A mail server as other servers meet it on port 25: its greeting, and its certificate after STARTTLS."""

import smtplib
import socket
import ssl
from dataclasses import dataclass

TIMEOUT = 10  # seconds


@dataclass(frozen=True, slots=True)
class Greeting:
    """The `name` in the greeting and the `certificate` (DER). `tls_error` says why other servers do not trust the
    certificate, `error` why nothing answers."""

    name: str = ""
    certificate: bytes = b""
    tls_error: str = ""
    error: str = ""


def fetch_greeting(address: str, host: str) -> Greeting:
    """Connect to port 25 at this address, and check the certificate for `host`."""
    try:
        return _connect(address, host, ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        tls_error = error.verify_message
    except (OSError, smtplib.SMTPException) as error:
        return Greeting(error=str(error))
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    try:
        return _connect(address, host, unchecked, tls_error)
    except (OSError, smtplib.SMTPException) as error:
        return Greeting(error=str(error))


def _connect(address: str, host: str, context: ssl.SSLContext, tls_error: str = "") -> Greeting:
    # An address literal (RFC 5321 §4.1.3): this machine's own name would take a DNS lookup.
    with smtplib.SMTP(local_hostname="[127.0.0.1]", timeout=TIMEOUT) as smtp:
        _, greeting = smtp.connect(address, 25)
        name = greeting.decode(errors="replace").partition(" ")[0]
        smtp.ehlo()
        if not smtp.has_extn("starttls"):
            return Greeting(name, tls_error="it offers no STARTTLS")
        smtp.docmd("STARTTLS")
        # smtplib's own starttls() would check the certificate for the address. QUIT, at the end of `with`, goes
        # through this socket.
        tls = context.wrap_socket(smtp.sock or socket.socket(), server_hostname=host)
        smtp.sock, smtp.file = tls, None
        return Greeting(name, tls.getpeercert(binary_form=True) or b"", tls_error)
