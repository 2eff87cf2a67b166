"""Malformed requests for a running guard, by seed."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator

from guard_samples import ANNA, BERT, FREEZE, LIMITS, NO_LIMITS, OFFER, Daemon, ask, macros, mail, packet, request

from mailkeep_server.guard.policy import DUNNO

PER_CONNECTION = 4
"""The first that is too bad ends the connection, and what follows is not heard."""
BETWEEN_LOOKS = 1000
LARGEST = 120_000_000
NASTY = (
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

READ = (b"request=", b"protocol_state=", b"sasl_username=", b"client_a", b"instance=", b"recipient", b"queue_id=")
"""The lines that the guard looks at: broken more often than the others."""

MODES = (
    {"mode": "enforce", "limits": NO_LIMITS},
    # Over every limit at every request: what is refused, frozen and told is walked through as well.
    {
        "mode": "learn",
        "accounts": {ANNA: {"addresses": [], "limits": dict.fromkeys(LIMITS, 1)}, BERT: {"addresses": []}},
        "limits": NO_LIMITS,
        "freeze": FREEZE,
    },
)


class Fuzz:
    """Sends what nobody should, and looks after the guard."""

    def __init__(self, guard: Daemon, seed: int) -> None:
        self._guard, self._random = guard, random.Random(seed)  # noqa: S311
        self.sent = self.ended = self._accepted = self._read = 0

    def send(self, requests: int, progress: Callable[[int], None] = lambda _: None) -> None:
        """Raises AssertionError with the last that was sent when the guard is not what it was."""
        while self.sent < requests:
            kind = self._random.choice(("policy", "milter"))
            cases = list(self._policy() if kind == "policy" else self._milter())
            try:
                self._deliver(kind, cases)
                self._look(thoroughly=self.sent % BETWEEN_LOOKS < PER_CONNECTION)
            except (AssertionError, OSError) as error:
                raise AssertionError(
                    f"after {kind} {cases!r}: {error}\n{self._guard.log.read_text()[-2000:]}"
                ) from error
            if self.sent % (100 * BETWEEN_LOOKS) < len(cases):
                progress(self.sent)

    def _deliver(self, kind: str, cases: list[bytes]) -> None:
        with self._guard.connect(kind) as client:
            try:
                for case in cases:
                    self.sent += 1
                    cut = self._random.randrange(len(case) + 1) if self._random.random() < 0.2 else 0
                    client.sendall(case[:cut])
                    client.sendall(case[cut:])
                if self._random.random() < 0.5:
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):
                        pass
            except ConnectionError:
                self.ended += 1

    def _look(self, thoroughly: bool) -> None:
        with self._guard.connect() as honest:
            assert ask(honest, request(account=BERT)) == DUNNO, "an honest request is refused"
        self._accepted += 1
        if thoroughly:
            assert self._guard.used(BERT) == self._accepted, "the count of honest messages is wrong"
            with self._guard.log.open() as log:
                log.seek(self._read)
                assert "Traceback" not in log.read(), "an error of its own"
                self._read = log.tell()
            assert self._guard.memory() < LARGEST, "it has grown"

    # --- what is sent -------------------------------------------------------------------------------------------------

    def _policy(self) -> Iterator[bytes]:
        for _ in range(PER_CONNECTION):
            state = self._random.choice(("RCPT", "DATA", "END-OF-MESSAGE", "VRFY"))
            yield self._broken(request(state, recipient="friend@example.net"), b"\n")

    def _milter(self) -> Iterator[bytes]:
        headers = [("From", self._broken(ANNA.encode(), b"@")), ("Sender", self._random.choice(NASTY))]
        packets = [
            OFFER,
            *mail(ANNA, ANNA, headers),
            packet(b"E"),
            macros(b"R", queue_id="Q"),
            packet(b"A"),
            packet(b"Q"),
        ]
        for one in self._random.choices(packets[1:], k=PER_CONNECTION - 1):
            yield packets[0] if self._random.random() < 0.05 else self._broken_packet(one)

    def _broken_packet(self, whole: bytes) -> bytes:
        """Half of them keep a length that is right, to be read further than that."""
        if self._random.random() < 0.5:
            data = self._broken(whole[4:], b"\0")
            return struct.pack("!I", len(data)) + data
        return self._broken(whole, b"\0")

    def _broken(self, whole: bytes, at: bytes) -> bytes:
        way = self._random.randrange(7)
        place = self._random.randrange(len(whole) + 1)
        if way == 0:
            return whole
        if way == 1:
            return whole[:place]
        if way == 2:
            return whole[:place] + self._random.choice(NASTY) + whole[place:]
        if way == 3:
            return whole[:place] + self._random.randbytes(self._random.randrange(1, 40)) + whole[place + 1 :]
        pieces = whole.split(at)
        read = [number for number, piece in enumerate(pieces) if piece.startswith(READ)]
        one = self._random.choice(read or range(len(pieces)))
        if way == 4:
            del pieces[one]
        elif way == 5:
            pieces.insert(one, self._random.choice(pieces))
        else:
            name, sign, _ = pieces[one].partition(b"=")
            pieces[one] = name + sign + self._random.choice(NASTY)
        return at.join(pieces)
