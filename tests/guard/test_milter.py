"""The milter by the packets that Postfix sends: the addresses in a message, and whether it was accepted."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable

import pytest
from guard_samples import ANNA, END, LIMITS, NO_FREEZE, NO_LIMITS, OFFER, JudgeSetup, build_message, build_packet

from mailkeep_server.common.milter_server import MAX_PACKET_BYTES, ProtocolError, split_packets
from mailkeep_server.common.sender_kinds import ANSWER, FORWARD, LOCAL
from mailkeep_server.guard.mail_program import NAMELESS
from mailkeep_server.guard.milter import MilterSession
from mailkeep_server.guard.policy import DUNNO, PolicyRequest
from mailkeep_server.guard.sliding_window import HOUR
from mailkeep_server.guard.stranger_store import OUTCOMES, Hold

NewSetup = Callable[..., JudgeSetup]
Headers = list[tuple[str, str | bytes]]
ABORT = build_packet(b"A")


def exchange_packets(session: MilterSession, *packets: bytes) -> list[bytes]:
    """The replies, without lengths; `c` is continue."""
    received, rest = split_packets(b"".join(packets))
    assert not rest
    return [reply[4:] for packet in received if (reply := session.answer_packet(packet))]


def open_session(setup: JudgeSetup) -> MilterSession:
    session = MilterSession(setup.judge, lambda: setup.now)
    assert exchange_packets(session, OFFER)[0][:1] == b"O"
    return session


def send_message(
    session: MilterSession, headers: Headers, *, login: str = ANNA, sender: str = ANNA, queue_id: str = "Q1"
) -> list[bytes]:
    """The replies to a whole message."""
    return exchange_packets(session, *build_message(login, sender, headers, queue_id), END)


# --- the protocol -----------------------------------------------------------------------------------------------------


def test_it_asks_for_nothing_that_it_does_not_need_and_may_change_nothing(new_setup: NewSetup) -> None:
    (reply,) = exchange_packets(MilterSession(new_setup().judge, lambda: 0), OFFER)
    version, actions, protocol = struct.unpack("!III", reply[1:])
    assert (version, actions) == (6, 0x20), "it may put a message on hold, and change nothing"
    assert not protocol & (0x4 | 0x8 | 0x10 | 0x20), "senders, recipients, headers, and the body of a receipt"
    assert protocol & 0x400, "and no more of another body than its beginning"


@pytest.mark.parametrize("version", [2, 5])
def test_an_old_protocol_is_refused(new_setup: NewSetup, version: int) -> None:
    offer = build_packet(b"O", struct.pack("!III", version, 0x1FF, 0x1FFFFF), end=b"")
    with pytest.raises(ProtocolError):
        exchange_packets(MilterSession(new_setup().judge, lambda: 0), offer)


def test_packets_may_come_in_pieces_and_many_at_once() -> None:
    packets = [build_packet(b"M", "<a@example.org>"), build_packet(b"A"), build_packet(b"L", "From", "x")]
    stream = b"".join(packets)
    for cut in range(len(stream)):
        first, rest = split_packets(stream[:cut])
        second, left = split_packets(rest + stream[cut:])
        assert [packet[4:] for packet in packets] == first + second
        assert not left


@pytest.mark.parametrize("length", [0, MAX_PACKET_BYTES + 1, 2**32 - 1])
def test_a_packet_of_no_sensible_length_is_refused_before_it_has_come(length: int) -> None:
    with pytest.raises(ProtocolError):
        split_packets(struct.pack("!I", length))


# --- addresses --------------------------------------------------------------------------------------------------------


def test_owned_addresses_pass_and_with_an_extension_too(new_setup: NewSetup) -> None:
    session = open_session(new_setup())
    for sender in (ANNA, "Sales@Example.ORG", "anna+shop@example.org"):
        assert {*send_message(session, [("From", sender)], sender=sender)} == {b"c"}


def test_an_unowned_sender_or_author_is_refused_by_name(new_setup: NewSetup) -> None:
    setup = new_setup()
    replies = exchange_packets(open_session(setup), *build_message(ANNA, "boss@example.org", [])[:2])
    assert replies[0] == b"y553 5.7.1 anna@example.org does not own boss@example.org\0"
    replies = send_message(open_session(setup), [("From", "Boss <boss@example.org>")])
    assert replies[-1] == b"y553 5.7.1 anna@example.org does not own boss@example.org in the From: line\0"
    assert len(setup.judge.ledger.accounts[ANNA].violations.unowned_sender) == 2


def test_the_operator_reads_where_a_spoof_came_from(new_setup: NewSetup) -> None:
    setup = new_setup()
    address = "{client_addr}"
    macros = build_packet(b"DM", "{auth_authen}", ANNA, address, "IPv6:2001:db8::66")
    session = open_session(setup)
    exchange_packets(session, macros, build_packet(b"M", "<boss@example.org>"))
    exchange_packets(session, macros, *build_message(ANNA, ANNA, [("From", "x, anna@example.org")])[1:], END)
    (spoof,), (unreadable,) = setup.list_events("spoof"), setup.list_events("unreadable")
    assert spoof[1].endswith("freeze it, last from 2001:db8::66")
    assert unreadable[1].endswith("needs quotes, last from 2001:db8::66")


def test_upper_case_logins_and_header_names_are_the_same(new_setup: NewSetup) -> None:
    setup = new_setup()
    assert send_message(open_session(setup), [("FROM", ANNA)], login="ANNA@example.org")[-1] == b"c"
    replies = send_message(open_session(setup), [("fRoM ", "boss@example.org")], login="ANNA@example.org")
    assert replies[-1][:4] == b"y553"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("From", ANNA), ("From", ANNA)],
        [("From", ANNA), ("Sender", "boss@example.org")],
        [("From", b"anna@example.org\0, boss@example.org")],
        [("From", ANNA)] * 1000,
        [("Sender", ANNA)] * 1000 + [("From", "boss@example.org")],
        [("From", ANNA)] + [("Resent-From", "")] * 1000,
        [("From", "a" * 100_000)],
    ],
)
def test_headers_that_are_not_beyond_doubt_the_login_s_own_are_refused(new_setup: NewSetup, headers: Headers) -> None:
    assert send_message(open_session(new_setup()), headers)[-1][:4] == b"y553"


UNREADABLE = [
    [("From", "Smith, Anna <anna@example.org>")],
    [("From", "Smith@mail.example.org, Anna <anna@example.org>")],
    [("From", '"Anna <anna@example.org>')],
    [("From", '"@anna@social.example" <anna@example.org>')],
    [("From", ANNA), ("From", ANNA)],
    [],
]


@pytest.mark.parametrize("headers", UNREADABLE)
def test_what_cannot_be_read_never_freezes_its_sender(new_setup: NewSetup, headers: Headers) -> None:
    """As of a program that tries again and again."""
    setup = new_setup(
        freeze={"refused_tries": 2, "foreign_senders": 2, "networks": 2, "new_recipients": 2, "spam_messages": 2}
    )
    for _ in range(20):
        assert send_message(open_session(setup), headers)[-1][:10] == b"y553 5.7.1"
    assert setup.freeze_reasons() == {}
    assert setup.send_message() == DUNNO
    assert len(setup.list_events("unreadable")) == 1
    assert setup.list_events("spoof") == []


def test_in_mode_learn_what_cannot_be_read_passes_and_is_reported(new_setup: NewSetup) -> None:
    setup = new_setup(mode="learn")
    assert send_message(open_session(setup), UNREADABLE[0])[-1] == b"c"
    assert len(setup.list_events("unreadable")) == 1


def test_a_refusal_quotes_no_more_than_smtp_can_carry(new_setup: NewSetup) -> None:
    sender = "x%s\r\n" * 1000 + "@example.org"
    reply = exchange_packets(open_session(new_setup()), *build_message(ANNA, sender, []))[0]
    assert len(reply) < 512
    assert b"\n" not in reply
    assert b"%" not in reply.replace(b"%%", b"")


def test_mail_without_a_login_may_be_from_anybody(new_setup: NewSetup) -> None:
    replies = send_message(open_session(new_setup()), [("From", "root")], login="", sender="cron@mail.example.org")
    assert {*replies} == {b"c"}


def test_unowned_senders_freeze_and_the_refusal_says_so(new_setup: NewSetup) -> None:
    setup = new_setup(
        freeze={"refused_tries": 5, "foreign_senders": 2, "networks": 5, "new_recipients": 5, "spam_messages": 5}
    )
    for _ in range(2):
        exchange_packets(open_session(setup), *build_message(ANNA, "boss@example.org", [])[:2])
    assert setup.send_message().startswith("521")


SPAM_HEADERS: Headers = [("From", ANNA), ("X-Mailkeep-Outgoing-Spam", "13.0 points")]


def test_spam_of_a_login_goes_and_counts_until_it_freezes(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS, freeze=NO_FREEZE | {"spam_messages": 3})
    session = open_session(setup)
    answers = [send_message(session, SPAM_HEADERS)[-1] for _ in range(2)]
    answers.append(send_message(session, [("From", ANNA)])[-1])
    assert answers == [b"c"] * 3
    assert not setup.freeze_reasons()
    assert send_message(session, SPAM_HEADERS)[-1].startswith(b"y521 5.7.1 anna@example.org is frozen")
    assert ANNA in setup.freeze_reasons()


@pytest.mark.parametrize("kind", [FORWARD, ANSWER, ""])
def test_spam_that_nobody_wrote_by_hand_does_not_count(new_setup: NewSetup, kind: str) -> None:
    """A script sends on what strangers wrote. Programs on the server have no login."""
    setup = new_setup(freeze=NO_FREEZE | {"spam_messages": 1})
    session = open_session(setup)
    packets = build_message(ANNA if kind else "", ANNA, SPAM_HEADERS)
    if kind:
        packets[0] = build_packet(b"DM", "{daemon_name}", kind, "{auth_authen}", ANNA, "i", "Q1")
    exchange_packets(session, *packets, END)
    assert not setup.freeze_reasons()
    assert setup.list_events("spam") == []


def test_a_login_does_not_last_into_the_next_message(new_setup: NewSetup) -> None:
    session = open_session(new_setup())
    send_message(session, [("From", ANNA)])
    assert send_message(session, [("From", "root")], login="", sender="root@mail.example.org")[-1] == b"c"


# --- whether it was accepted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["abort", "next message", "connection lost"])
def test_a_message_that_postfix_gives_up_no_longer_counts(new_setup: NewSetup, end: str) -> None:
    setup = new_setup()
    session = open_session(setup)
    assert setup.send_message(queue_id="Q1") == DUNNO
    exchange_packets(session, *build_message(ANNA, ANNA, [("From", ANNA)], queue_id="Q1"))
    assert setup.usage_of()[0] == 1
    if end == "abort":
        exchange_packets(session, ABORT)
    elif end == "next message":
        exchange_packets(session, *build_message(ANNA, ANNA, [("From", ANNA)], queue_id="Q2"))
    else:
        session.end_session()
    assert setup.usage_of()[0] == 0


def test_an_accepted_message_stays_counted(new_setup: NewSetup) -> None:
    setup = new_setup()
    session = open_session(setup)
    setup.send_message(queue_id="Q1")
    exchange_packets(session, *build_message(ANNA, ANNA, [("From", ANNA)], queue_id="Q1"), END, ABORT)
    session.end_session()
    assert setup.usage_of()[0] == 1


def test_a_message_refused_for_its_author_does_not_count(new_setup: NewSetup) -> None:
    setup = new_setup()
    session = open_session(setup)
    setup.send_message(queue_id="Q1")
    exchange_packets(session, *build_message(ANNA, ANNA, [("From", "boss@example.org")], queue_id="Q1"), END)
    assert setup.usage_of()[0] == 0


def test_programs_on_the_server_are_counted_by_recipient_and_wait_above_their_ceiling(new_setup: NewSetup) -> None:
    setup = new_setup(local={"recipients_per_hour": 3, "recipients_per_day": 100})
    message = [*build_message("", "root@mail.example.org", [("From", "root")]), END]
    message.insert(3, build_packet(b"R", "<other@example.net>"))
    assert exchange_packets(open_session(setup), *message)[-1] == b"c"
    assert setup.judge.ledger.local.usage_within(setup.now, 1000) == (1, 2, 0)
    assert exchange_packets(open_session(setup), *message)[-1] == b"t"


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_message_takes_much_memory(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS | LIMITS)
    session = open_session(setup)
    exchange_packets(session, *build_message(ANNA, ANNA, []))
    tracemalloc.start()
    try:
        for number in range(2000):
            exchange_packets(
                session,
                build_packet(b"L", "From", "x" * 10_000),
                build_packet(b"L", "Sender", "y"),
                build_packet(b"DL", f"{{macro{number}}}", "z" * 1000),
                build_packet(b"R", "<r@example.net>"),
            )
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


# --- read receipts and redirects --------------------------------------------------------------------------------------

RECEIPT_TYPE = 'multipart/report; report-type=disposition-notification;\n\tboundary="b"'
RECEIPT_HEADERS: Headers = [("From", ANNA), ("To", "friend@example.net"), ("Content-Type", RECEIPT_TYPE)]


def compose_receipt(reader: str = ANNA, kind: str = "message/disposition-notification", more: str = "") -> str:
    """The body, as Thunderbird writes it."""
    notification = (
        f"Reporting-UA: Thunderbird\nFinal-Recipient: rfc822;{reader}\nOriginal-Message-ID: <1@example.net>\n"
    )
    return (
        "--b\nContent-Type: text/plain; charset=UTF-8\n\nThe message was displayed.\n"
        f"--b\nContent-Type: {kind}; name=mdn.txt\nContent-Disposition: inline\n\n"
        f"{notification}Disposition: manual-action/MDN-sent-manually; displayed\n\n"
        f"--b\nContent-Type: text/rfc822-headers\n\nSubject: x\n{more}--b--\n"
    ).replace("\n", "\r\n")


def send_receipt(
    setup: JudgeSetup, body: str, headers: Headers = RECEIPT_HEADERS, *, recipients: int = 1, queue_id: str = "Q1"
) -> bytes:
    more = [build_packet(b"R", "<other@example.net>")] * (recipients - 1)
    packets = build_message(ANNA, "", headers, queue_id)
    text = body.encode()
    chunks = [build_packet(b"B", text[at : at + 65_535], end=b"") for at in range(0, len(text), 65_535)]
    return exchange_packets(open_session(setup), *packets[:4], *more, *packets[4:], *chunks, END)[-1]


def test_a_read_receipt_needs_no_sender(new_setup: NewSetup) -> None:
    setup = new_setup()
    assert send_receipt(setup, compose_receipt()) == b"c"
    assert send_receipt(setup, compose_receipt(reader="<Sales@Example.ORG>")) == b"c"


@pytest.mark.parametrize(
    ("body", "headers", "recipients"),
    [
        ("Buy!", RECEIPT_HEADERS, 1),
        ("", RECEIPT_HEADERS, 1),
        ("Buy!", [("From", ANNA)], 1),
        (compose_receipt(), [("From", ANNA)], 1),
        (compose_receipt(), [("From", ANNA), ("Content-Type", RECEIPT_TYPE.replace("disposition-n", "n"))], 1),
        (compose_receipt(), [("From", ANNA), ("Content-Type", RECEIPT_TYPE.replace("report;", "mixed;"))], 1),
        (compose_receipt(), [("From", ANNA), ("Content-Type", RECEIPT_TYPE.replace('"b"', '"c"'))], 1),
        (compose_receipt("boss@example.org"), RECEIPT_HEADERS, 1),
        (compose_receipt(kind="text/plain"), RECEIPT_HEADERS, 1),
        (compose_receipt(more="--b\r\nContent-Type: text/html\r\n\r\nBuy!\r\n"), RECEIPT_HEADERS, 1),
        (compose_receipt().replace("text/rfc822-headers", "application/pdf"), RECEIPT_HEADERS, 1),
        (compose_receipt().replace("Disposition: manual", "X: manual"), RECEIPT_HEADERS, 1),
        (compose_receipt(more="x" * 70_000), RECEIPT_HEADERS, 1),
        (compose_receipt(), RECEIPT_HEADERS, 2),
        (compose_receipt(), [("From", "boss@example.org"), *RECEIPT_HEADERS[1:]], 1),
    ],
)
def test_nothing_else_is_sent_without_a_sender(
    new_setup: NewSetup, body: str, headers: Headers, recipients: int
) -> None:
    setup = new_setup(
        freeze={"refused_tries": 2, "foreign_senders": 2, "networks": 2, "new_recipients": 2, "spam_messages": 2}
    )
    assert send_receipt(setup, body, headers, recipients=recipients)[:4] == b"y553"


@pytest.mark.parametrize("parameter", ["*=idna''b", "*=undefined''b", "*=punycode''%ff", "*=\t''b"])
def test_a_boundary_that_python_cannot_read_is_refused(new_setup: NewSetup, parameter: str) -> None:
    """An exception ended the connection, and Postfix told the account to try again later, for days."""
    content_type = RECEIPT_TYPE.replace('="b"', parameter)
    headers = [*RECEIPT_HEADERS[:2], ("Content-Type", content_type)]
    assert send_receipt(new_setup(), compose_receipt(), headers)[:4] == b"y553"


def test_the_body_of_a_message_with_a_sender_is_not_read(new_setup: NewSetup) -> None:
    packets = build_message(ANNA, ANNA, [("From", ANNA)])
    replies = exchange_packets(open_session(new_setup()), *packets, build_packet(b"B", "x" * 60_000), END)
    assert replies == [b"c", b"s", b"c"]


REDIRECT: Headers = [
    ("Resent-From", ANNA),
    ("Resent-To", "colleague@example.net"),
    ("From", "Stranger <s@example.net>"),
    ("Sender", "list@example.net"),
]


def test_a_redirect_keeps_its_author(new_setup: NewSetup) -> None:
    setup = new_setup()
    assert send_message(open_session(setup), REDIRECT)[-1] == b"c"
    again = [("Resent-From", "sales@example.org"), ("Resent-From", "first@example.net"), *REDIRECT[2:]]
    assert send_message(open_session(setup), again)[-1] == b"c"


@pytest.mark.parametrize(
    "headers",
    [
        [("Resent-From", "other@example.net"), *REDIRECT[2:]],
        [("Resent-From", "bert@example.org"), *REDIRECT[2:]],
        [("Resent-From", "x, anna@example.org"), *REDIRECT[2:]],
        [("Resent-From", "other@example.net"), ("Resent-From", ANNA), *REDIRECT[2:]],
        [("Resent-Sender", ANNA), *REDIRECT[2:]],
        [("Resent-From", ""), *REDIRECT[2:]],
        [("Resent-From", ANNA), ("From", "bert@example.org")],
        [("Resent-From", ANNA), ("From", "=?utf-8?q?bert=40example=2Eorg?= <s@example.net>")],
        [("Resent-From", ANNA), ("From", "boss@example.org <s@example.net>")],
        [("Resent-From", ANNA), ("From", "boss@www.example.org")],
        [("Resent-From", ANNA), ("From", "s@example.net"), ("Sender", "bert@example.org")],
        [("Resent-From", ANNA), ("From", "s@example.net"), ("From", "t@example.net")],
        [("Resent-From", ANNA), ("From", "s@example.net\0")],
        [("Resent-From", ANNA)],
    ],
)
def test_a_redirect_shows_nobody_of_this_server_and_is_the_login_s_own(new_setup: NewSetup, headers: Headers) -> None:
    assert send_message(open_session(new_setup()), headers)[-1][:4] == b"y553"


@pytest.mark.slow
def test_receipts_and_redirects_are_few_even_after_a_restart_and_then_freeze(new_setup: NewSetup) -> None:
    limits = {"refused_tries": 3, "foreign_senders": 2, "networks": 2, "new_recipients": 2, "spam_messages": 2}
    setup = new_setup(freeze=limits)
    answers = [send_message(open_session(setup), REDIRECT)[-1][:4] for _ in range(19)]
    setup.restart()
    setup.judge.freezer.write_freezes(setup.now)
    answers += [send_message(open_session(setup), REDIRECT)[-1][:4] for _ in range(2)]
    assert answers == [b"c"] * 20 + [b"y450"]
    assert send_message(open_session(setup), [("From", ANNA)])[-1] == b"c"
    setup.advance_clock(24 * HOUR)
    assert send_message(open_session(setup), REDIRECT)[-1] == b"c"
    receipts = [send_receipt(setup, compose_receipt(), queue_id=f"R{n}")[:4] for n in range(53)]
    assert receipts == [b"c"] * 50 + [b"y450"] * 2 + [b"y521"]
    assert list(setup.freeze_reasons()) == [ANNA]


def end_message(session: MilterSession, queue_id: str) -> list[bytes]:
    """The packets that answer the end of a message of Anna's."""
    exchange_packets(session, *build_message(ANNA, ANNA, [("From", ANNA)], queue_id))
    return split_packets(session.answer_packet(b"E"))[0]


