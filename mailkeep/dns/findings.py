"""A finding of the DNS check."""

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["error", "warning", "instruction"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with the records of `name` and `type`: `observed` is the published value, `advice` the next step.

    An error keeps mail from arriving, or lets others write as you. A warning will cost somebody mail sooner or later.
    An instruction is an improvement.
    """

    level: Level
    name: str
    type: str
    problem: str
    observed: str = ""
    advice: str = ""

    def asdict(self) -> dict[str, str]:
        return asdict(self)
