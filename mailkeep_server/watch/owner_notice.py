"""Tells the owner of an account, in its inbox, what its mail is now subject to.

The message goes to Dovecot past Postfix, from a sender that only this server has. Dovecot's script for all files it
before the account's own rules: a thief's rules could make it vanish. Libraries are imported where they are used.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from mailkeep_server.common import paths
from mailkeep_server.common.wording import describe_error

TIMEOUT = 20.0  # seconds for each answer
CHUNK = 65_536  # bytes
REDIRECT_TEXT = """\
For the first time, your mail is sent on to this address, by your rules (a Sieve
script) or by a setting of the administrator:

    {detail}

If you know of it, all is well. If not, somebody else may know your password:
delete the rule, and tell the administrator of the server at once, by
postmaster@{host} or by telephone.
"""
HOLD_TEXT = """\
Mail from your account to people whom it has never written to waits on this
server, and nothing is lost:

    {detail}

Mail to people whom you have written to before goes on.

{way}by postmaster@{host} or by
telephone. What nobody releases comes back to you after a day. If you did not
send it, somebody else may know your password: tell the administrator at once.
"""
BY_ADMINISTRATOR = "If you sent it, ask the administrator to release it, "
BY_REPLY = """\
If you sent it, reply to the message that went to your other address,
{place}. Or ask the administrator to release it, """
CONFIRMED_TEXT = """\
Mail from your account to people whom it has never written to waits no more:

    {detail}

If that was not you, somebody else reads your other mailbox: tell the
administrator of this server at once, by postmaster@{host} or by telephone.
"""


class OwnerNotices:
    """`report_failure` gets a sentence about a notice that could not be stored. Each is sent by a thread of its own:
    Dovecot may be slow."""

    def __init__(self, host: str, report_failure: Callable[[str], None], socket: str = paths.DELIVERY_SOCKET) -> None:
        self.host, self.report_failure, self.socket = host, report_failure, socket

    def send_redirect_notice(self, account: str, address: str) -> None:
        subject, topic = f"Your mail is now sent on to {address}", f"the redirect to {address}"
        self._start(account, topic, subject, REDIRECT_TEXT.format(detail=address, host=self.host))

    def send_hold_notice(self, account: str, reason: str, place: str = "") -> None:
        """`place` is the shortened address where the owner can confirm it, if there is one."""
        way = BY_REPLY.format(place=place) if place else BY_ADMINISTRATOR
        text = HOLD_TEXT.format(detail=reason, host=self.host, way=way)
        self._start(account, "its mail on hold", "Mail to people who are new to you waits", text)

    def send_confirmed_notice(self, account: str, detail: str) -> None:
        text = CONFIRMED_TEXT.format(detail=detail, host=self.host)
        self._start(account, "the end of the hold", "Mail to people who are new to you waits no more", text)

    def _start(self, account: str, topic: str, subject: str, text: str) -> None:
        threading.Thread(target=self._store, args=(account, topic, subject, text), name="notice", daemon=True).start()

    def _store(self, account: str, topic: str, subject: str, text: str) -> None:
        import smtplib

        try:
            headers = build_headers(self.host, account, subject)
            lines = [*headers, "", *text.splitlines()]
            deliver_lines(self.host, account, (line.encode("ascii", "replace") for line in lines), self.socket)
        except (OSError, smtplib.SMTPException) as error:
            self.report_failure(
                f"{account} does not know of {topic}: its inbox took no notice: {describe_error(error)}"
            )


def build_headers(host: str, account: str, subject: str) -> list[str]:
    from email.utils import formatdate

    return [
        f"From: Mail server <postmaster@{host}>",
        f"To: {account}",
        f"Subject: {subject}",
        f"Date: {formatdate()}",
        f"Message-ID: <{time.time_ns()}.notice@{host}>",
        "Auto-Submitted: auto-generated",
    ]


def deliver_lines(
    host: str, account: str, lines: Iterable[bytes], socket: str = paths.DELIVERY_SOCKET, timeout: float = TIMEOUT
) -> None:
    """Stores a message, of lines without their ends, in the inbox. Raises OSError or smtplib.SMTPException."""
    import smtplib

    client = smtplib.LMTP(socket, local_hostname=host, timeout=timeout)
    try:
        client.ehlo_or_helo_if_needed()
        commands = (f"mail FROM:<{paths.NOTICE_SENDER}@{host}> BODY=8BITMIME", f"rcpt TO:<{account}>", "DATA")
        for command, code in zip(commands, (250, 250, 354), strict=True):
            _expect(code, client.docmd(command))
        for chunk in _join_lines(lines):
            client.send(chunk)
        client.send(b".\r\n")
        _expect(250, client.getreply())
    finally:
        with suppress(OSError, smtplib.SMTPException):
            client.quit()


def _expect(code: int, reply: tuple[int, bytes]) -> None:
    import smtplib

    if reply[0] != code:
        raise smtplib.SMTPResponseException(*reply)


def _join_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """With a dot before each dot at the beginning of a line (RFC 5321 section 4.5.2)."""
    buffer = b""
    for line in lines:
        buffer += b"." * line.startswith(b".") + line + b"\r\n"
        if len(buffer) >= CHUNK:
            yield buffer
            buffer = b""
    yield buffer
