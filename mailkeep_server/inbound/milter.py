"""The milter of port 25: judges who a message is from, and writes the result into it. It reads bodies, and keeps none.

`mailkeep_server.common.milter_server` has the protocol.
"""

import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mailkeep_server.common.milter_server import (
    CLIENT,
    CONTINUE,
    ProtocolError,
    answer_negotiation,
    first_address,
    format_refusal,
    read_macros,
    serve_systemd_socket,
)
from mailkeep_server.inbound import results_header
from mailkeep_server.inbound.attachments import AttachmentScan
from mailkeep_server.inbound.config import ConfigError, InboundConfig, load_config
from mailkeep_server.inbound.judge import DEFER, JUNK, REFUSE, Arrival, Verdict, judge_arrival
from mailkeep_server.inbound.lookups import Lookups
from mailkeep_server.inbound.signatures import BodyHashes

MAX_CONNECTIONS = 200
MAX_HEADERS = 2000
MAX_HEADER_BYTES = 1 << 18
"""Of all headers. A message with more is refused: what is not read cannot be removed. Others allow no more either, and
150 messages may come at once."""
JUNK_HEADER, REASON_HEADER = b"X-Mailkeep-Junk", b"X-Mailkeep-Junk-Reason"
"""A script that all accounts have (Dovecot's part) files mail with `yes` in the first into Junk. The second is
for people to read."""
_OUR_HEADERS = (JUNK_HEADER.lower(), REASON_HEADER.lower())

_ADD_HEADERS, _CHANGE_HEADERS = 0x1, 0x10
_NO_CONNECT, _NO_RCPT, _NO_UNKNOWN, _NO_DATA, _NO_END_OF_HEADERS = 0x1, 0x8, 0x100, 0x200, 0x40
_SKIPPED = _NO_CONNECT | _NO_RCPT | _NO_UNKNOWN | _NO_DATA | _NO_END_OF_HEADERS
# Postfix blocks on every reply, so ask for few. MAIL must have one: without it Postfix would hold the command back
# until the next.
_NO_HEADER_REPLY, _NO_HELO_REPLY, _NO_BODY_REPLY = 0x80, 0x2000, 0x80000
_LEADING_SPACE = 0x100000
"""Signatures may cover the blanks before a value."""
_PROTOCOL = _SKIPPED | _NO_HEADER_REPLY | _NO_HELO_REPLY | _NO_BODY_REPLY | _LEADING_SPACE
_QUEUE_ID = "i"
_TOO_LARGE = "552 5.3.4 This message has more than 2,000 headers, or more than 256 KiB of them"
_REFUSED_ATTACHMENT = "552 5.7.1 Attachments of the kind .{} are not accepted here. Send a link to the file instead"
_UNSAFE = re.compile(r"[^!-~]")


@dataclass
class _Message:
    """The message in transfer."""

    sender: str = ""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    header_bytes: int = 0
    hashes: BodyHashes | None = None
    """There are some once the headers are complete."""
    attachments: AttachmentScan | None = None
    """Only where some kinds are refused."""


