"""One deadline for a whole exchange over a socket: `settimeout` alone bounds each step of it.

Deadlines are monotonic seconds.
"""

import socket
import time


def limit_next_step(client: socket.socket, deadline: float) -> None:
    """The next step of this socket ends before the deadline. Raises TimeoutError after it."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("timed out")
    client.settimeout(remaining)


def receive_bytes(client: socket.socket, length: int, deadline: float) -> bytes:
    """So many bytes, or fewer if the other side closes. Raises OSError; TimeoutError after the deadline."""
    data = bytearray()
    while len(data) < length:
        limit_next_step(client, deadline)
        if not (more := client.recv(length - len(data))):
            break
        data += more
    return bytes(data)
