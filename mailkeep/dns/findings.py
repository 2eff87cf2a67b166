"""What the live check has to say."""

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["error", "warning", "instruction"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` and `type` say what it is about, `seen` what is there, `do` what to do. An error keeps mail from coming
    or going, a warning lets somebody down sooner or later, an instruction is what would be better."""

    level: Level
    name: str
    type: str
    problem: str
    observed: str = ""
    advice: str = ""

    def asdict(self) -> dict[str, str]:
        return asdict(self)
