"""A body is hashed piece by piece as DKIM hashes it whole."""

import hashlib
import random
import time
import tracemalloc

import pytest
from dkim.canonicalization import Relaxed, Simple

from mailkeep_server.inbound.body_hash import RELAXED, SIMPLE, BodyHash

MIB = 1 << 20
PIECES = [b"a", b" ", b"\t", b"\r\n", b"\r\n", b"  ", b"b c", b"\xff", b" \r\n", b"\t \r\n\r\n"]
WHOLE = {SIMPLE: Simple, RELAXED: Relaxed}


def hash_body(form: str, *pieces: bytes) -> tuple[bytes, int]:
    body_hash = BodyHash(form)
    for piece in pieces:
        body_hash.update(piece)
    return body_hash.finish(), body_hash.length


@pytest.mark.slow
@pytest.mark.parametrize("form", [SIMPLE, RELAXED])
def test_the_hash_is_that_of_the_whole_however_it_is_cut(form: str) -> None:
    chance = random.Random(1)  # noqa: S311 - no secret
    for number in range(5000):
        body = b"".join(chance.choices(PIECES, k=chance.randrange(25))) + b"\r\n" * (number % 3)
        cuts = sorted(chance.choices(range(len(body) + 1), k=3))
        pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        whole = WHOLE[form].canonicalize_body(body)
        assert hash_body(form, *pieces) == (hashlib.sha256(whole).digest(), len(whole)), body


@pytest.mark.parametrize(
    ("form", "body", "canonical"),
    [  # RFC 6376 sections 3.4.3 to 3.4.5
        (SIMPLE, b"", b"\r\n"),
        (SIMPLE, b" C \r\nD \t E\r\n\r\n\r\n", b" C \r\nD \t E\r\n"),
        (RELAXED, b"", b""),
        (RELAXED, b" \r\n\r\n", b""),
        (RELAXED, b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
    ],
)
def test_the_examples_of_the_rfc(form: str, body: bytes, canonical: bytes) -> None:
    assert hash_body(form, body)[0] == hashlib.sha256(canonical).digest()


@pytest.mark.slow
@pytest.mark.parametrize("form", [SIMPLE, RELAXED])
@pytest.mark.parametrize(
    "piece", [b"\r\n", b"\n", b"\r", b" ", b" \r", b"x\r\n", b"word \t", b"\n\r", b"x" * 76 + b"\r\n"]
)
def test_no_body_takes_much_time_or_memory(form: str, piece: bytes) -> None:
    block = (piece * (65_535 // len(piece) + 1))[:65_535]
    tracemalloc.start()
    start = time.thread_time()
    try:
        hash_body(form, *[block] * 40, b"end\r\n")
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB  # one piece's blanks, while they are compressed
    finally:
        tracemalloc.stop()
    assert time.thread_time() - start < 5
