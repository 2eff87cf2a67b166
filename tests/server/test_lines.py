"""Long lines are broken before a message is signed, and nothing else in it changes."""

import random
import socket
import struct
import threading

import pytest

from mailkeep_server.guard.milter import ProtocolError
from mailkeep_server.lines.line_breaks import break_body, fold_header, has_long_line
from mailkeep_server.lines.milter import LineSession, serve_connection

POSTFIX_LIMIT = 998
ALL = 0xFFFFFFFF


def longest_line(data: bytes) -> int:
    return max(len(line.rstrip(b"\r")) for line in data.split(b"\n"))


def run_session(headers: list[tuple[bytes, bytes]], *pieces: bytes) -> tuple[list[bytes], bytes | None]:
    """The changed headers, as packets, and the new body, if it is another."""
    session = LineSession()
    assert next(session.answer_packet(b"O" + struct.pack("!III", 6, ALL, ALL)))[:1] == b"O"
    packets = [b"DLi\0abc\0", *(b"L" + name + b"\0" + value + b"\0" for name, value in headers)]
    packets += [b"B" + piece for piece in pieces]
    assert [reply for packet in packets for reply in session.answer_packet(packet)] == []
    *changes, final = session.answer_packet(b"E")
    assert final == b"c"
    bodies = [change[1:] for change in changes if change[:1] == b"b"]
    return [change for change in changes if change[:1] != b"b"], b"".join(bodies) if bodies else None


def test_a_message_with_short_lines_stays_as_it_is() -> None:
    body = b"\r\n".join([b"x" * POSTFIX_LIMIT, "Grüße".encode(), b"", b"."]) + b"\r\n"
    assert run_session([(b"From", b"anna@example.org")], body.replace(b"x" * POSTFIX_LIMIT, b"x" * 990)) == ([], None)


@pytest.mark.parametrize("size", [991, 2500, 100_000, 3_000_000])
def test_long_lines_are_broken_at_blanks(size: int) -> None:
    words = (b"word " * (size // 5 + 1))[:size].strip() + b"!"
    body = b"<p>\r\n" + words + b"\r\n</p>\r\n"
    pieces = [body[start : start + 65535] for start in range(0, len(body), 65535)]
    _, broken = run_session([], *pieces)
    assert broken is not None
    assert longest_line(broken) <= 992
    assert broken.replace(b"\r\n ", b" ") == body


def test_a_line_without_blanks_is_broken_as_postfix_would_break_it() -> None:
    broken = break_body(b"x" * 2500 + b"\r\n")
    assert longest_line(broken) <= 992
    assert broken.replace(b"\r\n ", b"") == b"x" * 2500 + b"\r\n"


def test_a_long_line_is_seen_across_pieces_of_the_body() -> None:
    _, broken = run_session([], *[b"word " * 100] * 3, b"\r\nend\r\n")
    assert broken is not None
    assert run_session([], *[b"word " * 100 + b"\r\n"] * 3)[1] is None


def test_what_comes_out_needs_no_breaking() -> None:
    chance = random.Random(1)  # noqa: S311 - no secret
    for _ in range(300):
        body = bytes(chance.choice(b"ab \xff\r\n" if chance.random() < 0.002 else b"ab .") for _ in range(4000))
        broken = break_body(body)
        assert longest_line(broken) <= POSTFIX_LIMIT - 1
        assert not has_long_line(broken)
        assert break_body(broken) == broken
        assert broken.replace(b"\r\n ", b"").replace(b" ", b"") == body.replace(b"\r\n ", b"").replace(b" ", b"")


def test_long_headers_are_folded_at_blanks_and_counted_by_name() -> None:
    value = b", ".join(b"user%d@example.org" % n for n in range(100))
    changes, body = run_session([(b"To", b"x@example.org"), (b"TO", value), (b"Subject", b"long")], b"text\r\n")
    assert body is None
    (change,) = changes
    assert change[:5] == b"m" + struct.pack("!I", 2)
    name, folded, rest = change[5:].split(b"\0")
    assert (name, rest) == (b"TO", b"")
    assert longest_line(b"TO: " + folded) <= POSTFIX_LIMIT
    assert folded.replace(b"\n", b"") == value


@pytest.mark.parametrize("value", [b"short", b"x" * 3000, b" " * 3000, b"a\n\t" + b"y" * 1500, b"x" * 980 + b" " * 100])
def test_a_header_that_cannot_be_folded_stays(value: bytes) -> None:
    assert fold_header(b"X-Data", value) == value


def test_messages_of_one_session_are_kept_apart() -> None:
    session = LineSession()
    long = b"B" + b"word " * 300
    assert len([*session.answer_packet(long), *session.answer_packet(b"E")]) == 2
    assert [*session.answer_packet(long), *session.answer_packet(b"A"), *session.answer_packet(b"E")] == [b"c"]


@pytest.mark.parametrize("packet", [b"Z", b"", b"O\0", b"O" + struct.pack("!III", 6, 0, ALL)])
def test_other_packets_end_the_session(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        [*LineSession().answer_packet(packet)]


def test_a_connection_that_fails_ends_and_frees_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = socket.socketpair()
    slots = threading.Semaphore(0)
    thread = threading.Thread(target=serve_connection, args=(theirs, slots))
    thread.start()
    ours.sendall(struct.pack("!I", 13) + b"O" + struct.pack("!III", 6, ALL, ALL))
    assert ours.recv(17)[4:5] == b"O"
    ours.sendall(b"\xff" * 8)
    assert ours.recv(1) == b""
    thread.join(5)
    assert slots.acquire(blocking=False)
    assert "ProtocolError" in capsys.readouterr().err
