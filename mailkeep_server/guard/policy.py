"""Postfix's policy delegation protocol (SMTPD_POLICY_README): lines `name=value`, an empty line, and an answer.

Postfix keeps a connection open for many requests. Whatever else connects gets nowhere: a request is short and comes
at once, or the connection ends.
"""

from mailkeep_server.guard.judge import Request

LARGEST_REQUEST = 16_384
"""Bytes. Postfix's own lines are bounded by line_length_limit (2048); a request has some 30, most of them short."""
MOST_RECIPIENTS = 1_000_000


class MalformedError(Exception):
    """No request of Postfix's."""


def split(buffer: bytes) -> tuple[list[bytes], bytes]:
    """The whole requests in what has come so far, and the rest. Raises MalformedError when that is too long."""
    *requests, rest = buffer.split(b"\n\n")
    if len(buffer) > LARGEST_REQUEST and max(map(len, (*requests, rest))) > LARGEST_REQUEST:
        raise MalformedError(f"more than {LARGEST_REQUEST} bytes")
    return requests, rest


def parse(request: bytes) -> tuple[str, Request]:
    """The protocol state (RCPT, END-OF-MESSAGE …) and what is asked about. Raises MalformedError."""
    try:
        text = f"\n{request.decode()}\n"
        if _value(text, "\nrequest=") != "smtpd_access_policy":
            raise MalformedError("another kind of request")
        if not 0 <= (recipients := int(_value(text, "\nrecipient_count="))) <= MOST_RECIPIENTS:
            raise MalformedError(f"{recipients} recipients")
        return _value(text, "\nprotocol_state="), Request(
            _value(text, "\nsasl_username=").lower(),
            _value(text, "\nclient_address="),
            _value(text, "\ninstance="),
            _value(text, "\nrecipient="),
            recipients,
            _value(text, "\nqueue_id="),
        )
    except UnicodeDecodeError:  # which has all of the request, for the journal
        raise MalformedError("bytes that are no text") from None
    except ValueError as error:
        raise MalformedError(repr(error)) from None


def _value(text: str, name: str) -> str:
    """What is on the line that begins so. Of some 30 lines 8 matter: to look for these is faster than to parse all."""
    start = text.index(name) + len(name)
    return text[start : text.index("\n", start)]


def answer(action: str) -> bytes:
    return f"action={action}\n\n".encode()
