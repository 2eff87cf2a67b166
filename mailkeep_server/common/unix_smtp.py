"""SMTP over a Unix-domain socket. Import it only where mail is sent: smtplib takes several MB of memory."""

import smtplib
import socket


class UnixSmtp(smtplib.SMTP):
    """An SMTP client whose host is the path of a socket: `UnixSmtp("/run/…", local_hostname=…, timeout=…)`."""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:  # noqa: ARG002 - smtplib's name
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(host)
        return connection
