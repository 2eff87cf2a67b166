"""What the operator is told: everything that matters within seconds, nothing twice, and never a flood.

A *trouble* is a state: told when it begins and when it has ended, and once a day while it lasts. A *happening* is
told when it happens. What comes close together goes in one letter; letters are bounded by two budgets, one for what
is urgent, so that what can wait never uses up what cannot. A trouble or happening that comes again and again is told
a few times a day only.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

GATHER = 1.0  # seconds that an alert waits for others to go with it
REMIND = 86400.0  # seconds until a trouble that lasts is told again
MOST = 4  # times that one trouble or happening is told within …
WITHIN = 21600.0  # … these seconds
LINES, LENGTH = 40, 400  # of a letter; characters of a line
KEYS = 5000  # happenings and troubles that are remembered
URGENT, CALM = True, False


@dataclass
class Budget:
    """A letter costs one; one more comes every `refill` seconds, up to `most`."""

    most: float
    refill: float
    left: float = 0.0
    at: float = 0.0

    def spend(self, now: float) -> bool:
        self.left = self.most if not self.at else min(self.most, self.left + max(0.0, now - self.at) / self.refill)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass
class Trouble:
    """Since when it lasts, when it was told last (0: not yet), and what is told of it."""

    text: str
    over: str
    since: float
    told: float = 0.0


@dataclass
class Letter:
    """What goes out in one message; `left` are the ways that it has not gone yet."""

    id: int
    at: float
    subject: str
    text: str
    urgent: bool
    left: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    at: float
    text: str
    urgent: bool


class Desk:
    """Takes troubles and happenings from any thread, and makes letters of them."""

    def __init__(self, host: str, state: Mapping[str, Any] | None = None, clock: Callable[[], float] = time.time):
        state = state or {}
        self.host, self.clock = host, clock
        self.lock = threading.RLock()
        self.open = {key: Trouble(**one) for key, one in state.get("open", {}).items()}
        self.lines = [Line(**one) for one in state.get("lines", ())]
        self.told: dict[str, list[float]] = dict(state.get("told", {}))
        self.budgets = {URGENT: Budget(12, 60), CALM: Budget(8, 300)}
        self.left_out = 0
        self.cleared = 0.0

    def state(self) -> dict[str, Any]:
        """For the next start."""
        with self.lock:
            return {
                "open": {key: asdict(one) for key, one in self.open.items()},
                "lines": [asdict(one) for one in self.lines],
                "told": self.told,
            }

    def troubles(self, sensor: str, now_there: Mapping[str, tuple[str, str]]) -> None:
        """All that a sensor sees amiss: by key, what it is and what is told when it is over."""
        with self.lock:
            for key, (text, over) in now_there.items():
                self.trouble(f"{sensor}:{key}", text, over)
            for key in [key for key in self.open if key.startswith(f"{sensor}:")]:
                if key.partition(":")[2] not in now_there:
                    self.over(key)

    def trouble(self, key: str, text: str, over: str) -> None:
        """A trouble is there, or still there."""
        with self.lock:
            now = self.clock()
            one = self.open.setdefault(key, Trouble(text, over, now))
            one.text, one.over = text, over
            if now - one.told >= REMIND and self._may_tell(key, now, URGENT):
                since = f" (since {_clock(one.since)})" if one.told else ""
                one.told = now
                self._tell(text + since, URGENT)

    def over(self, key: str) -> None:
        """A trouble has ended; told if it was told that it had begun."""
        with self.lock:
            if (one := self.open.pop(key, None)) and one.told:
                self._tell(f"{one.over} (since {_clock(one.since)})", CALM)

    def happened(self, key: str, text: str, urgent: bool = CALM) -> None:
        with self.lock:
            now = self.clock()
            if self._may_tell(key, now, urgent):
                last = len(self.told[key]) == MOST
                self._tell(text + (" (more of this is not told for six hours)" if last else ""), urgent)

    def letter(self) -> Letter | None:
        """The next letter, once it is due."""
        with self.lock:
            now = self.clock()
            if not self.lines or 0 <= now - self.lines[0].at < GATHER:
                return None
            urgent = any(line.urgent for line in self.lines)
            if not self.budgets[URGENT if urgent else CALM].spend(now):
                return None
            lines, self.lines = sorted(self.lines, key=lambda line: not line.urgent), []
            left_out, self.left_out = self.left_out, 0
        told = [f"{_clock(line.at)}  {line.text}" for line in lines]
        if left_out:
            told.append(f"… and {left_out} more alerts, which the journal of mailkeep-watch has")
        more = len(lines) + left_out - 1
        subject = lines[0].text[:120] + (f" (and {more} more)" if more else "")
        return Letter(int(now * 1000), now, f"[{self.host}] {subject}", "\n".join((*told, "")), urgent)

    def _tell(self, text: str, urgent: bool) -> None:
        line = Line(self.clock(), "".join(c if c.isprintable() else "�" for c in text)[:LENGTH], urgent)
        print(line.text, flush=True)  # the journal has them all
        self.lines.append(line)
        if len(self.lines) > LINES:
            calm = (n for n in range(LINES, -1, -1) if not self.lines[n].urgent)
            del self.lines[next(calm, LINES)]
            self.left_out += 1

    def _room(self, now: float, urgent: bool) -> bool:
        """Whether one more key may be remembered. For what is urgent the oldest goes."""
        if len(self.told) >= KEYS and not 0 <= now - self.cleared < 60:
            self.told = {key: times for key, times in self.told.items() if now - times[-1] < WITHIN}
            self.cleared = now
        if len(self.told) >= KEYS and urgent:
            del self.told[next(iter(self.told))]
        return len(self.told) < KEYS

    def _may_tell(self, key: str, now: float, urgent: bool) -> bool:
        if key not in self.told and not self._room(now, urgent):
            return False
        times = self.told[key] = [then for then in self.told.get(key, ()) if 0 <= now - then < WITHIN]
        if len(times) >= MOST:
            return False
        times.append(now)
        return True


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
