"""A mail server as others meet it: its greeting, and the certificate that it shows after STARTTLS."""

import smtplib
import socket
import ssl
from dataclasses import dataclass

SECONDS = 10


@dataclass(frozen=True, slots=True)
class Greeting:
    """The `name` in the greeting, the `certificate` (DER), and why a stranger does not trust it (`distrust`). `error`
    says why nothing answers."""

    name: str = ""
    certificate: bytes = b""
    distrust: str = ""
    error: str = ""


def fetch_greeting(address: str, host: str) -> Greeting:
    """What answers at this address, which should be `host`."""
    try:
        return _greet(address, host, ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        distrust = error.verify_message
    except (OSError, smtplib.SMTPException) as error:
        return Greeting(error=str(error))
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        return _greet(address, host, anyone, distrust)
    except (OSError, smtplib.SMTPException) as error:
        return Greeting(error=str(error))


def _greet(address: str, host: str, context: ssl.SSLContext, distrust: str = "") -> Greeting:
    # Not our own name, which would take a look-up of its own: an address literal (RFC 5321 §4.1.3).
    with smtplib.SMTP(local_hostname="[127.0.0.1]", timeout=SECONDS) as smtp:
        _, greeting = smtp.connect(address, 25)
        name = greeting.decode(errors="replace").partition(" ")[0]
        smtp.ehlo()
        if not smtp.has_extn("starttls"):
            return Greeting(name, distrust="it offers no STARTTLS")
        smtp.docmd("STARTTLS")
        # smtplib's own starttls() would check the certificate for the address. The end of `with` says QUIT through it.
        tls = context.wrap_socket(smtp.sock or socket.socket(), server_hostname=host)
        smtp.sock, smtp.file = tls, None
        return Greeting(name, tls.getpeercert(binary_form=True) or b"", distrust)
