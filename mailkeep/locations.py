"""Where the operator's machine keeps inventories, and the state of labs and drills."""

import os
from pathlib import Path

from mailkeep.errors import UserError

HOME_VARIABLE = "MAILKEEP_HOME"
"""Names the directory that holds `inventories/`."""


def expand_home(path: str) -> Path:
    """The path with `~` and `~USER` replaced. UserError where that home directory is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user; or no HOME, and no entry for this user in passwd(5)
        raise UserError(
            f"{path}: there is no such home directory. Set HOME, or give the whole path (of a vault's key: "
            "MAILKEEP_IDENTITY)."
        ) from None


def inventories_home() -> Path:
    """The directory that holds `inventories/`: MAILKEEP_HOME, else the working directory; absolute."""
    return expand_home(os.environ.get(HOME_VARIABLE, "")).resolve()


def find_clone() -> Path | None:
    """The clone of Mailkeep that this program runs in; None for an installed wheel."""
    clone = Path(__file__).resolve().parents[1]
    return clone if (clone / "pyproject.toml").is_file() else None


def state_directory() -> Path:
    """Where labs keep keys, images and pictures: `.lab/` of a clone; for an installed wheel `mailkeep/` below
    XDG_STATE_HOME (default `~/.local/state`, XDG Base Directory Specification)."""
    if clone := find_clone():
        return clone / ".lab"
    configured = os.environ.get("XDG_STATE_HOME", "")
    return (Path(configured) if configured.startswith("/") else expand_home("~/.local/state")) / "mailkeep"
