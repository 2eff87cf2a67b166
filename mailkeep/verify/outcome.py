"""How a check says that its promise does not hold, and what came of it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["passed", "failed", "warning", "skipped"]


class BrokenError(AssertionError):
    """The promise is broken: what was expected, what was seen, what to do about it."""

    def __init__(self, expected: str, seen: str, remedy: str) -> None:
        super().__init__(f"expected {expected}, saw {seen}")
        self.expected, self.seen, self.remedy = expected, seen, remedy


class DoubtError(BrokenError):
    """Nothing is broken, but somebody should look: a warning."""


class NotHereError(Exception):
    """The promise is not one of this server; the message says why."""


def hold(against: Iterable[object], *, expected: str, remedy: str) -> None:
    """Raises BrokenError when anything speaks `against` the promise: that is what was seen, a line each."""
    if lines := [str(one) for one in against]:
        raise BrokenError(expected, "\n".join(lines), remedy)


def doubt(against: Iterable[object], *, expected: str, remedy: str) -> None:
    """As `hold`, but for what is only a warning."""
    if lines := [str(one) for one in against]:
        raise DoubtError(expected, "\n".join(lines), remedy)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a check on a host. `seen` says of a skipped one why it was."""

    host: str
    check: str
    promise: str
    status: Status
    expected: str = ""
    seen: str = ""
    remedy: str = ""

    def asdict(self) -> dict[str, str]:
        return asdict(self)


def outcome(host: str, check: str, promise: str, error: BaseException | None) -> Outcome:
    """What a check's exception, or that it has none, says."""
    if error is None:
        return Outcome(host, check, promise, "passed")
    if isinstance(error, NotHereError):
        return Outcome(host, check, promise, "skipped", seen=str(error))
    if isinstance(error, BrokenError):
        status: Status = "warning" if isinstance(error, DoubtError) else "failed"
        return Outcome(host, check, promise, status, error.expected, error.seen, error.remedy)
    remedy = "Run it again. If it stays, look at what the message names: `systemctl status`, `journalctl`."
    return Outcome(host, check, promise, "failed", "to be able to look", str(error) or repr(error), remedy)
