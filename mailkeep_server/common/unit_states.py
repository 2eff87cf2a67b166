"""The states of systemd units, asked in systemd's own protocol: `systemctl show` costs a hundred times as much.

The manager answers at a socket of its own, which only root may use (org.freedesktop.systemd1(5), ListUnitsByNames). The
messages are those of the D-Bus specification, version 0.43, sections "Message Protocol" and "Authentication Protocol".
"""

import os
import socket
import struct
from collections.abc import Callable, Sequence

SOCKET = "/run/systemd/private"
ANSWER_TIMEOUT = 5.0  # seconds
MAX_ANSWER = 2**20  # bytes
MIN_NAMES = 512
"""Bytes. While it waits for the login, sd-bus reads 256 of them (bus_socket_read_auth in its sources). A call within
these has no answer until more comes. So the names of few units are sent several times."""
_METHOD_CALL, _METHOD_RETURN, _SIGNAL = 1, 2, 4
_PATH, _INTERFACE, _MEMBER, _DESTINATION, _SIGNATURE = 1, 2, 3, 6, 8
_TEXTS_BEFORE_STATE, _TEXTS_AFTER_STATE = 2, 3  # in a unit's entry, between its name and its object path


def read_active_states(units: Sequence[str], path: str = SOCKET) -> dict[str, str]:
    """ActiveState by unit. Raises OSError if systemd does not answer, or not with the states."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_TIMEOUT)
        connection.connect(path)
        user = str(os.geteuid()).encode().hex()
        connection.sendall(f"\0AUTH EXTERNAL {user}\r\nBEGIN\r\n".encode() + _build_call(units))
        with connection.makefile("rb") as answers:
            if not answers.readline().startswith(b"OK "):
                raise PermissionError(f"{path}: systemd refuses this user")
            kind = _SIGNAL
            while kind == _SIGNAL:  # systemd sends its signals to everybody
                kind, order, body = _read_message(answers.read)
    if kind != _METHOD_RETURN:
        raise OSError(f"{path}: systemd answers with an error")
    try:
        return _Body(body, order).read_states()
    except (struct.error, UnicodeDecodeError) as error:
        raise OSError(f"{path}: the answer cannot be read: {error}") from None


def _build_call(units: Sequence[str]) -> bytes:
    names = b""
    for unit in [*units] * (1 + MIN_NAMES // max(1, sum(map(len, units)))):
        names += _pad(names, 4) + _pack_text(unit)
    body = struct.pack("<I", len(names)) + names
    fields = b""
    for code, kind, value in (
        (_PATH, b"o", "/org/freedesktop/systemd1"),
        (_DESTINATION, b"s", "org.freedesktop.systemd1"),
        (_INTERFACE, b"s", "org.freedesktop.systemd1.Manager"),
        (_MEMBER, b"s", "ListUnitsByNames"),
    ):
        fields += _pad(fields, 8) + bytes([code, 1]) + kind + b"\0" + _pack_text(value)
    fields += _pad(fields, 8) + bytes([_SIGNATURE, 1]) + b"g\0" + b"\2as\0"
    header = struct.pack("<cBBBIII", b"l", _METHOD_CALL, 0, 1, len(body), 1, len(fields)) + fields
    return header + _pad(header, 8) + body


def _pack_text(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode() + b"\0"


def _pad(data: bytes, size: int) -> bytes:
    return bytes(-len(data) % size)


def _read_message(read: Callable[[int], bytes]) -> tuple[int, str, bytes]:
    """Its kind, the byte order for struct, and its body. Raises OSError if there is none."""
    start = read(16)
    if len(start) < 16:
        raise ConnectionError("systemd has closed the connection")
    order = "<" if start[:1] == b"l" else ">"
    length, _, fields_length = struct.unpack(f"{order}III", start[4:])
    if length + fields_length > MAX_ANSWER:
        raise OSError(f"systemd's answer has more than {MAX_ANSWER} bytes")
    read(fields_length + -fields_length % 8)
    return start[1], order, read(length)


class _Body:
    """Of the answer to ListUnitsByNames, whose signature is a(ssssssouso)."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.at = data, order, 0

    def read_states(self) -> dict[str, str]:
        end = self._read_number()
        self.at += -self.at % 8
        end += self.at
        states = {}
        while self.at < end:
            self.at += -self.at % 8
            name, *_, state = (self._read_text() for _ in range(2 + _TEXTS_BEFORE_STATE))
            for _ in range(_TEXTS_AFTER_STATE):  # sub-state, the followed unit, object path
                self._read_text()
            self._read_number()  # of a job
            self._read_text(), self._read_text()
            states[name] = state
        return states

    def _read_number(self) -> int:
        self.at += -self.at % 4
        (number,) = struct.unpack_from(f"{self.order}I", self.data, self.at)
        self.at += 4
        return int(number)

    def _read_text(self) -> str:
        length = self._read_number()
        start, self.at = self.at, self.at + length + 1
        return self.data[start : start + length].decode()
