"""Postfix's policy delegation protocol (SMTPD_POLICY_README): lines `name=value`, an empty line, and an answer.

Postfix keeps a connection open for many requests. Anything else that connects is cut off soon: a request is short and
arrives at once, or the connection ends.
"""

from typing import NamedTuple

from mailkeep_server.common.sender_kinds import STRANGERS

DUNNO = "DUNNO"
"""Postfix's word for: no objection from here (access(5))."""
MAX_REQUEST_BYTES = 16_384
"""Postfix bounds its lines by line_length_limit (2048); a request has some 30, most of them short."""
MAX_RECIPIENTS = 1_000_000


class MalformedError(Exception):
    """Not a request of Postfix's."""


class PolicyRequest(NamedTuple):
    """The attributes of a recipient or a message that the guard uses (SMTPD_POLICY_README)."""

    account: str
    """The SASL login, lower case; empty without one."""
    client: str
    """The client's IP address."""
    instance: str
    """The same for all requests of one message."""
    recipient: str = ""
    recipients: int = 0
    """How many the message has, at its end."""
    queue_id: str = ""
    sender: str = ""
    is_strangers: bool = False
    """Whether Postfix asks about a message on port 25, where nobody logs in."""
    greeting: str = ""
    """The client's name in EHLO."""
    size: int = 0
    """Of the message in bytes, at its end."""


def split_requests(buffer: bytes) -> tuple[list[bytes], bytes]:
    """The complete requests in what has arrived so far, and the rest. Raises MalformedError for one too long."""
    *requests, rest = buffer.split(b"\n\n")
    if len(buffer) > MAX_REQUEST_BYTES and max(map(len, (*requests, rest))) > MAX_REQUEST_BYTES:
        raise MalformedError(f"more than {MAX_REQUEST_BYTES} bytes")
    return requests, rest


def parse_request(request: bytes) -> tuple[str, PolicyRequest]:
    """The protocol state (RCPT, END-OF-MESSAGE, …) and the request. Raises MalformedError."""
    try:
        text = f"\n{request.decode()}\n"
        if _value_of(text, "\nrequest=") != "smtpd_access_policy":
            raise MalformedError("another kind of request")
        if not 0 <= (recipients := int(_value_of(text, "\nrecipient_count="))) <= MAX_RECIPIENTS:
            raise MalformedError(f"{recipients} recipients")
        return _value_of(text, "\nprotocol_state="), PolicyRequest(
            _value_of(text, "\nsasl_username=").lower(),
            _value_of(text, "\nclient_address="),
            _value_of(text, "\ninstance="),
            _value_of(text, "\nrecipient="),
            recipients,
            _value_of(text, "\nqueue_id="),
            _value_of(text, "\nsender="),
            f"\npolicy_context={STRANGERS}\n" in text,
            _hint_of(text, "\nhelo_name="),
            int(_hint_of(text, "\nsize=") or 0),
        )
    except UnicodeDecodeError:  # its message would put the whole request into the journal
        raise MalformedError("bytes that are not UTF-8") from None
    except ValueError as error:
        raise MalformedError(repr(error)) from None


def _value_of(text: str, name: str) -> str:
    """The rest of the line that begins with `name`. Raises ValueError.

    Of some 30 lines 11 matter: looking for these is faster than parsing all.
    """
    start = text.index(name) + len(name)
    return text[start : text.index("\n", start)]


def _hint_of(text: str, name: str) -> str:
    """As `_value_of`; "" where the request does not have it. No mail waits for what only habits are learned from."""
    return _value_of(text, name) if name in text else ""


def format_answer(action: str) -> bytes:
    return f"action={action}\n\n".encode()
