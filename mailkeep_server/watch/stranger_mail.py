"""The watch's part in the guard's decisions about mail to strangers.

It reports what became of deliveries, and gives back to its owner what was on hold for a day.
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

    name, interval = "held", 60.0

    def __init__(self, control_socket: str, give_back: Callable[[str, str], str]) -> None:
        self.control_socket, self.give_back = control_socket, give_back
        self.worker: threading.Thread | None = None
        self.failures: dict[str, str] = {}
        """By queue id: what kept a message from going back."""

    def find_troubles(self) -> Troubles:
        if not self.worker or not self.worker.is_alive():
            due = list(self._list_due())
            self.failures = {queue_id: text for queue_id, text in self.failures.items() if (queue_id in dict(due))}
            self.worker = threading.Thread(target=self._give_all_back, args=(due,), name="held", daemon=True)
            self.worker.start()
        texts = self.failures.copy()
        return {queue_id: (text, f"Message {queue_id} is on hold no more") for queue_id, text in texts.items()}

    def _list_due(self) -> Iterator[tuple[str, str]]:
        """Queue ids and accounts, also of what the operator has sent or deleted: it counts no more as on hold."""
        try:
            answer = json.loads(unix_http.get_body(self.control_socket, HELD_TARGET, ANSWER_TIMEOUT))
        except (OSError, ValueError):
            return  # `GuardEvents` has it that the guard is silent
        for message in answer["messages"]:
            is_gone = message["is_settled"] and not (ON_HOLD / message["queue_id"]).exists()
            if message["is_due"] or is_gone:
                yield message["queue_id"], message["account"]

    def _give_all_back(self, due: list[tuple[str, str]]) -> None:
        for queue_id, account in due:
            try:
                query = urlencode({"queue_id": queue_id, "result": self.give_back(account, queue_id)})
                unix_http.get_body(self.control_socket, f"{RETURNED_TARGET}?{query}", ANSWER_TIMEOUT)
                self.failures.pop(queue_id, None)
            except Exception as error:  # whatever it is, the next message is due
                text = f"{account} does not get message {queue_id} back, which stays on hold: {describe_error(error)}"
                self.failures[queue_id] = text


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
