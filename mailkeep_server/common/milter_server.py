"""The milter protocol, version 6, as Postfix speaks it (MILTER_README, Sendmail's libmilter/mfdef.h): packets, and a
server for it with a thread for each connection.

A packet has a length of 4 bytes, a command of one byte, and data.
"""

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

MAX_PACKET_BYTES = 1 << 17
"""Postfix sends a header line in one packet, and bounds it by header_size_limit (102,400)."""
VERSION = 6
CONTINUE = b"c"
NEGOTIATION = b"O"
CLIENT = "{client_addr}"
"""The macro with the client's IP address."""
OFFER = struct.pack("!IcIII", 13, NEGOTIATION, VERSION, 0x1FF, 0x1FFFFF)
"""What Postfix says first: it lets a milter change everything, and leaves everything out on demand."""
ANSWER_TO_OFFER = NEGOTIATION + struct.pack("!I", VERSION)
"""How a milter's answer to that begins, after its length."""
SESSION_TIMEOUT = 3600.0
"""Seconds. Postfix says nothing while a message arrives, which takes long over a slow line."""
MAX_IDLE = 100.0
"""Seconds. As Postfix's own processes (max_idle), a milter ends when nobody has used it for that long."""
LOOKS = 20
"""How often a milter looks in that time whether it is idle: more often than the watch asks it, every 20 seconds."""


class ProtocolError(Exception):
    """Not a packet of Postfix's."""


AnswerPacket = Callable[[bytes], Iterator[bytes]]
"""Of one connection of Postfix's, for one message after another: gives the packets to answer a packet with; none where
Postfix waits for none. Raises ProtocolError."""


def split_packets(buffer: bytes) -> tuple[list[bytes], bytes]:
    """The complete packets in what has arrived so far, and the rest. Raises ProtocolError."""
    packets, start = [], 0
    while len(buffer) >= start + 4:
        (length,) = struct.unpack_from("!I", buffer, start)
        if not 0 < length <= MAX_PACKET_BYTES:
            raise ProtocolError(f"a packet of {length} bytes")
        if len(buffer) < start + 4 + length:
            break
        packets.append(buffer[start + 4 : start + 4 + length])
        start += 4 + length
    return packets, buffer[start:]


def first_address(data: bytes) -> str:
    """Of MAIL and RCPT: the address without its brackets."""
    return [*split_words(data), ""][0].removeprefix("<").removesuffix(">")


def split_words(data: bytes) -> list[str]:
    """Strings that each end with a NUL."""
    return data.decode(errors="replace").split("\0")[:-1]


def read_macros(data: bytes) -> dict[str, str]:
    """By name. Postfix has `IPv6:` before a client's IPv6 address (RFC 5321 section 4.1.3); here it is gone."""
    words = split_words(data[1:])
    macros = dict(zip(words[::2], words[1::2], strict=False))
    if CLIENT in macros:
        macros[CLIENT] = macros[CLIENT].removeprefix("IPv6:")
    return macros


def answer_negotiation(data: bytes, actions: int, protocol: int, wishes: int = 0) -> bytes:
    """The packet that agrees on what a milter may change, and on what Postfix leaves out. `wishes` are options that it
    can do without. Raises ProtocolError where Postfix offers less than it needs."""
    if len(data) < 12:
        raise ProtocolError("a short negotiation")
    version, allowed, offered = struct.unpack_from("!III", data)
    if version < VERSION or actions & ~allowed or protocol & ~offered:
        raise ProtocolError(f"version {version} with actions {allowed:#x} and protocol {offered:#x}")
    return NEGOTIATION + struct.pack("!III", VERSION, actions, protocol | (offered & wishes))


def format_refusal(text: str) -> bytes:
    """The packet with the reply that the client gets. A percent sign is written twice (libmilter, smfi_setreply)."""
    return b"y" + text.replace("%", "%%").encode("ascii", "replace") + b"\0"


class MilterServer:
    """A thread for each connection, `max_connections` at most: more wait for their turn."""

    def __init__(self, begin_session: Callable[[], AnswerPacket], name: str, max_connections: int) -> None:
        self.begin_session, self.name = begin_session, name
        self.slots = threading.Semaphore(max_connections)
        self.threads: list[threading.Thread] = []
        self.last_use = time.monotonic()

    def serve(self, listener: socket.socket) -> None:
        """Until it is idle. What comes after that waits at the socket: only what is served is accepted."""
        listener.settimeout(MAX_IDLE / LOOKS)
        while not self._is_idle():
            self.slots.acquire()
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                self.slots.release()
                continue
            thread = threading.Thread(target=self._serve_connection, args=(connection,), daemon=True)
            self.threads = [*filter(threading.Thread.is_alive, self.threads), thread]
            thread.start()

    def _is_idle(self) -> bool:
        """Nobody is connected. Who only greets, as the watch does, has not used it."""
        is_connected = any(thread.is_alive() for thread in self.threads)
        return not is_connected and time.monotonic() - self.last_use >= MAX_IDLE

    def _serve_connection(self, connection: socket.socket) -> None:
        """Until Postfix closes it. Whatever goes wrong, Postfix does what `default_action` of this milter says."""
        answer_packet, buffer = self.begin_session(), b""
        with connection:
            try:
                connection.settimeout(SESSION_TIMEOUT)
                while data := connection.recv(1 << 17):
                    packets, buffer = split_packets(buffer + data)
                    for packet in packets:
                        if packet[:1] != NEGOTIATION:
                            self.last_use = time.monotonic()
                        for reply in answer_packet(packet):
                            connection.sendall(struct.pack("!I", len(reply)) + reply)
            except (OSError, ProtocolError, MemoryError) as error:
                print(f"{self.name}: {error!r}", file=sys.stderr)
            finally:
                self.slots.release()


def serve_systemd_socket(begin_session: Callable[[], AnswerPacket], name: str, max_connections: int) -> int:
    """Until it is idle, on the socket that systemd has opened (sd_listen_fds(3)), and that stays open. systemd starts
    the program again with the next connection (systemd.socket(5))."""
    if os.environ.get("LISTEN_FDS") != "1":
        print(f"{name}: systemd starts it, by its socket", file=sys.stderr)
        return 2
    with socket.socket(fileno=3) as listener:
        MilterServer(begin_session, name, max_connections).serve(listener)
    return 0
