"""Tells the owner of an account, in its inbox, that its rules send mail on to an address that is new to them.

The message goes to Dovecot past Postfix, from a sender that only this server has. Dovecot's script for all files it
before the account's own rules: a thief's rules could make it vanish. Libraries are imported where they are used.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from mailkeep_server.common import paths
from mailkeep_server.common.wording import describe_error

TIMEOUT = 20.0  # seconds for each answer
TEXT = """\
For the first time, your mail is sent on to this address, by your rules (a Sieve
script) or by a setting of the administrator:

    {address}

If you know of it, all is well. If not, somebody else may know your password:
delete the rule, and tell the administrator of the server at once, by
postmaster@{host} or by telephone.
"""


class OwnerNotices:
    """`report_failure` gets a sentence about a notice that could not be stored. Each is sent by a thread of its own:
    Dovecot may be slow."""

    def __init__(self, host: str, report_failure: Callable[[str], None], socket: str = paths.DELIVERY_SOCKET) -> None:
        self.host, self.report_failure, self.socket = host, report_failure, socket

    def send_redirect_notice(self, account: str, address: str) -> None:
        threading.Thread(target=self._store, args=(account, address), name="notice", daemon=True).start()

    def _store(self, account: str, address: str) -> None:
        import smtplib

        try:
            self._deliver(account, address)
        except (OSError, smtplib.SMTPException) as error:
            reason = describe_error(error)
            self.report_failure(
                f"{account} does not know of the redirect to {address}: its inbox took no notice: {reason}"
            )

    def _deliver(self, account: str, address: str) -> None:
        """Raises OSError or smtplib.SMTPException."""
        import smtplib
        from email.utils import formatdate

        sender = f"{paths.NOTICE_SENDER}@{self.host}"
        headers = {
            "From": f"Mail server <postmaster@{self.host}>",
            "To": account,
            "Subject": f"Your mail is now sent on to {address}",
            "Date": formatdate(),
            "Message-ID": f"<{time.time_ns()}.notice@{self.host}>",
            "Auto-Submitted": "auto-generated",
        }
        lines = [f"{name}: {value}" for name, value in headers.items()]
        text = "\r\n".join([*lines, "", *TEXT.format(address=address, host=self.host).splitlines(), ""])
        client = smtplib.LMTP(self.socket, local_hostname=self.host, timeout=TIMEOUT)
        try:
            client.sendmail(sender, [account], text.encode("ascii", "replace"))
        finally:
            with suppress(OSError, smtplib.SMTPException):
                client.quit()
