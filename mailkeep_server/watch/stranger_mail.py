"""The watch's part in the guard's decisions about mail to strangers.

It reports what became of deliveries. It gives back to its owner what was on hold for a day, and sends what the owner
has released.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from urllib.parse import urlencode

from mailkeep_server.common import unix_http
from mailkeep_server.common.commands import run, stream_output
from mailkeep_server.common.wording import describe_error
from mailkeep_server.guard.hold_targets import HELD_TARGET, OUTCOMES_TARGET, RETURNED_TARGET, write_outcome
from mailkeep_server.guard.outcomes import Outcome, read_outcome
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.owner_notice import build_headers, deliver_lines
from mailkeep_server.watch.sensor import Sensor

ANSWER_TIMEOUT = 2.0  # seconds
MAX_WAITING = 20_000  # outcomes, while the guard does not answer
BATCH, BATCHES = 40, 50  # outcomes of one request, which has at most 4096 bytes, and requests of one sample
ON_HOLD = Path("/var/spool/postfix/hold")
QUEUE_TIMEOUT = 120.0  # seconds for one message
NOT_ON_HOLD, WENT_BACK = "", "it is back in its owner's inbox"
RETURN_TEXT = """\
This message of yours to somebody whom your account had never written to was on
hold for a day, and nobody released it. It was not sent. It is attached, so that
you can send it again. Ask the administrator first: postmaster@{host}.
"""


class OutcomeReporter(Sensor):
    """Another thread reads the lines of Postfix's delivery agents. A watch that starts reads the last half minute
    again; the guard counts each outcome once."""

    name, interval = "outcomes", 1.0

    def __init__(self, control_socket: str) -> None:
        self.control_socket = control_socket
        self.waiting: deque[Outcome] = deque(maxlen=MAX_WAITING)

    def read_message(self, text: str) -> None:
        if outcome := read_outcome(text):
            self.waiting.append(outcome)

    def find_troubles(self) -> Troubles:
        """None, ever: `GuardEvents` has it that the guard is silent. Until it answers, outcomes wait."""
        for _ in range(BATCHES):
            batch = [self.waiting[number] for number in range(min(BATCH, len(self.waiting)))]
            if not batch or not self._send(batch):
                break
            for _ in batch:
                self.waiting.popleft()
        return {}

    def _send(self, batch: list[Outcome]) -> bool:
        query = urlencode([("o", write_outcome(outcome)) for outcome in batch])
        try:
            unix_http.get_body(self.control_socket, f"{OUTCOMES_TARGET}?{query}", ANSWER_TIMEOUT)
        except (OSError, ValueError):
            return False
        return True


class HeldMail(Sensor):
    """`give_back` takes account and queue id, and says what became of the message. It may raise any exception."""

    name, interval = "held", 10.0

    def __init__(self, control_socket: str, give_back: Callable[[str, str], str]) -> None:
        self.control_socket, self.give_back = control_socket, give_back
        self.worker: threading.Thread | None = None
        self.failures: dict[str, str] = {}
        """By queue id: what kept a message from going back."""

    def find_troubles(self) -> Troubles:
        if not self.worker or not self.worker.is_alive():
            due = list(self._list_due())
            ids = {queue_id for queue_id, _, _ in due}
            self.failures = {queue_id: text for queue_id, text in self.failures.items() if queue_id in ids}
            self.worker = threading.Thread(target=self._work_off, args=(due,), name="held", daemon=True)
            self.worker.start()
        texts = self.failures.copy()
        return {queue_id: (text, f"Message {queue_id} is on hold no more") for queue_id, text in texts.items()}

    def _list_due(self) -> Iterator[tuple[str, str, bool]]:
        """Queue ids, accounts, and whether it is to be sent. Also what the operator has sent or deleted: it counts no
        more as on hold."""
        try:
            answer = json.loads(unix_http.get_body(self.control_socket, HELD_TARGET, ANSWER_TIMEOUT))
        except (OSError, ValueError):
            return  # `GuardEvents` has it that the guard is silent
        for message in answer["messages"]:
            is_on_hold = (ON_HOLD / message["queue_id"]).exists()
            is_released = message["is_released"] and is_on_hold
            if is_released or message["is_due"] or (message["is_settled"] and not is_on_hold):
                yield message["queue_id"], message["account"], is_released

    def _work_off(self, due: list[tuple[str, str, bool]]) -> None:
        for queue_id, account, is_released in due:
            try:
                result = send_released(queue_id) if is_released else self.give_back(account, queue_id)
                query = urlencode({"queue_id": queue_id, "result": result})
                unix_http.get_body(self.control_socket, f"{RETURNED_TARGET}?{query}", ANSWER_TIMEOUT)
                self.failures.pop(queue_id, None)
            except Exception as error:  # whatever it is, the next message is due
                fault = "which its owner has released" if is_released else "which its owner does not get back"
                self.failures[queue_id] = (
                    f"Message {queue_id} of {account}, {fault}, stays on hold: {describe_error(error)}"
                )


def send_released(queue_id: str) -> str:
    """Postfix tries it at once."""
    run("postsuper", "-H", queue_id, timeout=QUEUE_TIMEOUT)
    run("postqueue", "-i", queue_id, check=False, timeout=QUEUE_TIMEOUT)  # it may have left already
    return NOT_ON_HOLD


def give_back(host: str, account: str, queue_id: str) -> str:
    """Stores the message in the owner's inbox, and then deletes it from the queue: at worst it comes back twice."""
    if not (ON_HOLD / queue_id).exists():
        return NOT_ON_HOLD
    with stream_output("postcat", "-qbh", queue_id, timeout=QUEUE_TIMEOUT) as text:
        message = (line.removesuffix(b"\n").removesuffix(b"\r") for line in text)
        deliver_lines(host, account, _wrap_message(host, account, message), timeout=QUEUE_TIMEOUT)
    run("postsuper", "-d", queue_id, "hold", timeout=QUEUE_TIMEOUT)
    return WENT_BACK


def _wrap_message(host: str, account: str, message: Iterator[bytes]) -> Iterator[bytes]:
    boundary = token_hex(16)
    head = [
        *build_headers(host, account, "Your message was on hold, and was not sent"),
        "MIME-Version: 1.0",
        f'Content-Type: multipart/mixed; boundary="{boundary}"',
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        *RETURN_TEXT.format(host=host).splitlines(),
        "",
        f"--{boundary}",
        "Content-Type: message/rfc822",
        "Content-Transfer-Encoding: 8bit",
        "",
    ]
    yield from (line.encode() for line in head)
    yield from message
    yield from (b"", f"--{boundary}--".encode())
