"""What Dovecot calls in place of sendmail(1) for mail of Sieve scripts:
`sieve-mail ACCOUNT -i -f SENDER -- RECIPIENT…`.

By sendmail(1) such mail would be root's: signed, and counted as root's. But a redirected message is a stranger's, and
its From: may be one of our addresses. So it goes to a socket of Postfix's of its own (master.cf), which asks the guard
and no signing milter. Automatic answers are the account's own: they go to another socket, where they are signed. Only
root and Postfix can enter the directory of both. There, this program names the account as the login (XCLIENT), so that
the guard, the queue and a freeze know whose mail it is.

Dovecot knows no permanent failure of this program: any makes it defer the message, for days. So if Postfix refuses one
for good, its sender gets a notice, as of mail that another server refuses.
"""

import os
import re
import smtplib
import sys
from collections.abc import Iterable
from email.utils import formatdate
from itertools import chain
from secrets import token_hex
from typing import BinaryIO

from mailkeep_server.common.unix_smtp import UnixSmtp

FORWARDS, ANSWERS = "/var/spool/postfix/private/forwards", "/var/spool/postfix/private/answers"
REDIRECTED = b"x-sieve-redirected-from:"
"""Dovecot writes it in front of each redirected message, and removes any that was there. An answer has none."""
ACCOUNT = re.compile(r"[a-z0-9._-]+@[a-z0-9.-]+")
TIMEOUT = 60.0
"""Seconds for each answer. Dovecot's own is submission_timeout, 30 s."""
CHUNK = 65_536
"""Bytes."""
MAX_RETURNED = 32_768
"""Bytes of the headers in a notice."""


class RefusedError(smtplib.SMTPResponseException):
    """Postfix refuses the message for good (RFC 5321 section 4.2.1)."""


def main(arguments: list[str]) -> int:
    """EX_TEMPFAIL (sysexits.h) if it could not be handed over: Dovecot then keeps the message in Postfix's queue."""
    if os.getuid() == 0:
        os.seteuid(0)  # Dovecot is the mailbox's user while it delivers; its real user is root
    try:
        account, sender, recipients = _parse_arguments(arguments)
        headers = _read_headers(sys.stdin.buffer)
        path = FORWARDS if any(line.lower().startswith(REDIRECTED) for line in headers) else ANSWERS
        try:
            send_message(path, account, sender, recipients, chain(headers, sys.stdin.buffer))
        except RefusedError as refusal:
            print(f"{path}: refused for good, from <{sender}> to {', '.join(recipients)}: {refusal}", file=sys.stderr)
            if sender:  # RFC 5321 section 6.1: no notice about a notice
                send_message(FORWARDS, account, "", [sender], _build_notice(sender, recipients, headers, refusal))
    except (OSError, smtplib.SMTPException, ValueError) as error:
        print(f"sieve-mail: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL
    return os.EX_OK


def _read_headers(message: BinaryIO) -> list[bytes]:
    """Its lines up to the empty one, with it. The rest of very long ones stays unread."""
    lines: list[bytes] = []
    length = 0
    while length < MAX_RETURNED and (line := message.readline()):
        lines.append(line)
        length += len(line)
        if not line.strip(b"\r\n"):
            break
    return lines


def _build_notice(
    sender: str, recipients: list[str], headers: list[bytes], refusal: smtplib.SMTPResponseException
) -> list[bytes]:
    """RFC 3464. Like a notice of Postfix's, it has the headers of the message only."""
    boundary, host = token_hex(16), os.uname().nodename
    answer = refusal.smtp_error if isinstance(refusal.smtp_error, bytes) else refusal.smtp_error.encode()
    reason = f"{refusal.smtp_code} {answer.decode('ascii', 'replace')}".encode("ascii", "replace").decode()
    reason = " ".join(reason.split())
    text = f"""\
From: Mail Delivery System <MAILER-DAEMON@{host}>
To: {sender}
Date: {formatdate()}
Message-ID: <{token_hex(16)}@{host}>
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="{boundary}"

--{boundary}
Content-Type: text/plain; charset=us-ascii

Your message was to be sent on to {", ".join(recipients)}, and was refused:

{reason}

--{boundary}
Content-Type: message/delivery-status

Reporting-MTA: dns; {host}

"""
    for recipient in recipients:
        text += f"""\
Final-Recipient: rfc822; {recipient}
Action: failed
Status: 5.0.0
Diagnostic-Code: smtp; {reason}

"""
    text += f"--{boundary}\nContent-Type: text/rfc822-headers\n\n"
    lines = [line + b"\n" for line in text.encode("ascii", "replace").splitlines()]
    return [*lines, *headers, b"\n", f"--{boundary}--\n".encode()]


def _parse_arguments(arguments: list[str]) -> tuple[str, str, list[str]]:
    """Account, envelope sender and recipients. Raises ValueError."""
    account, split = arguments[0], arguments.index("--")
    if not ACCOUNT.fullmatch(account):
        raise ValueError(f"no account: {account}")
    sender = arguments[arguments.index("-f", 0, split) + 1]
    recipients = arguments[split + 1 :]
    if not recipients:
        raise ValueError("no recipient")
    return account, sender.removeprefix("<").removesuffix(">"), recipients


def send_message(path: str, account: str, sender: str, recipients: Iterable[str], message: Iterable[bytes]) -> None:
    """Raises OSError or smtplib.SMTPException if Postfix does not take it for all recipients; RefusedError for good."""
    with UnixSmtp(path, local_hostname="localhost", timeout=TIMEOUT) as client:
        client.ehlo()
        # Postfix begins the session anew (XCLIENT_README). Without a login it would be nobody's mail: never send it so.
        _expect(220, client.docmd(f"XCLIENT LOGIN={account}"), smtplib.SMTPResponseException)
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


def _expect(code: int, reply: tuple[int, bytes], refusal: type[smtplib.SMTPResponseException] = RefusedError) -> None:
    """`refusal` is what a permanent one (5xx) raises."""
    if reply[0] != code:
        raise (refusal if 500 <= reply[0] < 600 else smtplib.SMTPResponseException)(*reply)
