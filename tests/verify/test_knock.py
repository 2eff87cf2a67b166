"""Whoever verifies knocks at the public addresses, and tells a dead service from a network that lets nothing out."""

import socket
import threading
from collections.abc import Iterator

import pytest

from mailkeep.host.preflight_facts import OutboundPeer
from mailkeep.verify import knock
from mailkeep.verify.knock import NO_ANSWER, Knock, knock_at

PEER = OutboundPeer("mx.example.net", "192.0.2.25", 25, is_relay=False)


@pytest.fixture
def port() -> Iterator[int]:
    """A port on loopback that greets once as an SMTP server."""
    listener = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        client, _ = listener.accept()
        with client:
            client.sendall(b"220 mail.example.org ESMTP\r\n")

    threading.Thread(target=greet, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_a_service_that_greets_is_reached_and_others_say_why_not(port: int) -> None:
    assert knock_at(["127.0.0.1"], [port], None) == [Knock("127.0.0.1", port)]
    [closed] = knock_at(["127.0.0.1"], [1], None)
    assert closed.error == "Connection refused"


def test_a_service_that_hangs_up_or_speaks_another_protocol_is_not_reached() -> None:
    for words, error in (
        (b"", "it hangs up without a greeting"),
        (b"HTTP/1.1 400\r\n", "it greets with 'HTTP/1.1 400"),
    ):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(words)
            theirs.shutdown(socket.SHUT_WR)
            assert knock._read_greeting(ours, 25).startswith(error)


@pytest.mark.parametrize(
    ("peer", "peer_answers", "error", "untried"),
    [
        (PEER, True, NO_ANSWER, ""),
        (PEER, False, "", "this machine's provider blocks port 25: mx.example.net does not answer it either"),
        (None, False, "", "nothing elsewhere shows whether this machine's provider lets port 25 out"),
    ],
)
def test_a_silent_port_25_counts_only_where_another_answers(
    monkeypatch: pytest.MonkeyPatch, peer: OutboundPeer | None, peer_answers: bool, error: str, untried: str
) -> None:
    def connect(address: tuple[str, int], _timeout: float) -> socket.socket:
        if address[0] == PEER.address and peer_answers:
            return socket.socket()
        raise TimeoutError

    monkeypatch.setattr(knock.socket, "create_connection", connect)
    assert knock_at(["198.51.100.1"], [25, 465], peer) == [
        Knock("198.51.100.1", 25, error, untried),
        Knock("198.51.100.1", 465, NO_ANSWER),
    ]


def test_without_ipv6_here_the_address_is_untried(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise OSError(knock.errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(knock.socket, "create_connection", connect)
    assert knock_at(["2001:db8::1"], [465], None)[0].untried == "this machine has no IPv6"
    assert knock_at(["192.0.2.1"], [465], None)[0].error == "Network is unreachable"
