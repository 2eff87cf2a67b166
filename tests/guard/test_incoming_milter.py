"""The milter of port 25 by the packets that Postfix sends, and on its socket."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from guard_samples import ANNA, BERT, END, OFFER, GuardProcess, JudgeSetup, build_packet, wait_until

from mailkeep_server.common.milter_server import ProtocolError, split_packets
from mailkeep_server.guard.incoming import IncomingSession

NewSetup = Callable[..., JudgeSetup]
LIMITS = {"messages_per_hour": 200, "network_messages_per_hour": 4, "new_senders_per_hour": 1}


def build_message(sender: str, *recipients: str, client: str = "198.51.100.7") -> list[bytes]:
    return [
        build_packet(b"D", b"M{client_addr}", f"IPv6:{client}" if ":" in client else client),
        build_packet(b"M", f"<{sender}>", "SIZE=100"),
        *(build_packet(b"R", f"<{recipient}>") for recipient in recipients),
        build_packet(b"L", "From", f"Somebody <{sender}>"),
        build_packet(b"L", "Subject", b"\xff\xfe"),
    ]


def exchange_packets(session: IncomingSession, *packets: bytes) -> list[bytes]:
    """The replies, without lengths."""
    received, _ = split_packets(b"".join(packets))
    replies, rest = split_packets(b"".join(map(session.answer_packet, (packet for packet in received))))
    assert not rest
    return replies


@pytest.fixture
def session(new_setup: NewSetup) -> IncomingSession:
    setup = new_setup(receiving=LIMITS)
    return IncomingSession(setup.judge.receiving, lambda: setup.now)


def test_it_asks_for_no_bodies_and_may_only_add_headers(session: IncomingSession) -> None:
    (reply,) = exchange_packets(session, OFFER)
    version, actions, protocol = struct.unpack("!III", reply[1:])
    assert (version, actions) == (6, 0x1)
    assert protocol & 0x10, "no bodies"
    assert not protocol & (0x4 | 0x8 | 0x20 | 0x8000), "senders, headers, and recipients with a reply"


def test_a_recipient_over_a_limit_waits_and_the_others_get_the_message(session: IncomingSession) -> None:
    for _ in range(4):
        assert exchange_packets(session, *build_message("a@new.example", ANNA), END) == [b"c"] * 3
    replies = exchange_packets(session, *build_message("a@new.example", ANNA, BERT), END)
    assert [reply[:4] for reply in replies] == [b"c", b"y450", b"c", b"c"]
    assert replies[1].endswith(b"UTC\0")


def test_a_site_with_ipv6_is_one_network(session: IncomingSession) -> None:
    for n in range(4):
        exchange_packets(session, *build_message("a@new.example", ANNA, client=f"2001:db8:1:{n}::1"), END)
    others = [
        exchange_packets(session, *build_message("a@new.example", ANNA, client=f"2001:db8:{n}::9")) for n in (1, 2)
    ]
    assert [reply[-1][:4] for reply in others] == [b"y450", b"c"]


def test_a_bomb_s_message_gets_the_header(session: IncomingSession) -> None:
    replies = [
        exchange_packets(session, *build_message(f"a@d{n}.example", ANNA, client=f"2001:db8:{n}::1"), END)
        for n in range(5)
    ]
    assert replies[3] == [b"c"] * 3, "in its first days, an account has five times as many new senders"
    assert replies[4] == [b"c", b"c", b"hX-Mailkeep-Bulk\0002025-11-25\0", b"c"]


def test_an_aborted_message_does_not_count(session: IncomingSession) -> None:
    for _ in range(20):
        assert exchange_packets(session, *build_message("a@new.example", ANNA), build_packet(b"A"))[-1] == b"c"
    assert exchange_packets(session, *build_message("a@new.example", ANNA), END) == [b"c"] * 3


@pytest.mark.parametrize(
    "packet",
    [
        b"O\0",
        b"O" + struct.pack("!III", 2, 0x1FF, 0x1FFFFF),
        b"O" + struct.pack("!III", 6, 0, 0x1FFFFF),
        b"O" + struct.pack("!III", 6, 0x1FF, 0x1),
        b"?",
    ],
)
def test_what_is_not_postfix_s_is_refused(session: IncomingSession, packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        session.answer_packet(packet)


@pytest.mark.slow
def test_each_accepted_message_is_kept_before_the_answer(start_guard: Callable[..., GuardProcess]) -> None:
    guard = start_guard(receiving=LIMITS)
    for _ in range(4):
        with guard.open_connection("incoming") as client:
            client.sendall(b"".join([OFFER, *build_message("a@new.example", ANNA), END]))
            answer = b""
            while len(split_packets(answer)[0]) < 4:
                more = client.recv(4096)
                assert more, answer
                answer += more
        guard.kill()
        guard.start()
    with guard.open_connection("incoming") as client:
        client.sendall(b"".join([OFFER, *build_message("a@new.example", ANNA)]))
        wait_until(lambda: b"y450 4.7.1" in client.recv(4096))
    assert guard.get_target("/receiving") == {"bombs": {}, "floods": [ANNA]}
    guard.get_target(f"/unsort?account={ANNA}")
    assert guard.list_events("flood")
