"""The guard's milter. `mailkeep_server.common.milter_server` has the protocol.

Unlike a policy service, a milter sees the From: line, and whether the message was accepted in the end. This one
changes nothing in a message, and reads bodies only of messages without a sender. It has Postfix put some messages on
hold. It must be the last in smtpd_milters: once it has accepted a message, no other milter refuses it.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from mailkeep_server.common.message_ids import MAX_IDS, MAX_VALUE, digest_message_ids
from mailkeep_server.common.milter_server import (
    CLIENT,
    CONTINUE,
    ProtocolError,
    answer_negotiation,
    first_address,
    format_refusal,
    read_macros,
)
from mailkeep_server.common.networks import network_of, wide_network_of
from mailkeep_server.common.sender_kinds import ANSWER, BOUNCE, FORWARD, LOCAL
from mailkeep_server.common.spam_header import OUTGOING_HEADER
from mailkeep_server.guard import from_header, receipts
from mailkeep_server.guard.database import RECEIPT, REDIRECT
from mailkeep_server.guard.habits import Source
from mailkeep_server.guard.judge import Judge
from mailkeep_server.guard.mail_program import (
    MAX_NAMES,
    NAMELESS,
    describe_program,
    names_program,
    read_name,
    shapes_program,
)
from mailkeep_server.guard.strangers import Verdict

_NO_CONNECT, _NO_HELO, _NO_END_OF_HEADER, _NO_UNKNOWN, _NO_DATA = 0x1, 0x2, 0x40, 0x100, 0x200
_SKIPPED_COMMANDS = _NO_CONNECT | _NO_HELO | _NO_END_OF_HEADER | _NO_UNKNOWN | _NO_DATA
_SKIP_EVENT = 0x400
_NO_HEADER_REPLY, _NO_RECIPIENT_REPLY, _LEADING_SPACE = 0x80, 0x8000, 0x100000
# Postfix blocks on every reply, so ask for few. MAIL must have one: without it Postfix would hold the command back
# until the next.
_PROTOCOL = _SKIPPED_COMMANDS | _SKIP_EVENT | _NO_HEADER_REPLY | _NO_RECIPIENT_REPLY
_TEMPORARY_FAILURE, _SKIP, _QUARANTINE = b"t", b"s", b"q"
_MAY_QUARANTINE = 0x20
"""Postfix then puts the message on hold (MILTER_README)."""
_LOGIN, _QUEUE_ID, _SERVICE = "{auth_authen}", "i", "{daemon_name}"
_KINDS = {kind: kind for kind in (FORWARD, BOUNCE, ANSWER)}
"""By milter_macro_daemon_name of master.cf's services, what a message is that no person sends; else LOCAL."""


@dataclass(slots=True)
class _Message:
    """The message in transfer."""

    login: str = ""
    queue_id: str = ""
    kind: str = LOCAL
    """What it is if no person sends it. FORWARD and ANSWER have a login, too: the account whose script sends it."""
    recipients: set[str] = field(default_factory=set)
    client: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    """The lines that name authors."""
    shape: list[str] = field(default_factory=list)
    """Names of headers by which mail programs differ."""
    program: str = NAMELESS
    message_ids: list[str] = field(default_factory=list)
    """The values of the first MAX_IDS headers Message-ID."""
    has_sender: bool = True
    is_spam: bool = False
    """Whether the spam filter is sure. It is asked before, about messages of logins only."""
    content_type: str = ""
    body: bytes = b""
    """Its beginning; empty if it has a sender."""


