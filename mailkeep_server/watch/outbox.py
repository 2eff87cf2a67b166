"""Letters on their way: a thread for each way, so that none waits for another, and the watch for none.

What was not sent is tried again, at first after a second, then less and less often, for as long as it is worth
knowing; a way that is dead is told by the other.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from mailkeep_server.watch.alert_queue import Desk, Letter
from mailkeep_server.watch.channels import NotSentError

KEPT = 50  # letters that wait for a way
PATIENCE = {"mail": 6 * 3600.0, "webhook": 900.0}  # seconds; mail waits while Postfix is down
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
DEAD = 2  # tries in a row after which a way is told to be dead

Send = Callable[[str, Letter], str]


class Post:
    """`ways` by name; `send` raises NotSentError."""

    def __init__(self, ways: tuple[str, ...], send: Send, desk: Desk, state: Mapping[str, Any] | None = None) -> None:
        self.ways, self.send, self.desk = ways, send, desk
        self.waiting = threading.Condition()
        self.letters = [Letter(**one) for one in (state or {}).get("letters", ())]

    def state(self) -> dict[str, Any]:
        with self.waiting:
            return {"letters": [asdict(letter) for letter in self.letters]}

    def put(self, letter: Letter) -> None:
        """On its way; the oldest gives way when too many wait."""
        letter.left = list(self.ways)
        with self.waiting:
            self.letters = [*self.letters[-KEPT + 1 :], letter]
            self.waiting.notify_all()

    def start(self) -> None:
        for way in self.ways:
            threading.Thread(target=self._carry, args=(way,), name=way, daemon=True).start()

    def _carry(self, way: str) -> None:
        failed = 0
        while True:
            with self.waiting:
                while (letter := next((one for one in self.letters if way in one.left), None)) is None:
                    self.waiting.wait()
            try:
                self.send(way, letter)
                self._done(way, letter)
                failed = 0
                self.desk.over(f"way:{way}")
            except NotSentError as error:
                failed += 1
                if failed >= DEAD:
                    self.desk.trouble(f"way:{way}", f"Alerts do not get out by {way}: {error}", f"{way} works again")
                if time.time() - letter.at > PATIENCE[way]:
                    self._done(way, letter)
                time.sleep(PAUSES[min(failed, len(PAUSES)) - 1])

    def _done(self, way: str, letter: Letter) -> None:
        with self.waiting:
            letter.left.remove(way)
            self.letters = [one for one in self.letters if one.left]
