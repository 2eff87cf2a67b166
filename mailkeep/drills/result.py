"""The result of an attack drill, and the bounds that it must keep."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MAX_MESSAGES_OUT = 30
"""In the incidents 68,354 and 493,404 were tried."""
MAX_SECONDS_TO_FREEZE = 5.0
MAX_SECONDS_TO_ALERT = 10.0
MAX_DISK_USE = 16 * 1024
"""KiB; the journal grows by 8 MiB at a time."""
DELAYED_AFTER = 10.0
"""Seconds after which an innocent's message counts as delayed."""


@dataclass(frozen=True)
class Innocents:
    """How other people fared during the attack, with their messages and logins."""

    sent: int = 0
    logins: int = 0
    lost: int = 0
    refused: int = 0
    delayed: int = 0
    slowest: float = 0.0
    """Seconds from sending to the mailbox."""


@dataclass(frozen=True)
class DrillResult:
    """Moments are seconds since the attack began; None: it did not happen."""

    drill: str
    title: str
    incident: str
    tries: int
    taken: int
    """Messages that the server accepted, delivered or not."""
    messages: int
    """Messages that reached somebody outside."""
    recipients: int
    """Recipients of those."""
    limit: float | None
    """When a message was first refused over a limit or for a foreign sender."""
    threshold: float | None
    """When the try began that reaches a freeze threshold of mail.yml (guard.freeze)."""
    freeze: float | None
    cut: float | None
    """When the attacker lost the mailbox that he had open."""
    held: float | None
    """When all of the account's mail in the queue was on hold."""
    alert: float | None
    queued: int
    """Messages of the account in the queue that are not on hold."""
    on_hold: int
    disk: tuple[int, int]
    """KiB of /var before and after."""
    innocents: Innocents
    tried_at: tuple[float, ...]
    out_at: tuple[float, ...]
    innocents_at: tuple[float, ...]

    @property
    def seconds_to_freeze(self) -> float | None:
        """From the threshold until all three happened: nothing more is accepted, the mailbox is cut, the queue held."""
        moments = (self.freeze, self.cut, *([self.held] if self.on_hold or self.queued else []))
        return _seconds_since(self.threshold, *moments)

    @property
    def seconds_to_alert(self) -> float | None:
        return _seconds_since(self.threshold, self.alert)

    @property
    def misses(self) -> list[str]:
        """A sentence for each bound that is exceeded."""
        return [
            *_over_bound("messages out", self.messages, MAX_MESSAGES_OUT),
            *_over_bound("seconds to the freeze", self.seconds_to_freeze, MAX_SECONDS_TO_FREEZE),
            *_over_bound("seconds to the alert", self.seconds_to_alert, MAX_SECONDS_TO_ALERT),
            *_over_bound("messages of the account left in the queue, not on hold", self.queued, 0),
            *_over_bound("KiB of disk used", self.disk[1] - self.disk[0], MAX_DISK_USE),
            *_over_bound("messages of innocents lost", self.innocents.lost, 0),
            *_over_bound("messages or logins of innocents refused", self.innocents.refused, 0),
        ]

    def asdict(self) -> dict[str, Any]:
        return asdict(self) | {
            "seconds_to_freeze": self.seconds_to_freeze,
            "seconds_to_alert": self.seconds_to_alert,
            "misses": self.misses,
        }


def format_seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _seconds_since(threshold: float | None, *moments: float | None) -> float | None:
    """Seconds from the threshold to the last moment; None when one of them did not happen."""
    known = [moment for moment in moments if moment is not None]
    return max(known) - threshold if threshold is not None and len(known) == len(moments) else None


def _over_bound(quantity: str, value: float | None, bound: float) -> list[str]:
    if value is None:
        return ["no " + quantity.removeprefix("seconds to the ")]
    return [f"{round(value, 1):g} {quantity}; at most {bound:g} are allowed"] if value > bound else []
