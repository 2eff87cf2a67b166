"""What came of a drill, and whether it was good enough."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MOST_OUT = 30
"""Messages; in the incidents 68,354 and 493,404 were tried."""
MOST_SECONDS_TO_FREEZE = 5.0
MOST_SECONDS_TO_ALERT = 10.0
MOST_DISK = 16 * 1024
"""KiB; the journal grows by 8 MiB at a time."""
DELAYED = 10.0
"""Seconds after which an innocent's message counts as delayed."""


@dataclass(frozen=True)
class Innocents:
    """What others saw of the attack: messages, and logins to read mail."""

    sent: int = 0
    logins: int = 0
    lost: int = 0
    refused: int = 0
    delayed: int = 0
    slowest: float = 0.0
    """Seconds from sending to the mailbox."""


@dataclass(frozen=True)
class Result:
    """Moments are seconds since the attack began; None is what never came."""

    drill: str
    title: str
    incident: str
    tries: int
    taken: int
    """Messages that the server took, whatever became of them."""
    messages: int
    """Those that reached somebody outside, and how many people."""
    recipients: int
    limit: float | None
    """When the first was refused for a limit, or for being somebody else's."""
    threshold: float | None
    """When the try began that no honest user makes any more."""
    freeze: float | None
    cut: float | None
    """When the attacker lost the mailbox that he was reading."""
    held: float | None
    """When all that was still in the queue was on hold."""
    alert: float | None
    queued: int
    """Messages of the account left in the queue that are not on hold, and that are."""
    on_hold: int
    disk: tuple[int, int]
    """KiB of /var before and after."""
    innocents: Innocents
    tried_at: tuple[float, ...]
    out_at: tuple[float, ...]
    innocents_at: tuple[float, ...]

    @property
    def seconds_to_freeze(self) -> float | None:
        """Until nothing went out any more, the attacker's sessions were cut, and what was in the queue was on hold."""
        moments = (self.freeze, self.cut, *([self.held] if self.on_hold or self.queued else []))
        return _after(self.threshold, *moments)

    @property
    def seconds_to_alert(self) -> float | None:
        return _after(self.threshold, self.alert)

    @property
    def misses(self) -> list[str]:
        """The bars that it misses, in words."""
        return [
            *_beyond("messages out", self.messages, MOST_OUT),
            *_beyond("seconds to the freeze", self.seconds_to_freeze, MOST_SECONDS_TO_FREEZE),
            *_beyond("seconds to the alert", self.seconds_to_alert, MOST_SECONDS_TO_ALERT),
            *_beyond("messages of the account left in the queue, not on hold", self.queued, 0),
            *_beyond("KiB of disk used", self.disk[1] - self.disk[0], MOST_DISK),
            *_beyond("messages of innocents lost", self.innocents.lost, 0),
            *_beyond("messages or logins of innocents refused", self.innocents.refused, 0),
        ]

    def asdict(self) -> dict[str, Any]:
        return asdict(self) | {
            "seconds_to_freeze": self.seconds_to_freeze,
            "seconds_to_alert": self.seconds_to_alert,
            "misses": self.misses,
        }


def seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _after(threshold: float | None, *moments: float | None) -> float | None:
    known = [moment for moment in moments if moment is not None]
    return max(known) - threshold if threshold is not None and len(known) == len(moments) else None


def _beyond(what: str, value: float | None, most: float) -> list[str]:
    if value is None:
        return ["no " + what.removeprefix("seconds to the ")]
    return [f"{round(value, 1):g} {what}, and at most {most:g} will do"] if value > most else []
