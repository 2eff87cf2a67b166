"""Long lines are broken before a message is signed, and nothing else in it changes."""

import io
import random
import struct
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from mailkeep_server.common.milter_server import ProtocolError
from mailkeep_server.lines import line_breaks
from mailkeep_server.lines.line_breaks import fold_header, has_long_line
from mailkeep_server.lines.milter import MAX_HEADER_BYTES, LineSession

POSTFIX_LIMIT = 998
MAX_REPLY = 65535  # bytes of a body in one packet (libmilter's MILTER_CHUNK_SIZE)
MIB = 1 << 20
ALL = 0xFFFFFFFF


def break_body(body: bytes) -> bytes:
    return b"".join(line_breaks.break_body(io.BytesIO(body)))


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


@pytest.mark.slow
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
    long = b"B" + b"word " * 300 + b"\r\n"
    assert len([*session.answer_packet(long), *session.answer_packet(b"E")]) == 2
    assert [*session.answer_packet(long), *session.answer_packet(b"A"), *session.answer_packet(b"E")] == [b"c"]


def cut_body(line: bytes, size: int) -> Iterator[bytes]:
    """Packets of a body of about this size: one long line, and then these lines."""
    yield b"B" + b"word " * 300 + b"\r\n"
    block = b"B" + line * (60_000 // len(line))
    yield from (block for _ in range(size // len(block)))


@pytest.mark.slow
@pytest.mark.parametrize("line", [b"x\r\n", b"x" * 76 + b"\r\n", b"y" * 990 + b"\r\n", b"z" * 5000], ids=len)
def test_a_large_message_takes_the_memory_of_its_blocks(line: bytes) -> None:
    session, size, kept = LineSession(), 0, 0
    tracemalloc.start()
    try:
        for packet in cut_body(line, 8 * MIB):
            kept += len(packet) - 1
            assert [*session.answer_packet(packet)] == []
        for reply in session.answer_packet(b"E"):
            assert len(reply) - 1 <= MAX_REPLY
            size += len(reply) - 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept < size < kept * 1.01
    assert peak < 4 * MIB


def test_a_long_line_is_sought_in_the_time_that_reading_takes() -> None:
    """By a pattern, 6 to 85 seconds for a message of 50 MB."""
    bodies = [(b"x" * length + b"\r\n") * (4 * MIB // (length + 2)) for length in (1, 76, 500, 980, 989)]
    start = time.thread_time()
    assert not any(map(has_long_line, bodies))
    assert time.thread_time() - start < 1


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("length", range(985, 996))
def test_a_long_line_is_found_wherever_it_stands(length: int, end: bytes) -> None:
    lines = [b"x" * length, b"", b"y" * 700, b"z"]
    is_long = length + len(end) - 1 > 991
    for turn in range(4):
        assert has_long_line(end.join(lines[turn:] + lines[:turn] + [b""])) == is_long


def test_headers_beyond_a_bound_stay_as_they_are() -> None:
    value = b"word " * 18_000
    changes, _ = run_session([(b"X-%d" % n, value) for n in range(30)], b"text\r\n")
    assert len(changes) == MAX_HEADER_BYTES // (len(value) + len(b"X-10\0\0"))


@pytest.mark.parametrize("packet", [b"Z", b"", b"O\0", b"O" + struct.pack("!III", 6, 0, ALL)])
def test_other_packets_end_the_session(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        [*LineSession().answer_packet(packet)]
