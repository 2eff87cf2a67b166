"""The exceptions by which a check reports problems, and the outcome of a check."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["passed", "failed", "warning", "skipped"]


class CheckFailedError(AssertionError):
    """The server does not do what the check expects. `remedy` is the operator's next step."""

    def __init__(self, expected: str, observed: str, remedy: str) -> None:
        super().__init__(f"expected {expected}, observed {observed}")
        self.expected, self.observed, self.remedy = expected, observed, remedy


class CheckWarningError(CheckFailedError):
    """No attack gets through, but the operator should have a look."""


class CheckSkippedError(Exception):
    """The check does not apply to this server; the message says why."""


def fail_if_any(problems: Iterable[object], *, expected: str, remedy: str) -> None:
    """Raises CheckFailedError if there are problems; the outcome shows each on a line of its own."""
    if lines := [str(problem) for problem in problems]:
        raise CheckFailedError(expected, "\n".join(lines), remedy)


def warn_if_any(problems: Iterable[object], *, expected: str, remedy: str) -> None:
    """Raises CheckWarningError if there are problems."""
    if lines := [str(problem) for problem in problems]:
        raise CheckWarningError(expected, "\n".join(lines), remedy)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a check on a host. `promise` is the sentence that it proves. If skipped, `observed` says why."""

    host: str
    check: str
    promise: str
    status: Status
    expected: str = ""
    observed: str = ""
    remedy: str = ""

    def asdict(self) -> dict[str, str]:
        return asdict(self)


def outcome_of(host: str, check: str, promise: str, error: BaseException | None) -> Outcome:
    """The outcome of a check that raised `error`, or nothing."""
    if error is None:
        return Outcome(host, check, promise, "passed")
    if isinstance(error, CheckSkippedError):
        return Outcome(host, check, promise, "skipped", observed=str(error))
    if isinstance(error, CheckFailedError):
        status: Status = "warning" if isinstance(error, CheckWarningError) else "failed"
        return Outcome(host, check, promise, status, error.expected, error.observed, error.remedy)
    remedy = "Run it again. If it fails again, look at what the message names: `systemctl status`, `journalctl`."
    return Outcome(host, check, promise, "failed", "an answer to judge", str(error) or repr(error), remedy)
