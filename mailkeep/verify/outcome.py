"""How a check says that its promise does not hold, and what came of it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["passed", "failed", "warning", "skipped"]


class CheckFailedError(AssertionError):
    """The promise is broken: what was expected, what was seen, what to do about it."""

    def __init__(self, expected: str, observed: str, remedy: str) -> None:
        super().__init__(f"expected {expected}, saw {observed}")
        self.expected, self.observed, self.remedy = expected, observed, remedy


class CheckWarningError(CheckFailedError):
    """Nothing is broken, but somebody should look: a warning."""


class CheckSkippedError(Exception):
    """The promise is not one of this server; the message says why."""


def fail_if_any(problems: Iterable[object], *, expected: str, remedy: str) -> None:
    """Raises CheckFailedError when anything speaks `against` the promise: that is what was seen, a line each."""
    if lines := [str(one) for one in problems]:
        raise CheckFailedError(expected, "\n".join(lines), remedy)


def warn_if_any(problems: Iterable[object], *, expected: str, remedy: str) -> None:
    """As `hold`, but for what is only a warning."""
    if lines := [str(one) for one in problems]:
        raise CheckWarningError(expected, "\n".join(lines), remedy)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a check on a host. `seen` says of a skipped one why it was."""

    host: str
    check: str
    promise: str
    status: Status
    expected: str = ""
    observed: str = ""
    remedy: str = ""

    def asdict(self) -> dict[str, str]:
        """The keys of `mailkeep verify --json`, where `observed` is called `seen`."""
        return {"seen" if name == "observed" else name: value for name, value in asdict(self).items()}


def outcome(host: str, check: str, promise: str, error: BaseException | None) -> Outcome:
    """What a check's exception, or that it has none, says."""
    if error is None:
        return Outcome(host, check, promise, "passed")
    if isinstance(error, CheckSkippedError):
        return Outcome(host, check, promise, "skipped", observed=str(error))
    if isinstance(error, CheckFailedError):
        status: Status = "warning" if isinstance(error, CheckWarningError) else "failed"
        return Outcome(host, check, promise, status, error.expected, error.observed, error.remedy)
    remedy = "Run it again. If it stays, look at what the message names: `systemctl status`, `journalctl`."
    return Outcome(host, check, promise, "failed", "to be able to look", str(error) or repr(error), remedy)
