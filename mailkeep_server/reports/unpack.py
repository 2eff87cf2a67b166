"""Takes a report out of gzip or zip, in bounded memory: what unpacks to more than MAX_UNPACKED is refused.

A zip file is read from its beginning, member by member, by the headers before each. So its directory at the end, which
may lie about sizes and name a million members, is never read; nor is any name used.
"""

import struct
import zlib

from mailkeep_server.reports.report_text import ReportError

MAX_UNPACKED = 10 * 2**20
"""Bytes."""
MAX_MEMBERS = 3
"""Of a zip file. Reporters have one."""
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4sHHHHHLLLHH")  # APPNOTE.TXT section 4.3.7
_ENCRYPTED = 1
_STORED, _DEFLATED = 0, 8


def unpack_report(data: bytes) -> bytes:
    """The XML or JSON text. An archive within an archive is refused. Raises ReportError."""
    if data.startswith(GZIP):
        text = _inflate(data, zlib.MAX_WBITS | 16)[0]
    elif data.startswith(ZIP):
        text = _unpack_zip(data)
    else:
        return data
    if text.startswith((GZIP, ZIP)):
        raise ReportError("it is an archive within an archive")
    return text


def _unpack_zip(data: bytes) -> bytes:
    """The first member that is no directory and not empty."""
    position = 0
    for _ in range(MAX_MEMBERS):
        position = data.find(ZIP, position)
        if position < 0:
            break
        text, position = _read_member(data, position)
        if text.strip():
            return text
    raise ReportError("the zip file has no report in its first members")


def _read_member(data: bytes, position: int) -> tuple[bytes, int]:
    """The member whose header is here, and where it ends."""
    try:
        header = _LOCAL_HEADER.unpack_from(data, position)
    except struct.error:
        raise ReportError("the zip file is cut off") from None
    flags, method, size, name_length, extra_length = header[2], header[3], header[7], header[9], header[10]
    begin = position + _LOCAL_HEADER.size + name_length + extra_length
    if flags & _ENCRYPTED:
        raise ReportError("the zip file is encrypted")
    if method == _STORED:
        return data[begin : begin + min(size, MAX_UNPACKED)], begin + size
    if method == _DEFLATED:
        text, rest = _inflate(data[begin:], -zlib.MAX_WBITS)
        return text, len(data) - rest
    raise ReportError("the zip file is packed by another method than deflate")


def _inflate(data: bytes, window: int) -> tuple[bytes, int]:
    """The text, and how many bytes follow the packed ones."""
    unpacker = zlib.decompressobj(window)
    try:
        text = unpacker.decompress(data, MAX_UNPACKED + 1)
    except zlib.error:
        raise ReportError("its packed content is damaged") from None
    if len(text) > MAX_UNPACKED:
        raise ReportError(f"it unpacks to more than {MAX_UNPACKED // 2**20} MB")
    if not unpacker.eof:
        raise ReportError("its packed content is cut off")
    return text, len(unpacker.unused_data)