class MilterSession:
    """One connection of Postfix's, for one message after another."""

    def __init__(self, judge: Judge, read_clock: Callable[[], int]) -> None:
        self._judge, self._read_clock = judge, read_clock
        self._message = _Message()
        self._macros: dict[str, str] = {}

    def answer_packet(self, packet: bytes) -> bytes:
        """The packets to answer with; empty where Postfix waits for none. Raises ProtocolError."""
        handler = _COMMANDS.get(packet[:1])
        if handler is None:
            raise ProtocolError(f"command {packet[:1]!r}")
        reply = handler(self, packet[1:])
        replies = (reply,) if isinstance(reply, bytes) else reply or ()
        return b"".join(struct.pack("!I", len(reply)) + reply for reply in replies)

    def end_session(self) -> None:
        """The connection is gone."""
        self._abort_message()

    def _negotiate(self, data: bytes) -> bytes:
        return answer_negotiation(data, _MAY_QUARANTINE, _PROTOCOL, _LEADING_SPACE)

    def _take_macros(self, data: bytes) -> None:
        """Macros come before the command whose letter they begin with. Those of MAIL begin a message."""
        macros = read_macros(data)
        before = {} if data[:1] == b"M" else self._macros
        names = (_LOGIN, _QUEUE_ID, CLIENT, _SERVICE)
        self._macros = before | {name: macros[name] for name in names if name in macros}

    def _take_sender(self, data: bytes) -> bytes:
        self._abort_message()
        login = self._macros.get(_LOGIN, "").lower()
        address = first_address(data)
        self._message = _Message(
            login=login,
            kind=_KINDS.get(self._macros.get(_SERVICE, ""), LOCAL),
            client=self._macros.get(CLIENT, ""),
            has_sender=bool(address),
        )
        # The empty sender is that of a read receipt, which is judged when all of it is there.
        if login and address and not self._is_by_script and not self._judge.owns_address(login, address):
            return self._reject_sender(address) or CONTINUE
        return CONTINUE

    def _take_recipient(self, data: bytes) -> None:
        self._message.recipients.add(first_address(data))
        self._message.queue_id = self._macros.get(_QUEUE_ID, "")

    def _take_header(self, data: bytes) -> None:
        name, _, value = data.removesuffix(b"\0").decode("utf-8", "surrogateescape").partition("\0")
        headers, kind = self._message.headers, name.strip().lower()
        if shapes_program(name) and len(self._message.shape) < MAX_NAMES:
            self._message.shape.append(name)
        if names_program(name):
            self._message.program = read_name(value)
        if name.lower() == OUTGOING_HEADER.lower():
            self._message.is_spam = True
        if kind == "message-id" and len(self._message.message_ids) < MAX_IDS:
            self._message.message_ids.append("".join(value.split())[:MAX_VALUE])
        if not self._message.has_sender and kind == "content-type":
            self._message.content_type = " ".join(value.split())[: from_header.MAX_LENGTH]
        if kind in from_header.AUTHOR_HEADERS and from_header.total_length(headers) <= from_header.MAX_LENGTH:
            headers.append((name.strip(), value.strip(" \t\r\n")[: from_header.MAX_LENGTH + 1]))

    def _take_body(self, data: bytes) -> bytes:
        """Postfix sends no more of the body of a message with a sender, or of a script's."""
        if self._message.has_sender or not self._message.login or self._is_by_script:
            return _SKIP
        self._message.body += data
        return _SKIP if len(self._message.body) > receipts.MAX_BYTES else CONTINUE

    def _end_message(self, _data: bytes) -> bytes | tuple[bytes, ...]:
        self._message.queue_id = self._macros.get(_QUEUE_ID, self._message.queue_id)
        if refusal := self._find_refusal() or self._find_spam_refusal():
            self._abort_message()
            return refusal
        message, verdict = self._message, self._judge_strangers()
        if refusal := self._refuse(verdict.refusal):
            self._abort_message()
            return refusal
        if message.login and not self._is_by_script:
            digests = digest_message_ids(message.message_ids)
            self._judge.complaints.note_message(self._read_clock(), message.login, message.queue_id, digests)
        if not verdict.hold:
            self._judge.ledger.message_accepted(message.queue_id)
        self._message = _Message()
        return (_QUARANTINE + verdict.hold.encode("ascii", "replace") + b"\0", CONTINUE) if verdict.hold else CONTINUE

    def _judge_strangers(self) -> Verdict:
        """Strangers set off a script, and programs on the server are nobody's account."""
        message = self._message
        if not message.login or self._is_by_script:
            return Verdict()
        network, wide_network = network_of(message.client), wide_network_of(message.client)
        source = Source(network, wide_network, describe_program(message.shape), message.program)
        return self._judge.strangers.judge_message(
            self._read_clock(), message.login, message.recipients, message.queue_id, source
        )

    def _find_refusal(self) -> bytes | None:
        message, login = self._message, self._message.login
        if self._is_by_script:
            return self._refuse(self._find_script_refusal())
        if not login:
            judge = self._judge.forwards
            refusal = judge.judge_forward(self._read_clock(), message.kind, message.recipients, message.queue_id)
            return _TEMPORARY_FAILURE if refusal else None
        authors = from_header.judge_authors(message.headers, self._judge.owner_of(login))
        if authors.names_other:
            return self._reject_sender(authors.fault)
        if fault := authors.fault or self._find_receipt_fault():
            return self._refuse(self._judge.refuse_message(self._read_clock(), login, fault, message.client))
        kind = RECEIPT if not message.has_sender else REDIRECT if authors.is_redirect else ""
        if not kind:
            return None
        count = len(self._judge.config.reach.expand_all(message.recipients))
        return self._refuse(
            self._judge.judge_exception(self._read_clock(), login, kind, count, message.queue_id, message.client)
        )

    def _find_spam_refusal(self) -> bytes | None:
        """A script sends on what strangers wrote."""
        message = self._message
        if not (message.is_spam and message.login) or self._is_by_script:
            return None
        return self._refuse(self._judge.judge_spam(self._read_clock(), message.login, message.client))

    @property
    def _is_by_script(self) -> bool:
        return bool(self._message.login) and self._message.kind in (FORWARD, ANSWER)

    def _find_script_refusal(self) -> str | None:
        """A redirected message keeps its author. An answer is signed, so its author is the account."""
        message, login = self._message, self._message.login
        if message.kind == ANSWER:
            authors = from_header.judge_authors(message.headers, self._judge.owner_of(login))
            if fault := authors.fault or ("Resent-From" if authors.is_redirect else ""):
                return f"553 5.7.1 The rules of {login} answer as somebody else: {fault}"
        return self._judge.scripts.judge_message(
            self._read_clock(), login, message.kind, message.recipients, message.queue_id
        )

    def _find_receipt_fault(self) -> str:
        message = self._message
        if message.has_sender:
            return ""
        owns_address = partial(self._judge.owns_address, message.login)
        return receipts.find_fault(message.content_type, message.body, len(message.recipients), owns_address)

    def _abort_message(self, _data: bytes = b"") -> None:
        if self._message.queue_id:
            self._judge.ledger.message_dropped(self._message.queue_id)
        self._message = _Message()

    def _reject_sender(self, sender: str) -> bytes | None:
        login, client = self._message.login, self._message.client
        return self._refuse(self._judge.reject_unowned_sender(self._read_clock(), login, sender, client))

    @staticmethod
    def _refuse(refusal: str | None) -> bytes | None:
        return format_refusal(refusal) if refusal else None


_COMMANDS: dict[bytes, Callable[[MilterSession, bytes], bytes | tuple[bytes, ...] | None]] = {
    b"O": MilterSession._negotiate,
    b"D": MilterSession._take_macros,
    b"M": MilterSession._take_sender,
    b"R": MilterSession._take_recipient,
    b"L": MilterSession._take_header,
    b"B": MilterSession._take_body,
    b"E": MilterSession._end_message,
    b"A": MilterSession._abort_message,
    b"Q": MilterSession._abort_message,
    b"K": MilterSession._abort_message,
}
