"""What the guard tells: its events, and by its silence that it is down."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

from mailkeep_server.watch.sensors import Happening, Sensor, Troubles

ANSWER = 4 << 20  # bytes; more is no answer of the guard's
TIMEOUT = 2.0  # seconds
OLD = 3600.0  # seconds after which an event is history, to a watch that starts
URGENT = {"over", "spoof", "ceiling", "store"}
# Where the guard's line says what it would say to the account.
WORDS = {
    "over": "is over a limit: ",
    "would-refuse": "would have been refused: ",
    "would-freeze": "would have been frozen: ",
}
# Told by who carries them out, with what came of it.
ELSEWHERE = {"frozen", "thawed"}


class Guard(Sensor):
    name, every, looks = "guard", 1.0, 4

    def __init__(self, control: str, last: int) -> None:
        self.control, self.last = control, last
        self.events: list[dict[str, Any]] = []

    def troubles(self) -> Troubles:
        try:
            answer = json.loads(get(self.control, f"/events?after={self.last}"))
        except (OSError, ValueError) as error:
            text = f"The guard does not answer ({error}): nobody can send mail until it does"
            return {"silent": (text, "The guard answers again")}
        self.events += [event for event in answer["events"] if event["time"] > time.time() - OLD]
        self.last = answer["last"]
        return {}

    def happenings(self) -> Iterator[Happening]:
        events, self.events = self.events, []
        for event in events:
            if event["kind"] not in ELSEWHERE:
                told = f"{event['account']} {WORDS.get(event['kind'], '')}{event['detail']}".strip()
                yield f"{event['kind']}:{event['account']}", told, event["kind"] in URGENT


def get(path: str, target: str) -> bytes:
    """The body of the answer to a GET over HTTP/1.0. Raises OSError or ValueError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(path)
        connection.sendall(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
            if len(answer) > ANSWER:
                raise ValueError("its answer has no end")
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].decode(errors="replace")
    if " 200" not in status:
        raise ValueError(status or "no answer")
    return body
