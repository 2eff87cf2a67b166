"""Attachments are known by their names, however these are written and wherever they stand."""

from email.message import EmailMessage

import pytest

from mailkeep_server.inbound.attachments import MAX_BLOCK, MAX_BOUNDARIES, AttachmentScan

MIXED = [(b"Content-Type", b' multipart/mixed; boundary="b1"')]


def list_extensions(headers: list[tuple[bytes, bytes]], body: bytes, size: int = 1 << 20) -> set[str]:
    scan = AttachmentScan(headers)
    for start in range(0, len(body), size):
        scan.update(body[start : start + size])
    return scan.extensions


def attach(*fields: str) -> bytes:
    part = "\r\n".join(fields)
    return f"text\r\n--b1\r\nContent-Type: text/plain\r\n\r\nHello\r\n--b1\r\n{part}\r\n\r\nxxxx\r\n--b1--\r\n".encode()


@pytest.mark.parametrize(
    "fields",
    [
        ['Content-Disposition: attachment; filename="invoice.exe"'],
        ["content-disposition:attachment;filename=invoice.EXE"],
        ["Content-Type: application/octet-stream;", '\tname="invoice.exe"'],
        ['Content-Disposition: attachment; filename="invoice.pdf.exe . "'],
        ["Content-Disposition: attachment; filename*=utf-8''rechn%C3%BCng%2Eexe"],
        ['Content-Disposition: attachment; filename*0="invoice.e"; filename*1="xe"'],
        ["Content-Disposition: attachment; filename*0*=utf-8''invoice%2E; filename*1*=%65xe"],
        ['Content-Disposition: attachment; filename="=?utf-8?B?cmVjaG51bmcuZXhl?="'],
        ['Content-Disposition: attachment; filename="a\\".exe"'],
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_name_is_read_however_it_is_written(fields: list[str], size: int) -> None:
    assert "exe" in list_extensions(MIXED, attach(*fields), size)


def test_a_message_may_be_nothing_but_an_attachment() -> None:
    assert list_extensions([(b"Content-Disposition", b" attachment; filename=a.scr")], b"xxxx") == {"scr"}


def test_attachments_of_attached_messages_count() -> None:
    inner, outer, attached = EmailMessage(), EmailMessage(), EmailMessage()
    inner.set_content("text")
    inner.add_attachment(b"x", "application", "octet-stream", filename="inner.js")
    outer.set_content("text")
    outer.add_attachment(inner)
    attached["Content-Disposition"] = "attachment; filename=single.vbs"
    attached["Content-Type"] = "application/octet-stream"
    outer.add_attachment(attached)
    head, _, body = outer.as_bytes().partition(b"\n\n")
    fields = [tuple(line.split(b":", 1)) for line in head.replace(b"\n ", b" ").splitlines()]
    assert list_extensions([(name, value) for name, value in fields], body) >= {"js", "vbs"}


def test_text_that_only_looks_like_a_header_is_none() -> None:
    text = b'Hello\r\n--b2\r\nContent-Disposition: attachment; filename="a.exe"\r\n\r\n'
    assert list_extensions([(b"Content-Type", b" text/plain")], text) == set()
    assert list_extensions(MIXED, b"--b1\r\nContent-Type: text/plain\r\n\r\n" + text) == set()


@pytest.mark.slow
def test_what_is_kept_is_bounded() -> None:
    scan = AttachmentScan(MIXED)
    for number in range(2 * MAX_BOUNDARIES):
        scan.update(f"\r\n--b1\r\nContent-Type: multipart/mixed; boundary=x{number}\r\n\r\n".encode())
    scan.update(b"\r\n--b1\r\n" + b"X: " + b"x" * 3 * MAX_BLOCK)
    scan.update(b"y" * MAX_BLOCK)
    kept = vars(scan)
    assert len(kept["_boundaries"]) == MAX_BOUNDARIES
    assert len(kept["_held"]) <= MAX_BLOCK
