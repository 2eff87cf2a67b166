"""What Dovecot calls in place of sendmail(1) for mail of Sieve scripts: `sieve-mail -i -f SENDER -- RECIPIENT…`.

By sendmail(1) such mail would be root's: signed, and counted as root's. But a redirected message is a stranger's, and
its From: may be one of our addresses. So it goes to a socket of Postfix's of its own (master.cf), which asks the guard
and no signing milter. Only root and Postfix can enter its directory.
"""

import os
import smtplib
import sys
from collections.abc import Iterable
from typing import BinaryIO

from mailkeep_server.common.unix_smtp import UnixSmtp

SOCKET = "/var/spool/postfix/private/forwards"
TIMEOUT = 60.0
"""Seconds for each answer. Dovecot's own is submission_timeout, 30 s."""
CHUNK = 65_536
"""Bytes."""


def main(arguments: list[str]) -> int:
    """EX_TEMPFAIL (sysexits.h) if it could not be handed over: Dovecot then keeps the message in Postfix's queue."""
    if os.getuid() == 0:
        os.seteuid(0)  # Dovecot is the mailbox's user while it delivers; its real user is root
    try:
        sender, recipients = _parse_arguments(arguments)
        send_message(SOCKET, sender, recipients, sys.stdin.buffer)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        print(f"{SOCKET}: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL
    return os.EX_OK


def _parse_arguments(arguments: list[str]) -> tuple[str, list[str]]:
    """Envelope sender and recipients. Raises ValueError."""
    split = arguments.index("--")
    sender = arguments[arguments.index("-f", 0, split) + 1]
    recipients = arguments[split + 1 :]
    if not recipients:
        raise ValueError("no recipient")
    return sender.removeprefix("<").removesuffix(">"), recipients


def send_message(path: str, sender: str, recipients: Iterable[str], message: BinaryIO) -> None:
    """Raises OSError or smtplib.SMTPException if Postfix does not take it for all recipients."""
    with UnixSmtp(path, local_hostname="localhost", timeout=TIMEOUT) as client:
        client.ehlo()
        commands = [f"MAIL FROM:<{sender}> BODY=8BITMIME", *(f"RCPT TO:<{recipient}>" for recipient in recipients)]
        for command in commands:
            _expect(250, client.docmd(command))
        _expect(354, client.docmd("DATA"))
        buffer = b""
        for line in message:
            line = line.rstrip(b"\r\n")
            buffer += b"." * line.startswith(b".") + line + b"\r\n"  # RFC 5321 section 4.5.2
            if len(buffer) >= CHUNK:
                client.send(buffer)
                buffer = b""
        client.send(buffer + b".\r\n")
        _expect(250, client.getreply())


def _expect(code: int, reply: tuple[int, bytes]) -> None:
    if reply[0] != code:
        raise smtplib.SMTPResponseException(*reply)
