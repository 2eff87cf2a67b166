"""Tries the relay host as Postfix uses it: name, connection, encryption, certificate and login. No mail is sent.

Import it only where a relay host is tried: smtplib and ssl take several MB of memory.
"""

import base64
import smtplib
import socket
import ssl
from pathlib import Path

RELAY_TIMEOUT = 15.0  # seconds for each step
IMPLICIT_TLS = 465
MORE_EXPECTED = 334  # RFC 4954 section 4


def find_relay_fault(host: str, port: int, password_file: str, own_name: str, timeout: float = RELAY_TIMEOUT) -> str:
    """Why the relay host takes no mail of this server, to follow its name; empty if it does.

    The password is not in the text. Without `password_file` there is no login, as in Postfix.
    """
    try:
        with _connect(host, port, own_name, timeout) as connection:
            if credentials := read_credentials(Path(password_file)):
                _log_in(connection, *credentials)
    except smtplib.SMTPException as error:
        return _describe_refusal(error, timeout)
    except TimeoutError:
        return f"does not answer on port {port} within {timeout:.0f} seconds"
    except OSError as error:
        return _describe_failure(error, port)
    return ""


def _describe_refusal(error: smtplib.SMTPException, timeout: float) -> str:
    """The relay host's own words, where it has some."""
    match error:
        case smtplib.SMTPAuthenticationError():
            return f"refuses the login: {error.smtp_code} {_decode(error.smtp_error)}"
        case smtplib.SMTPResponseException():
            return f"answers with {error.smtp_code} {_decode(error.smtp_error)}"
        case smtplib.SMTPNotSupportedError():
            return "offers no STARTTLS" if "STARTTLS" in str(error) else "offers no login"
    return f"closes the connection, or does not answer within {timeout:.0f} seconds"


def _describe_failure(error: OSError, port: int) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"shows a certificate that does not prove its name: {error.verify_message}"
        case ssl.SSLError():
            return f"cannot be talked to with TLS: {error.reason}"
        case socket.gaierror():
            return "has no address in the DNS"
    return f"cannot be reached on port {port}: {error.strerror or error}"


def _connect(host: str, port: int, own_name: str, timeout: float) -> smtplib.SMTP:
    context = ssl.create_default_context()  # Debian's certificate authorities, as smtp_tls_CAfile
    # Python 3.13 refuses a private authority without RFC 5280's extensions; Postfix takes it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if port == IMPLICIT_TLS:
        return smtplib.SMTP_SSL(host, port, own_name, timeout=timeout, context=context)
    connection = smtplib.SMTP(host, port, own_name, timeout=timeout)
    try:
        connection.starttls(context=context)
    except BaseException:
        connection.close()
        raise
    return connection


def _log_in(connection: smtplib.SMTP, user: str, password: str) -> None:
    """smtplib can send passwords of ASCII alone. Postfix sends the bytes of its table, which are UTF-8 (RFC 4616)."""
    if (user + password).isascii():
        connection.login(user, password)
        return
    connection.ehlo_or_helo_if_needed()
    methods = connection.esmtp_features.get("auth", "").upper().split()
    if "PLAIN" in methods:
        code, answer = connection.docmd("AUTH", f"PLAIN {_encode(chr(0) + user + chr(0) + password)}")
    elif "LOGIN" in methods:
        code, answer = connection.docmd("AUTH", f"LOGIN {_encode(user)}")
        if code == MORE_EXPECTED:
            code, answer = connection.docmd(_encode(password))
    else:
        raise smtplib.SMTPNotSupportedError("AUTH")
    if code // 100 != 2:
        raise smtplib.SMTPAuthenticationError(code, answer)


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def read_credentials(file: Path) -> tuple[str, str] | None:
    """User and password of Postfix's table `[HOST]:PORT USER:PASSWORD`; None without a table."""
    try:
        user, _, password = file.read_text().rstrip("\n").partition(" ")[2].partition(":")
    except FileNotFoundError:
        return None
    return user, password


def _decode(text: bytes | str) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text
