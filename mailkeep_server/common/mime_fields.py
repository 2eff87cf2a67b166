"""What several readers of messages need of header fields, which are bytes of a stranger's."""

import re

_FOLD = re.compile(rb"\r?\n[ \t]+")
_BOUNDARY = re.compile(rb'boundary\s*=\s*(?:"([^"\r\n]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)


def unfold_lines(block: bytes) -> list[bytes]:
    """The fields of a block of headers, each on one line (RFC 5322 section 2.2.3)."""
    return _FOLD.sub(b" ", block).splitlines()


def find_boundary(value: bytes) -> bytes:
    """Of a Content-Type field (RFC 2046 section 5.1.1); empty if it has none."""
    boundary = _BOUNDARY.search(value)
    return (boundary[1] or boundary[2]) if boundary else b""
