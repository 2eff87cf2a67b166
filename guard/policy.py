"""Postfix's policy delegation protocol (SMTPD_POLICY_README): lines `name=value`, an empty line, and an answer.

Postfix keeps a connection open for many requests. Whatever else connects gets nowhere: a request is short and comes
at once, or the connection ends.
"""

import re

from guard.judge import Request

LARGEST_REQUEST = 16_384
"""Bytes. Postfix's own lines are bounded by line_length_limit (2048); a request has some 30, most of them short."""

_WANTED = re.compile(
    r"^(request|protocol_state|sasl_username|client_address|instance|recipient|recipient_count|queue_id)=(.*)$", re.M
)


class MalformedError(Exception):
    """No request of Postfix's."""


def split(buffer: bytes) -> tuple[list[bytes], bytes]:
    """The whole requests in what has come so far, and the rest. Raises MalformedError when that is too long."""
    *requests, rest = buffer.split(b"\n\n")
    if len(rest) > LARGEST_REQUEST or any(len(request) > LARGEST_REQUEST for request in requests):
        raise MalformedError(f"more than {LARGEST_REQUEST} bytes")
    return requests, rest


def parse(request: bytes) -> tuple[str, Request]:
    """The protocol state (RCPT, END-OF-MESSAGE …) and what is asked about. Raises MalformedError."""
    try:
        text = dict(_WANTED.findall(request.decode()))
        if text["request"] != "smtpd_access_policy":
            raise MalformedError("another kind of request")
        return text["protocol_state"], Request(
            account=text["sasl_username"].lower(),
            client=text["client_address"],
            instance=text["instance"],
            recipient=text.get("recipient", ""),
            recipients=int(text.get("recipient_count") or 0),
            queue_id=text.get("queue_id", ""),
        )
    except (KeyError, ValueError) as error:
        raise MalformedError(repr(error)) from None


def answer(action: str) -> bytes:
    return f"action={action}\n\n".encode()