class InboundSession:
    """One connection of Postfix's, for one message after another."""

    def __init__(self, config: InboundConfig, make_lookups: Callable[[], Lookups] = Lookups) -> None:
        self._config, self._make_lookups = config, make_lookups
        self._macros: dict[str, str] = {}
        self._helo = ""
        self._message = _Message()

    def answer_packet(self, packet: bytes) -> Iterator[bytes]:
        """The packets to answer with; none where Postfix waits for none. Raises ProtocolError."""
        command, data = packet[:1], packet[1:]
        if command == b"O":
            yield answer_negotiation(data, _ADD_HEADERS | _CHANGE_HEADERS, _PROTOCOL)
        elif command == b"M":
            self._message = _Message(first_address(data))
            yield CONTINUE
        elif command == b"E":
            self._take_body(data)
            yield from self._end_message()
        elif handler := _SILENT_COMMANDS.get(command):
            handler(self, data)
        else:
            raise ProtocolError(f"command {command!r}")

    def _take_macros(self, data: bytes) -> None:
        self._macros |= read_macros(data)

    def _take_helo(self, data: bytes) -> None:
        self._helo = first_address(data)

    def _forget_message(self, _data: bytes) -> None:
        self._message = _Message()

    def _take_header(self, data: bytes) -> None:
        name, _, value = data.removesuffix(b"\0").partition(b"\0")
        message = self._message
        message.header_bytes += len(data)
        if len(message.headers) < MAX_HEADERS and message.header_bytes <= MAX_HEADER_BYTES:
            message.headers.append((name, value))

    def _take_body(self, data: bytes) -> None:
        if not self._message.hashes:
            self._message.hashes = BodyHashes(self._message.headers)
            if self._config.refused_extensions:
                self._message.attachments = AttachmentScan(self._message.headers)
        self._message.hashes.update(data)
        if self._message.attachments:
            self._message.attachments.update(data)

    def _end_message(self) -> Iterator[bytes]:
        message, self._message = self._message, _Message()
        hashes = message.hashes or BodyHashes(())
        hashes.finish()
        if message.header_bytes > MAX_HEADER_BYTES or len(message.headers) >= MAX_HEADERS:
            yield format_refusal(_TOO_LARGE)
            return
        if refused := self._find_refused(message):
            queue_id = self._macros.get(_QUEUE_ID, "NOQUEUE")
            print(f"{queue_id}: client={self._macros.get(CLIENT, '')} action=refuse(.{refused})", flush=True)
            yield format_refusal(_REFUSED_ATTACHMENT.format(refused))
            return
        signed = [(name, value.replace(b"\n", b"\r\n") + b"\r\n") for name, value in message.headers]
        client = self._macros.get(CLIENT, "")
        arrival = Arrival(client, self._helo, message.sender, signed, hashes)
        verdict = judge_arrival(arrival, self._config, self._make_lookups())
        print(self._format_log(arrival, verdict), flush=True)
        if verdict.action in (DEFER, REFUSE):
            yield format_refusal(verdict.opinion.text)
            return
        yield from self._remove_claims(message)
        yield _insert_header(
            results_header.NAME, results_header.format_results(self._config.host, verdict.list_results())
        )
        if verdict.action == JUNK:
            yield _insert_header(REASON_HEADER, f" {verdict.opinion.text}".encode("ascii", "replace"))
            yield _insert_header(JUNK_HEADER, b" yes")
        yield CONTINUE

    def _find_refused(self, message: _Message) -> str:
        """An extension of an attachment that mail.yml refuses; "" if there is none."""
        extensions = message.attachments.extensions if message.attachments else frozenset()
        return min(extensions & self._config.refused_extensions, default="")

    def _remove_claims(self, message: _Message) -> Iterator[bytes]:
        """What a stranger has written as if we had. The last comes first, as each removal changes the later indexes."""
        counts: dict[bytes, int] = {}
        removals = []
        for name, value in message.headers:
            key = name.strip().lower()
            counts[key] = counts.get(key, 0) + 1
            is_result = key == results_header.NAME.lower()
            text = value.decode("utf-8", "replace") if is_result else ""
            if key in _OUR_HEADERS or (is_result and results_header.claims_identity(text, self._config.host)):
                removals.append(b"m" + struct.pack("!I", counts[key]) + name + b"\0\0")
        yield from reversed(removals)

    def _format_log(self, arrival: Arrival, verdict: Verdict) -> str:
        """One line, whatever a stranger has put into it."""
        opinion, proofs = verdict.opinion, verdict.proofs
        signatures = ",".join(f"{result.result}({result.domain})" for result in proofs.dkim) or "none"
        fields = {
            "client": arrival.client,
            "from": f"<{arrival.sender}>",
            "author": opinion.author,
            "spf": proofs.spf.result,
            "dkim": signatures,
            "dmarc": opinion.result,
            "policy": opinion.published or "none",
            "arc": proofs.arc.result,
            "action": verdict.action + (f"({verdict.note})" if verdict.note else ""),
        }
        words = [f"{name}={_UNSAFE.sub('?', value)[:300]}" for name, value in fields.items()]
        return " ".join([f"{self._macros.get(_QUEUE_ID, 'NOQUEUE')}:", *words])


_SILENT_COMMANDS: dict[bytes, Callable[[InboundSession, bytes], None]] = {
    b"D": InboundSession._take_macros,
    b"H": InboundSession._take_helo,
    b"L": InboundSession._take_header,
    b"B": InboundSession._take_body,
    b"A": InboundSession._forget_message,
    b"K": InboundSession._forget_message,
    b"Q": InboundSession._forget_message,
}


def _insert_header(name: bytes, value: bytes) -> bytes:
    """At the top: nothing that a stranger wrote stands above it."""
    return b"i" + struct.pack("!I", 0) + name + b"\0" + value + b"\0"


def main(arguments: list[str]) -> int:
    """Serves Postfix; `--check` only reads the configuration."""
    try:
        config = load_config()
    except ConfigError as error:
        print(f"inbound: {error}", file=sys.stderr)
        return 1
    if arguments:
        return 0
    return serve_systemd_socket(lambda: InboundSession(config).answer_packet, "inbound", MAX_CONNECTIONS)
