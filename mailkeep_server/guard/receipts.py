"""Read receipts: disposition notifications (RFC 8098), which have no envelope sender, so that nobody answers them.

Bounces of accounts do not exist: only servers return mail. So an account sends nothing else without a sender.
"""

import re
from collections.abc import Callable

MAX_BYTES = 65_536
"""Of the body. A receipt quotes headers at most, not a message with its attachments."""

_PART_TYPES = frozenset({"text/plain", "text/html", "multipart/alternative", "text/rfc822-headers", "message/rfc822"})
_NOTIFICATION = "message/disposition-notification"
_TYPE = re.compile(r"^content-type:\s*([^\s;]+)", re.IGNORECASE | re.MULTILINE)
_FINAL_RECIPIENT = re.compile(r"^final-recipient:[ \t]*rfc822[ \t]*;[ \t]*<?([^\s<>]+)>?[ \t]*$", re.I | re.M)
_DISPOSITION = re.compile(r"^disposition:[ \t]*(?:manual|automatic)-action/", re.IGNORECASE | re.MULTILINE)


def find_fault(content_type: str, body: bytes, recipients: int, owns_address: Callable[[str], bool]) -> str:
    """Why this message without a sender is no read receipt of the login's; "" if it is one."""
    if recipients != 1:
        return f"A read receipt has one recipient, not {recipients}"
    if len(body) > MAX_BYTES:
        return f"A read receipt has at most {MAX_BYTES} bytes"
    if not (boundary := _find_boundary(content_type)):
        return "Without a sender, only read receipts are sent"
    parts = _split_parts(body, boundary)
    notifications = [content for kind, content in parts if kind == _NOTIFICATION]
    if (
        len(notifications) != 1
        or not len(parts) <= 3
        or not {kind for kind, _ in parts} <= _PART_TYPES | {_NOTIFICATION}
    ):
        return "A read receipt has a text, a notification, and perhaps the headers of the message that was read"
    readers = _FINAL_RECIPIENT.findall(notifications[0])
    if len(readers) != 1 or not _DISPOSITION.search(notifications[0]):
        return "The notification in a read receipt has one Final-Recipient: and a Disposition:"
    return "" if owns_address(readers[0]) else f"The read receipt is for {readers[0]}, another account's mail"


def _find_boundary(content_type: str) -> str:
    """The boundary between the parts of a receipt; "" if this is the Content-Type of something else.

    A parameter with a charset of its own (RFC 2231) is a tuple, and stays so: a boundary is ASCII (RFC 2046 section
    5.1.1). Python decodes it with any of its codecs, of which some raise errors, and remembers all names of charsets.
    """
    from email.message import Message  # receipts are rare, and it takes 1 MB

    header = Message()
    header["Content-Type"] = content_type
    boundary, kind = header.get_param("boundary"), header.get_param("report-type")
    if header.get_content_type() != "multipart/report" or str(kind).lower() != "disposition-notification":
        return ""
    return boundary.rstrip() if isinstance(boundary, str) else ""


def _split_parts(body: bytes, boundary: str) -> list[tuple[str, str]]:
    """Type and content of each part (RFC 2046 section 5.1)."""
    text = "\n" + body.decode(errors="replace").replace("\r\n", "\n")
    pieces = text.split(f"\n--{boundary}")[1:]
    parts = []
    for piece in pieces[: next((n for n, piece in enumerate(pieces) if piece.startswith("--")), len(pieces))]:
        head, _, content = piece.partition("\n\n")
        match = _TYPE.search(head)
        parts.append((match[1].lower() if match else "text/plain", content))
    return parts
