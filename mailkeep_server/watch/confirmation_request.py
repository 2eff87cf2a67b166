"""Asks the owner of an account, at an address elsewhere (`confirm_at`), whether mail on hold is the owner's.

A reply ends the hold: its address has a one-time code. The code goes into this message alone. The guard gets a digest
of it before that. The message has no envelope sender: no bounce brings the code back to this server. Libraries are
imported where they are used.
"""

import json
import threading
from collections.abc import Callable
from urllib.parse import urlencode

from mailkeep_server.common import unix_http
from mailkeep_server.common.release_codes import build_address, digest_code, make_code, shorten_address
from mailkeep_server.common.wording import count_noun, describe_error
from mailkeep_server.guard.hold_targets import CONFIRMATION_TARGET
from mailkeep_server.watch.channels import NotSentError, submit_message
from mailkeep_server.watch.config import WatchConfig

ANSWER_TIMEOUT = 2.0  # seconds
NO_SENDER = ""
TEXT = """\
Mail from {account} to people whom it has never written to waits on the mail
server {host}, {held} so far:

    {reason}

Did you send it? Then reply to this message, from this mailbox, within a day:
that sends the mail, and ends the hold. The text of the reply does not matter.

If it was not you, do not reply: somebody else may know your password. Tell the
administrator at once: postmaster@{host}, or by telephone.
"""


class ConfirmationRequests:
    """`report_failure` gets a sentence about a request that could not be sent. Each is sent by a thread of its own:
    Postfix may be slow."""

    def __init__(self, config: WatchConfig, report_failure: Callable[[str], None]) -> None:
        self.config, self.report_failure = config, report_failure

    def find_place(self, account: str) -> str:
        """The account's address elsewhere, shortened: a thief may read it. "" if it has none."""
        address = self.config.confirm_at.get(account)
        return shorten_address(address) if address else ""

    def send_request(self, account: str, reason: str) -> None:
        if address := self.config.confirm_at.get(account):
            arguments = (account, address, reason)
            threading.Thread(target=self._send, args=arguments, name="confirmation", daemon=True).start()

    def _send(self, account: str, address: str, reason: str) -> None:
        code = make_code()
        query = {"account": account, "digest": digest_code(code), "shown": shorten_address(address)}
        try:
            target = f"{CONFIRMATION_TARGET}?{urlencode(query)}"
            held = json.loads(unix_http.get_body(self.config.control_socket, target, ANSWER_TIMEOUT))["held"]
            if held is not None:  # else the hold has ended
                message = build_request(self.config.host, account, address, reason, held, code)
                submit_message(self.config.smtp_socket, self.config.host, NO_SENDER, [address], message)
        except (OSError, ValueError, NotSentError) as error:
            self.report_failure(f"{account} cannot confirm its mail on hold by itself: {describe_error(error)}")


def build_request(host: str, account: str, address: str, reason: str, held: int, code: str) -> bytes:
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import formatdate, make_msgid

    message = EmailMessage(policy=SMTP)
    message["From"] = f"Mail server <postmaster@{host}>"
    message["Reply-To"] = build_address(host, code)
    message["To"] = address
    message["Subject"] = f"Did you send this? Mail of {account} waits"
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid("confirmation", host)
    # No program answers it by itself: RFC 3834 section 2, and Exchange.
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    text = TEXT.format(account=account, host=host, held=count_noun(held, "message"), reason=reason)
    message.set_content(text.encode("ascii", "replace").decode())
    return message.as_bytes()
