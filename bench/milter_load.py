"""Sends a message of each of so many accounts through the guard's milter, as Postfix does.

So each gets a model of what is usual for it. Runs on the server, after `policy_load` has counted the messages.

    python3 milter_load.py SOCKET ACCOUNTS
"""

import socket
import struct
import sys
from typing import BinaryIO

OFFER = struct.pack("!IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF)
"""What Postfix offers."""


def main(path: str, accounts: int) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(OFFER)
        with connection.makefile("rb") as replies:
            read_packet(replies)
            for number in range(accounts):
                connection.sendall(write_message(number))
                answers = read_packet(replies), read_packet(replies)  # to MAIL, and to the end
                if answers != (b"c", b"c"):
                    raise SystemExit(f"message {number}: {answers}")


def write_message(number: int) -> bytes:
    """To two strangers, as a phone writes it."""
    account, network = f"n{number}@example.test", f"192.0.{number % 250}.7"
    headers = {
        "From": account,
        "Content-Type": "text/plain",
        "Mime-Version": "1.0 (1.0)",
        "Date": "Mon, 5 Jan 2026 10:00:00 +0100",
        "Subject": "Hello",
        "Message-Id": f"<{number}@example.test>",
        "To": "friend@example.net",
        "X-Mailer": "iPhone Mail (21A329)",
    }
    return b"".join(
        (
            write_packet(b"DM", "{auth_authen}", account, "{client_addr}", network),
            write_packet(b"M", f"<{account}>"),
            write_packet(b"DR", "i", f"4dGk{number}z"),
            *(write_packet(b"R", f"<r{number}.{other}@example.net>") for other in range(2)),
            *(write_packet(b"L", name, value) for name, value in headers.items()),
            write_packet(b"E"),
        )
    )


def write_packet(command: bytes, *words: str) -> bytes:
    data = command + b"".join(word.encode() + b"\0" for word in words)
    return struct.pack("!I", len(data)) + data


def read_packet(replies: BinaryIO) -> bytes:
    (length,) = struct.unpack("!I", replies.read(4))
    return replies.read(length)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
