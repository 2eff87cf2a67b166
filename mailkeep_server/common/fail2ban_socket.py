"""Asks the running fail2ban, over its socket, by the protocol of fail2ban-client: a command and its answer, pickled.

fail2ban-client takes a tenth of a second of processor time for each command. The proof of the jails asks fifty.
"""

import io
import pickle
import socket
import time
from contextlib import suppress
from typing import Any

from mailkeep_server.common.deadlines import limit_next_step

SOCKET = "/run/fail2ban/fail2ban.sock"
END = b"<F2B_END_COMMAND>"
CLOSE = b"<F2B_CLOSE_COMMAND>"
MAX_ANSWER = 1 << 24  # bytes
RETRY_SECONDS = 0.05


def ask_fail2ban(*command: str, timeout: float = 30.0, path: str = SOCKET) -> Any:
    """The answer to a command: text, numbers, lists. Raises OSError if fail2ban does not answer within `timeout`
    seconds, and RuntimeError with its words if it refuses."""
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        _connect(client, path, deadline)
        client.sendall(pickle.dumps(list(command)) + END)
        data = _read_answer(client, deadline)
        with suppress(OSError):
            client.sendall(CLOSE + END)
    answer = _PlainUnpickler(io.BytesIO(data)).load()
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise RuntimeError(f"fail2ban: {' '.join(command)}: {answer}")
    code, result = answer
    if code:
        raise RuntimeError(f"fail2ban: {' '.join(command)}: {result}")
    return result


def _connect(client: socket.socket, path: str, deadline: float) -> None:
    """fail2ban lets a single client wait; unix(7) turns the next away with EAGAIN."""
    while True:
        limit_next_step(client, deadline)
        try:
            client.connect(path)
        except BlockingIOError:
            time.sleep(RETRY_SECONDS)
        except OSError as error:
            error.filename = path
            raise
        else:
            return


def _read_answer(client: socket.socket, deadline: float) -> bytes:
    data = b""
    while not data.endswith(END):
        limit_next_step(client, deadline)
        chunk = client.recv(65536)
        if not chunk or len(data) > MAX_ANSWER:
            raise ConnectionError("fail2ban broke off its answer")
        data += chunk
    return data.removesuffix(END)


class _PlainUnpickler(pickle.Unpickler):
    """Makes no objects but plain ones: text in place of fail2ban's addresses, RuntimeError in place of its errors."""

    def find_class(self, module: str, name: str) -> Any:
        return str if (module, name) == ("builtins", "str") else RuntimeError


def list_jails(**options: Any) -> list[str]:
    """The jails that fail2ban runs. Raises as `ask_fail2ban` does."""
    status = dict(ask_fail2ban("status", **options))
    return str(status["Jail list"]).replace(",", " ").split()