def test_mail_to_strangers_is_put_on_hold_and_accepted(new_setup: NewSetup) -> None:
    setup = new_setup()
    session = open_session(setup)
    assert end_message(session, "Q6") == [b"c"]
    setup.database.change("DELETE FROM recipients")
    setup.judge.strangers._store.set_hold(Hold(ANNA, setup.now, OUTCOMES, "", "", "of 20 \u2026"))
    assert end_message(session, "Q7") == [b"qmail to strangers is on hold: of 20 ?\0", b"c"]
    assert [entry["queue_id"] for entry in setup.judge.strangers.list_held(setup.now)] == ["Q7"]
    setup.judge.strangers.release(setup.now, ANNA)
    assert end_message(session, "Q8") == [b"c"]


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ([], NAMELESS),
        ([("User-Agent", "Mozilla Thunderbird")], "mozilla thunderbird"),
        ([("X-MAILER", "Pine")], "pine"),
    ],
)
def test_the_program_s_name_and_greeting_are_learned(new_setup: NewSetup, headers: Headers, name: str) -> None:
    setup = new_setup()
    request = PolicyRequest(ANNA, "192.0.2.1", "i1", recipients=1, queue_id="Q1", greeting="pc.example.com", size=900)
    assert setup.judge.judge_message(setup.now, request) == DUNNO
    send_message(open_session(setup), [("From", ANNA), *headers], queue_id="Q1")
    habits = setup.judge.strangers._store.load_habits(ANNA)
    assert list(habits.names) == [name]
    assert list(habits.greetings) == ["a name in example.com"]
    assert habits.sizes[0] == 1


@pytest.mark.parametrize(("login", "service"), [(ANNA, FORWARD), (ANNA, ANSWER), ("", LOCAL)])
def test_what_rules_and_programs_send_is_not_held(new_setup: NewSetup, login: str, service: str) -> None:
    setup = new_setup()
    setup.judge.strangers._store.set_hold(Hold(ANNA, setup.now, OUTCOMES, "", "", "x"))
    packets = build_message(login, ANNA, [("From", ANNA)])
    macros = build_packet(b"DM", "{auth_authen}", login, "{daemon_name}", service)
    session = open_session(setup)
    exchange_packets(session, macros, *packets[1:])
    assert split_packets(session.answer_packet(b"E"))[0] == [b"c"]
    assert setup.judge.strangers.list_held(setup.now) == []
