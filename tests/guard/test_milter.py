"""The milter by the packets that Postfix sends: who a message says it is from, and whether it went."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable

import pytest
from guard_samples import ANNA, END, LIMITS, NO_LIMITS, OFFER, Desk, mail, packet

from mailkeep_server.guard import milter
from mailkeep_server.guard.milter import MilterSession, ProtocolError
from mailkeep_server.guard.policy import DUNNO

MakeDesk = Callable[..., Desk]
ABORT = packet(b"A")


def talk(milter_connection: MilterSession, *packets: bytes) -> list[bytes]:
    """What it answers, without lengths; continue is `c`."""
    found, rest = milter.split_packets(b"".join(packets))
    assert not rest
    return [answer[4:] for one in found if (answer := milter_connection.answer_packet(one))]


def at(desk: Desk) -> MilterSession:
    made = MilterSession(desk.judge, lambda: desk.now)
    assert talk(made, OFFER)[0][:1] == b"O"
    return made


# --- the protocol -----------------------------------------------------------------------------------------------------


def test_it_asks_for_nothing_that_it_does_not_need_and_may_change_nothing(desk: MakeDesk) -> None:
    (said,) = talk(MilterSession(desk().judge, lambda: 0), OFFER)
    version, actions, protocol = struct.unpack("!III", said[1:])
    assert (version, actions) == (6, 0)
    assert protocol & 0x10, "no bodies"
    assert not protocol & (0x4 | 0x8 | 0x20), "but senders, recipients and headers"


@pytest.mark.parametrize("version", [2, 5])
def test_an_old_protocol_is_refused(desk: MakeDesk, version: int) -> None:
    with pytest.raises(ProtocolError):
        talk(
            MilterSession(desk().judge, lambda: 0), packet(b"O", struct.pack("!III", version, 0x1FF, 0x1FFFFF), end=b"")
        )


def test_packets_may_come_in_pieces_and_many_at_once() -> None:
    whole = [packet(b"M", "<a@example.org>"), packet(b"A"), packet(b"L", "From", "x")]
    stream = b"".join(whole)
    for cut in range(len(stream)):
        first, rest = milter.split_packets(stream[:cut])
        second, left = milter.split_packets(rest + stream[cut:])
        assert [one[4:] for one in whole] == first + second
        assert not left


@pytest.mark.parametrize("length", [0, milter.MAX_PACKET_BYTES + 1, 2**32 - 1])
def test_a_packet_of_no_sensible_length_is_refused_before_it_has_come(length: int) -> None:
    with pytest.raises(ProtocolError):
        milter.split_packets(struct.pack("!I", length))


# --- who it is from ---------------------------------------------------------------------------------------------------


def test_own_addresses_pass_and_with_an_extension_too(desk: MakeDesk) -> None:
    connection = at(desk())
    for sender in (ANNA, "Sales@Example.ORG", "anna+shop@example.org"):
        assert {*talk(connection, *mail(ANNA, sender, [("From", sender)]), END)} == {b"c"}


def test_another_sender_or_author_is_refused_by_name(desk: MakeDesk) -> None:
    made = desk()
    said = talk(at(made), *mail(ANNA, "boss@example.org", [])[:2])
    assert said[0] == b"y553 5.7.1 anna@example.org does not own boss@example.org\0"
    said = talk(at(made), *mail(ANNA, ANNA, [("From", "Boss <boss@example.org>")]), END)
    assert said[-1] == b"y553 5.7.1 anna@example.org does not own boss@example.org in the From: line\0"
    assert len(made.judge.ledger.accounts[ANNA].violations.unowned_sender) == 2


def test_upper_case_logins_and_header_names_are_the_same(desk: MakeDesk) -> None:
    made = desk()
    assert talk(at(made), *mail("ANNA@example.org", ANNA, [("FROM", ANNA)]), END)[-1] == b"c"
    assert talk(at(made), *mail("ANNA@example.org", ANNA, [("fRoM ", "boss@example.org")]), END)[-1][:4] == b"y553"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("From", ANNA), ("From", ANNA)],
        [("From", ANNA), ("Sender", "boss@example.org")],
        [("From", b"anna@example.org\0, boss@example.org")],
        [("From", b"\xc4nne <anna@example.org>")],
        [("From", ANNA)] * 1000,
        [("Sender", ANNA)] * 1000 + [("From", "boss@example.org")],
        [("From", ANNA)] + [("Resent-From", "")] * 1000,
        [("From", "a" * 100_000)],
    ],
)
def test_what_is_not_beyond_doubt_the_login_s_own_is_refused(desk: MakeDesk, headers: list[tuple[str, str]]) -> None:
    assert talk(at(desk()), *mail(ANNA, ANNA, headers), END)[-1][:4] == b"y553"


def test_a_refusal_holds_no_more_than_smtp_can_say_of_what_it_quotes(desk: MakeDesk) -> None:
    said = talk(at(desk()), *mail(ANNA, "x%s\r\n" * 1000 + "@example.org", []))[0]
    assert len(said) < 512
    assert b"\n" not in said
    assert b"%" not in said.replace(b"%%", b"")


def test_mail_that_nobody_logged_in_for_may_be_from_anybody(desk: MakeDesk) -> None:
    assert {*talk(at(desk()), *mail("", "cron@mail.example.org", [("From", "root")]), END)} == {b"c"}


def test_foreign_senders_freeze_and_the_frozen_are_told_so(desk: MakeDesk) -> None:
    made = desk(freeze={"refused_tries": 5, "foreign_senders": 2, "networks": 5, "new_recipients": 5})
    for _ in range(2):
        talk(at(made), *mail(ANNA, "boss@example.org", [])[:2])
    assert made.send().startswith("521")


def test_one_login_does_not_last_into_the_next_message(desk: MakeDesk) -> None:
    connection = at(desk())
    talk(connection, *mail(ANNA, ANNA, [("From", ANNA)]), END)
    assert talk(connection, *mail("", "root@mail.example.org", [("From", "root")]), END)[-1] == b"c"


# --- whether it went --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["abort", "next message", "connection lost"])
def test_a_message_that_postfix_gives_up_is_taken_back(desk: MakeDesk, end: str) -> None:
    made = desk()
    connection = at(made)
    assert made.send(queue_id="Q1") == DUNNO
    talk(connection, *mail(ANNA, ANNA, [("From", ANNA)], queue_id="Q1"))
    assert made.used()[0] == 1
    if end == "abort":
        talk(connection, ABORT)
    elif end == "next message":
        talk(connection, *mail(ANNA, ANNA, [("From", ANNA)], queue_id="Q2"))
    else:
        connection.end_session()
    assert made.used()[0] == 0


def test_a_message_that_went_stays_counted(desk: MakeDesk) -> None:
    made = desk()
    connection = at(made)
    made.send(queue_id="Q1")
    talk(connection, *mail(ANNA, ANNA, [("From", ANNA)], queue_id="Q1"), END, ABORT)
    connection.end_session()
    assert made.used()[0] == 1


def test_a_message_refused_for_its_author_does_not_count(desk: MakeDesk) -> None:
    made = desk()
    connection = at(made)
    made.send(queue_id="Q1")
    talk(connection, *mail(ANNA, ANNA, [("From", "boss@example.org")], queue_id="Q1"), END)
    assert made.used()[0] == 0


def test_programs_on_the_server_are_counted_by_recipient_and_wait_above_their_ceiling(desk: MakeDesk) -> None:
    made = desk(local={"recipients_per_hour": 3, "recipients_per_day": 100})
    message = [*mail("", "root@mail.example.org", [("From", "root")]), END]
    message.insert(3, packet(b"R", "<other@example.net>"))
    assert talk(at(made), *message)[-1] == b"c"
    assert made.judge.ledger.local.usage_within(made.now, 1000) == (1, 2, 0)
    assert talk(at(made), *message)[-1] == b"t"


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_no_message_makes_it_remember_much(desk: MakeDesk) -> None:
    made = desk(limits=NO_LIMITS | LIMITS)
    connection = at(made)
    talk(connection, *mail(ANNA, ANNA, []))
    tracemalloc.start()
    try:
        for number in range(2000):
            talk(
                connection,
                packet(b"L", "From", "x" * 10_000),
                packet(b"L", "Sender", "y"),
                packet(b"DL", f"{{macro{number}}}", "z" * 1000),
                packet(b"R", "<r@example.net>"),
            )
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
