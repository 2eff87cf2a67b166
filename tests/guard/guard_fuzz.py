"""Malformed requests for a running guard, by seed."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator

from guard_samples import (
    ANNA,
    BERT,
    FREEZE,
    LIMITS,
    NO_LIMITS,
    OFFER,
    GuardProcess,
    ask_guard,
    build_macros,
    build_message,
    build_packet,
    build_request,
)

from mailkeep_server.guard.policy import DUNNO

PER_CONNECTION = 4
"""Requests. The first that is too malformed ends the connection, and the rest is not read."""
CHECK_INTERVAL = 1000
MAX_MEMORY = 120_000_000
NASTY_VALUES = (
    *(
        b"",
        b"\0",
        b"\n",
        b"\n\n",
        b"\r\n",
        b"=",
        b"%",
        b"%s%n",
        b"\xff",
        b"\xc3\x28",
        "\ud800".encode(errors="surrogatepass"),
    ),
    *(
        b"-1",
        b"0",
        b"9" * 400,
        b"1e9",
        b" 1",
        b"0x1",
        "\u0661".encode(),
        b"'; DROP TABLE sent; --",
        b"../../etc/passwd",
    ),
    *(
        b"A" * 300,
        b"A" * 17_000,
        b"<>",
        b"<" * 50,
        b"(" * 300,
        b"@",
        b"=?utf-8?q?=00?=",
        b"=?x?b?!?=",
        "\ufdfa".encode() * 40,
    ),
)

READ_LINES = (b"request=", b"protocol_state=", b"sasl_username=", b"client_a", b"instance=", b"recipient", b"queue_id=")
"""The lines that the guard reads: broken more often than the others."""

MODES = (
    {"mode": "enforce", "limits": NO_LIMITS},
    # Over every limit at every request: refusals, freezes and notices are walked through as well.
    {
        "mode": "learn",
        "accounts": {ANNA: {"addresses": [], "limits": dict.fromkeys(LIMITS, 1)}, BERT: {"addresses": []}},
        "limits": NO_LIMITS,
        "freeze": FREEZE,
    },
)


class Fuzzer:
    """Sends malformed requests, and checks the guard after each connection."""

    def __init__(self, guard: GuardProcess, seed: int) -> None:
        self._guard, self._random = guard, random.Random(seed)  # noqa: S311
        self.requests = self.ended = self._accepted = self._log_position = 0

    def send_requests(self, requests: int, report: Callable[[int], None] = lambda _: None) -> None:
        """Raises AssertionError with the last requests when a check of the guard fails."""
        while self.requests < requests:
            kind = self._random.choice(("policy", "milter"))
            cases = list(self._break_requests() if kind == "policy" else self._break_packets())
            try:
                self._send_cases(kind, cases)
                self._check_guard(thoroughly=self.requests % CHECK_INTERVAL < PER_CONNECTION)
            except (AssertionError, OSError) as error:
                log = self._guard.log.read_text()[-2000:]
                raise AssertionError(f"after {kind} {cases!r}: {error}\n{log}") from error
            if self.requests % (100 * CHECK_INTERVAL) < len(cases):
                report(self.requests)

    def _send_cases(self, kind: str, cases: list[bytes]) -> None:
        with self._guard.open_connection(kind) as client:
            try:
                for case in cases:
                    self.requests += 1
                    cut = self._random.randrange(len(case) + 1) if self._random.random() < 0.2 else 0
                    client.sendall(case[:cut])
                    client.sendall(case[cut:])
                if self._random.random() < 0.5:
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):
                        pass
            except ConnectionError:
                self.ended += 1

    def _check_guard(self, thoroughly: bool) -> None:
        with self._guard.open_connection() as honest:
            assert ask_guard(honest, build_request(account=BERT)) == DUNNO, "an honest request is refused"
        self._accepted += 1
        if thoroughly:
            assert self._guard.usage_of(BERT) == self._accepted, "the count of honest messages is wrong"
            with self._guard.log.open() as log:
                log.seek(self._log_position)
                assert "Traceback" not in log.read(), "the guard's log has a traceback"
                self._log_position = log.tell()
            assert self._guard.read_memory() < MAX_MEMORY, "it has grown"

    # --- malformed requests -------------------------------------------------------------------------------------------

    def _break_requests(self) -> Iterator[bytes]:
        for _ in range(PER_CONNECTION):
            state = self._random.choice(("RCPT", "DATA", "END-OF-MESSAGE", "VRFY"))
            yield self._break_data(build_request(state, recipient="friend@example.net"), b"\n")

    def _break_packets(self) -> Iterator[bytes]:
        headers = [("From", self._break_data(ANNA.encode(), b"@")), ("Sender", self._random.choice(NASTY_VALUES))]
        packets = [
            OFFER,
            *build_message(ANNA, ANNA, headers),
            build_packet(b"E"),
            build_macros(b"R", queue_id="Q"),
            build_packet(b"A"),
            build_packet(b"Q"),
        ]
        for packet in self._random.choices(packets[1:], k=PER_CONNECTION - 1):
            yield packets[0] if self._random.random() < 0.05 else self._break_packet(packet)

    def _break_packet(self, packet: bytes) -> bytes:
        """Half of them keep a right length, so that the guard reads on."""
        if self._random.random() < 0.5:
            data = self._break_data(packet[4:], b"\0")
            return struct.pack("!I", len(data)) + data
        return self._break_data(packet, b"\0")

    def _break_data(self, data: bytes, separator: bytes) -> bytes:
        method = self._random.randrange(7)
        place = self._random.randrange(len(data) + 1)
        if method == 0:
            return data
        if method == 1:
            return data[:place]
        if method == 2:
            return data[:place] + self._random.choice(NASTY_VALUES) + data[place:]
        if method == 3:
            return data[:place] + self._random.randbytes(self._random.randrange(1, 40)) + data[place + 1 :]
        return self._break_piece(data.split(separator), separator, method)

    def _break_piece(self, pieces: list[bytes], separator: bytes, method: int) -> bytes:
        read = [number for number, piece in enumerate(pieces) if piece.startswith(READ_LINES)]
        number = self._random.choice(read or range(len(pieces)))
        if method == 4:
            del pieces[number]
        elif method == 5:
            pieces.insert(number, self._random.choice(pieces))
        else:
            name, sign, _ = pieces[number].partition(b"=")
            pieces[number] = name + sign + self._random.choice(NASTY_VALUES)
        return separator.join(pieces)
