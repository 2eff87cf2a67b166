"""What the tests of the command share."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

INIT = (
    *("init", "home", "--host", "mail.example.org", "--address", "203.0.113.25", "--address", "2001:db8::25"),
    *("--admin", "you@example.net", "--account", "anna@example.org"),
)
MAILKEEP = Path(sys.executable).parent / "mailkeep"


@dataclass(frozen=True)
class Said:
    code: int
    out: str = field(repr=False)
    err: str = field(repr=False)


Run = Callable[..., Said]


def environment(root: Path) -> dict[str, str]:
    """Of a user without identities or preferences of their own."""
    kept = {name: os.environ[name] for name in ("PATH",)}
    return {**kept, "HOME": str(root / "user"), "LC_ALL": "C.UTF-8", "TERM": "xterm", "COLUMNS": "100"}
