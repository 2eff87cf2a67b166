"""Complaints about mail from here: reports in the Abuse Reporting Format (ARF, RFC 5965), and who proves to send them.

A report has three parts: words for people, fields, and the message or its headers. Whom the message was to is often
removed. Its Message-ID stays, and is all that counts.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mailkeep_server.common.message_ids import digest_message_ids
from mailkeep_server.reports.message_parts import (
    Headers,
    decode_body,
    list_inner_parts,
    list_values,
    read_headers,
    read_sender_domain,
)
from mailkeep_server.reports.report_text import clean_domain

COUNTED_TYPES = frozenset({"abuse", "fraud"})
"""Of feedback (RFC 5965 section 7.3). The others accuse nobody: `not-spam`, `opt-out`, `virus`, `other`, and
`auth-failure` (RFC 6591), which is about records."""
MAX_VERDICT = 8192
"""Characters. Ours has some hundred for each signature."""
_FIELDS = b"message/feedback-report"
_ORIGINALS = (b"message/rfc822", b"text/rfc822-headers", b"message/rfc822-headers")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_BY_PROGRAM = re.compile(r"\(Postfix, from userid \d+\)")
"""In the first `Received:` of what a program on this server sends. It may write any header."""
_AUTHOR = re.compile(r"header\.from=([^\s;]+)")


@dataclass(frozen=True, slots=True)
class Complaint:
    kind: str
    """The feedback's type; "" if the report has none, or several."""
    messages: tuple[str, ...]
    """Digests of the Message-IDs of the message that it is about."""

    @property
    def counts(self) -> bool:
        return self.kind in COUNTED_TYPES


def read_complaint(message: bytes) -> Complaint | None:
    """None of other mail. Raises nothing, whatever the bytes."""
    headers, body = read_headers(message)
    contents = {_FIELDS: b"", **dict.fromkeys(_ORIGINALS, b"")}
    for part in list_inner_parts(headers, body) or ():
        part_headers, content = read_headers(part)
        kind = _read_type(part_headers)
        if kind in contents and not contents[kind]:
            contents[kind] = decode_body(part_headers, content).lstrip(b"\r\n")
    if not contents[_FIELDS]:
        return None
    types = {text.strip().lower() for text in list_values(contents[_FIELDS], b"feedback-type")}
    original = next((contents[kind] for kind in _ORIGINALS if contents[kind]), b"")
    digests = digest_message_ids(list_values(original, b"message-id"))
    return Complaint(types.pop() if len(types) == 1 else "", tuple(digests))


def _read_type(headers: Headers) -> bytes:
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def find_proven_sender(message: bytes, host: str) -> str:
    """The domain of `From:`, if this host's verdict is that DMARC passed for it; else "".

    On port 25, every `Authentication-Results` in this host's name is removed before ours is written (RFC 8601 section
    5). So a second one is a reason to believe neither.
    """
    verdicts = [value for value in list_values(message, b"authentication-results") if _is_of(value, host)]
    authors = list_values(message, b"from")
    is_local = any(map(_BY_PROGRAM.search, list_values(message, b"received")[:1]))
    if len(verdicts) != 1 or len(authors) != 1 or is_local:
        return ""
    passed = {clean_domain(domain) for domain in _list_passed(verdicts[0])}
    author = read_sender_domain(read_headers(message)[0])
    return author if author and passed == {author} else ""


def _is_of(value: str, host: str) -> bool:
    return bool(host) and value.partition(";")[0].split()[:1] == [host]


def _list_passed(verdict: str) -> Iterator[str]:
    """Quoted values are the sender's: they may hold a semicolon."""
    for result in _QUOTED.sub("", verdict[:MAX_VERDICT]).split(";"):
        if result.split()[:1] == ["dmarc=pass"]:
            yield from _AUTHOR.findall(result)
