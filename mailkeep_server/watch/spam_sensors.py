"""Whether the spam filter answers, and whether its last proof found it sorting and refusing."""

import json
import struct
import time
from pathlib import Path

from mailkeep_server.common import milter_server, paths
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.answer_sensors import AnswerSensor
from mailkeep_server.watch.sensor import Sensor

FILTER = "mailkeep-spam.service"
CONSEQUENCES = {
    "plain": "Mail that is not spam does not reach INBOX with a verdict",
    "junk": "What is probably spam does not reach Junk",
    "gtube": "What is surely spam is not refused",
}
"""By canary."""


class FilterSensor(AnswerSensor):
    """Greets the filter as Postfix does. Its alert must leave within ten seconds, also if the filter hangs: two samples
    that wait for two seconds each, and the time between them."""

    CALM_INTERVAL, DOUBT_INTERVAL = 2.5, 0.5
    TIMEOUT = 2.0  # seconds

    def __init__(self, path: Path = Path(paths.SPAM_MILTER_SOCKET)) -> None:
        acceptance = b"O" + struct.pack("!I", milter_server.VERSION)
        consequence = "mail waits at its sender, or comes in unexamined (spam.when_down)"
        super().__init__("spam", FILTER, path, milter_server.OFFER, acceptance, consequence)


class CanarySensor(Sensor):
    """Whether the last proof of the filter (`mailkeep-canary.timer`) found no fault, and is recent."""

    name = "canary"
    MAX_AGE = 3 * 1800.0  # seconds: three intervals of the timer

    def __init__(self, file: Path = Path(paths.CANARY_PROOF)) -> None:
        self.file, self.start = file, time.time()

    def find_troubles(self) -> Troubles:
        try:
            proven, content = self.file.stat().st_mtime, self.file.read_text()
        except FileNotFoundError:
            proven, content = self.start, '{"faults": {}}'
        troubles = {}
        if time.time() - max(proven, self.start) > self.MAX_AGE:
            text = "The spam filter has not been proven for 90 minutes: `systemctl status mailkeep-canary` says why"
            troubles["silent"] = text, "The spam filter is proven again"
        for canary, fault in json.loads(content)["faults"].items():
            text = f"{CONSEQUENCES[canary]}: the server's test message {fault}. `journalctl -u {FILTER}`"
            troubles[canary] = f"{text} may say why", f"Over: {CONSEQUENCES[canary]}"
        return troubles


def build_spam_sensors(spam_filter: str) -> list[Sensor]:
    """`light` runs only while a message is delivered: nothing of it answers in between."""
    sensors: dict[str, list[Sensor]] = {"full": [FilterSensor(), CanarySensor()], "light": [CanarySensor()]}
    return sensors.get(spam_filter, [])
