"""A question over UDP, with the answer of nobody else; a long answer comes over TCP."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from mailkeep_server.common import dns_query
from mailkeep_server.common.dns_query import TRUNCATED, join_strings, query_quickly

ADDRESS = "127.0.0.1"
LONG = "x" * 3000
Answer = Callable[[bytes], list[bytes]]


def build_reply(query: bytes, *texts: str, flags: int = 0x8180) -> bytes:
    end = query.index(b"\0", 12) + 5
    records = b""
    for text in texts:
        strings = b"".join(
            bytes([len(piece)]) + piece for piece in (text[at : at + 255].encode() for at in range(0, len(text), 255))
        )
        records += b"\xc0\x0c" + struct.pack("!HHIH", 16, 1, 5, len(strings)) + strings
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(texts), 0, 0) + query[12:end] + records


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], None]]:
    """Answers over UDP by a function, and over TCP with the long text."""
    tcp = socket.create_server((ADDRESS, 0))
    port = tcp.getsockname()[1]
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((ADDRESS, port))
    monkeypatch.setattr(dns_query, "PORT", port)

    def answer_datagrams(answer: Answer) -> None:
        query, client = udp.recvfrom(999)
        for reply in answer(query):
            udp.sendto(reply, client)

    def answer_connection() -> None:
        try:
            client = tcp.accept()[0]
        except OSError:  # closed: nobody asked over TCP
            return
        with client:
            query = client.recv(999)[2:]
            reply = build_reply(query, LONG)
            client.sendall(struct.pack("!H", len(reply)) + reply)

    def start(answer: Answer) -> None:
        threading.Thread(target=answer_datagrams, args=(answer,), daemon=True).start()
        threading.Thread(target=answer_connection, daemon=True).start()

    yield start
    udp.close()
    tcp.close()


def ask() -> list[str]:
    return [join_strings(data) for data in query_quickly(ADDRESS, "example.org", "TXT", 2.0).data]


def test_the_answer_comes_in_a_datagram(serve: Callable[[Answer], None]) -> None:
    serve(lambda query: [build_reply(query, "v=spf1 -all", "other")])
    assert ask() == ["v=spf1 -all", "other"]


def test_an_answer_that_does_not_fit_comes_over_tcp(serve: Callable[[Answer], None]) -> None:
    serve(lambda query: [build_reply(query, flags=0x8180 | TRUNCATED)])
    assert ask() == [LONG]


def test_answers_to_other_questions_are_passed_over(serve: Callable[[Answer], None]) -> None:
    def answer(query: bytes) -> list[bytes]:
        other_number = bytes([query[0] ^ 1]) + query[1:]
        other_name = query.replace(b"example", b"exbmple")
        return [
            b"",
            b"x",
            build_reply(other_number, "forged"),
            build_reply(other_name, "forged"),
            build_reply(query, "ours"),
        ]

    serve(answer)
    assert ask() == ["ours"]


def test_a_refusal_without_the_question_is_an_answer(serve: Callable[[Answer], None]) -> None:
    serve(lambda query: [query[:2] + struct.pack("!HHHHH", 0x8185, 0, 0, 0, 0)])
    assert query_quickly(ADDRESS, "example.org", "TXT", 2.0).code == 5


@pytest.mark.slow
def test_silence_ends_at_the_timeout(serve: Callable[[Answer], None]) -> None:
    serve(lambda _: [])
    with pytest.raises(TimeoutError):
        query_quickly(ADDRESS, "example.org", "TXT", 0.2)
