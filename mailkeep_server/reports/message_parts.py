"""The parts of a message that may hold a report, read in bounded time and memory.

Python's own parser goes as deep as a message nests, and keeps every line of it. A report needs neither: it is the body
or an attachment. Its content type and file name are often wrong. So every leaf is a candidate, whatever its type.
"""

import binascii
import quopri
import re
import string
from collections.abc import Iterator, Mapping

from mailkeep_server.common.mime_fields import find_boundary, unfold_lines

MAX_MESSAGE = 5 * 2**20
"""Bytes. RFC 9990 section 3.5.1 lets a receiver of reports set a bound; the largest public samples have a tenth."""
MAX_HEADER = 65_536  # bytes
MAX_DEPTH = 4
MAX_PARTS = 20
_EMPTY_LINE = re.compile(rb"\r?\n\r?\n")
_NOT_BASE64 = bytes(set(range(256)) - set(f"{string.ascii_letters}{string.digits}+/".encode()))
_ADDRESS_DOMAIN = re.compile(rb"@([A-Za-z0-9._-]{1,253})")

Headers = Mapping[bytes, bytes]
"""By lower-case name, the first field of that name, unfolded."""


def read_headers(message: bytes) -> tuple[Headers, bytes]:
    """The headers, and the body."""
    if message[:2] == b"\r\n" or message[:1] == b"\n":
        return {}, message.lstrip(b"\r\n")
    block, body = _split_header(message)
    headers: dict[bytes, bytes] = {}
    for name, value in _list_fields(block):
        headers.setdefault(name.strip(), value)
    return headers, body


def list_values(message: bytes, name: bytes) -> list[str]:
    """Those of all header fields of this name, which is in lower case.

    A blank before the colon makes another name: what removes fields that strangers must not write may overlook it.
    """
    values = (value for field, value in _list_fields(_split_header(message)[0]) if field == name)
    return [value.decode("utf-8", "surrogateescape") for value in values]


def _split_header(message: bytes) -> tuple[bytes, bytes]:
    end = _EMPTY_LINE.search(message, 0, MAX_HEADER)
    return (message[: end.start()], message[end.end() :]) if end else (message[:MAX_HEADER], b"")


def _list_fields(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in unfold_lines(block):
        name, colon, value = line.partition(b":")
        if colon:
            yield name.lower(), value.strip()


def read_sender_domain(headers: Headers) -> str:
    """The domain of `From:`, lower case; "" if it has none. Nothing proves it."""
    domains = _ADDRESS_DOMAIN.findall(headers.get(b"from", b"")[:4096])
    return domains[-1].decode().lower().strip(".") if domains else ""


def list_leaves(message: bytes) -> Iterator[bytes]:
    """The decoded content of each part that has no parts itself, of the first MAX_PARTS."""
    remaining = MAX_PARTS
    waiting = [(message, 0)]
    while waiting and remaining:
        remaining -= 1
        entity, depth = waiting.pop()
        headers, body = read_headers(entity)
        inner = list_inner_parts(headers, body)
        if inner is None:
            yield decode_body(headers, body)
        elif depth < MAX_DEPTH:
            waiting.extend((part, depth + 1) for part in reversed(inner))


def list_inner_parts(headers: Headers, body: bytes) -> list[bytes] | None:
    """None of a leaf."""
    kind = headers.get(b"content-type", b"")
    if kind[:10].lower() == b"multipart/" and (boundary := find_boundary(kind)):
        delimiter = b"\n--" + boundary
        sections = (b"\n" + body).split(delimiter, MAX_PARTS + 1)[1 : MAX_PARTS + 1]
        return [section.partition(b"\n")[2] for section in sections if not section.startswith(b"--")]
    if kind[:14].lower() == b"message/rfc822":
        return [body]
    return None


def decode_body(headers: Headers, body: bytes) -> bytes:
    """As far as it can be decoded: a cut base64 text gives the bytes before the cut."""
    encoding = headers.get(b"content-transfer-encoding", b"").split(b";")[0].strip().lower()
    if encoding == b"base64":
        return _decode_base64(body)
    return quopri.decodestring(body) if encoding == b"quoted-printable" else body


def _decode_base64(text: bytes) -> bytes:
    letters = text.translate(None, _NOT_BASE64)
    return binascii.a2b_base64(letters[: len(letters) // 4 * 4] + _pad_rest(letters))


def _pad_rest(letters: bytes) -> bytes:
    rest = letters[len(letters) // 4 * 4 :]
    return rest + b"=" * (4 - len(rest)) if len(rest) > 1 else b""
