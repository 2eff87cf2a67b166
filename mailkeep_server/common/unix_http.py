"""The client of the guard's control socket: HTTP/1.0 over a Unix-domain socket.

http.client would cost the watch several MB of memory, for one request each second.
"""

import socket

MAX_ANSWER_BYTES = 4 << 20


def get_body(socket_path: str, target: str, timeout: float) -> bytes:
    """The body of the answer to `GET target`. `timeout` bounds each step, in seconds.

    Raises OSError if nobody answers in time. Raises ValueError for an answer that is not HTTP, has another status
    than 200, or is longer than MAX_ANSWER_BYTES.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(socket_path)
        connection.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        answer = _read_all(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].decode(errors="replace")
    if " 200" not in status:
        raise ValueError(status or "the connection was closed without an answer")
    return body


def _read_all(connection: socket.socket) -> bytes:
    answer = bytearray()
    while piece := connection.recv(65536):
        answer += piece
        if len(answer) > MAX_ANSWER_BYTES:
            raise ValueError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(answer)
