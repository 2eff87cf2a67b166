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


BLOCKED = "this machine's provider blocks port 25: mx.example.net does not answer it either"
UNKNOWN = "nothing elsewhere shows whether this machine's provider lets port 25 out by IPv{}"
REFUSED = ConnectionRefusedError(111, "Connection refused")


@pytest.mark.parametrize(
    ("peer", "peer_answers", "answer", "error", "untried"),
    [
        (PEER, True, TimeoutError(), NO_ANSWER, ""),
        (PEER, True, REFUSED, "Connection refused", ""),
        (PEER, False, TimeoutError(), "", BLOCKED),
        (PEER, False, REFUSED, "", BLOCKED),  # a provider's rule that rejects
        (None, False, TimeoutError(), "", UNKNOWN.format(4)),
        (None, False, REFUSED, "Connection refused", ""),
    ],
)
def test_a_failing_port_25_counts_only_where_another_answers(
    monkeypatch: pytest.MonkeyPatch,
    peer: OutboundPeer | None,
    peer_answers: bool,
    answer: OSError,
    error: str,
    untried: str,
) -> None:
    def connect(address: tuple[str, int], _timeout: float) -> socket.socket:
        if address[0] == PEER.address and peer_answers:
            return socket.socket()
        raise answer

    monkeypatch.setattr(knock.socket, "create_connection", connect)
    assert knock_at(["198.51.100.1"], [25, 465], peer) == [
        Knock("198.51.100.1", 25, error, untried),
        Knock("198.51.100.1", 465, answer.strerror or NO_ANSWER),
    ]


@pytest.mark.parametrize(
    ("peer_address", "untried"), [([], UNKNOWN.format(6)), (["2001:db8:25::1"], BLOCKED)], ids=["IPv4 only", "both"]
)
def test_each_ip_version_has_its_own_control(
    monkeypatch: pytest.MonkeyPatch, peer_address: list[str], untried: str
) -> None:
    def connect(address: tuple[str, int], _timeout: float) -> socket.socket:
        if address[0] == PEER.address:
            return socket.socket()
        raise TimeoutError

    def look_up(*_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if not peer_address:
            raise socket.gaierror
        return [(10, 1, 6, "", (address, 25)) for address in peer_address]

    monkeypatch.setattr(knock.socket, "create_connection", connect)
    monkeypatch.setattr(knock.socket, "getaddrinfo", look_up)
    assert knock_at(["198.51.100.1", "2001:db8::1"], [25], PEER) == [
        Knock("198.51.100.1", 25, NO_ANSWER),
        Knock("2001:db8::1", 25, untried=untried),
    ]


@pytest.mark.parametrize(
    ("address", "source", "untried"),
    [
        ("2001:db8::1", None, "this machine has no IPv6"),
        ("2001:db8::1", "fd12::7", "this machine has no IPv6"),
        ("2001:db8::1", "2001:db8:7::7", ""),
        ("192.0.2.1", None, "this machine has no IPv4"),
        ("192.0.2.1", "10.0.0.7", ""),
    ],
)
def test_a_router_without_a_route_is_no_machine_without_an_address(
    monkeypatch: pytest.MonkeyPatch, address: str, source: str | None, untried: str
) -> None:
    def connect(*_: object) -> None:
        raise OSError(knock.errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(knock.socket, "create_connection", connect)
    monkeypatch.setattr(knock, "find_source_address", lambda _: source)
    error = "" if untried else "Network is unreachable"
    assert knock_at([address], [465], None) == [Knock(address, 465, error, untried)]
