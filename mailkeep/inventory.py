"""Inventory directories: `inventories/NAME/` with `mail.yml`, `inventory.py` and `secrets/`."""

import runpy
from pathlib import Path

from mailkeep.errors import UserError

FOLDER = "inventories"
SETTINGS = "mail.yml"
HOSTS = "inventory.py"


def find(name_or_path: str, root: Path | None = None) -> Path:
    """`inventories/NAME` below `root` (default: the working directory), or the path of a directory that holds
    a mail.yml, or of the mail.yml itself. UserError lists the inventories that exist."""
    root = root or Path.cwd()
    given = root / Path(name_or_path).expanduser()
    for directory in (root / FOLDER / name_or_path, given, given.parent if given.name == SETTINGS else given):
        if (directory / SETTINGS).is_file():
            return directory
    there = sorted(path.parent.name for path in (root / FOLDER).glob(f"*/{SETTINGS}"))
    known = f"There are: {', '.join(there)}." if there else f"There are none below {root / FOLDER}."
    raise UserError(
        f"{name_or_path}: no inventory of this name, nor a directory with a {SETTINGS}.\n"
        f"{known} `mailkeep init NAME --host … --admin …` makes a new one."
    )


def label(directory: Path) -> str:
    """What the user would type to name this inventory: its NAME below `inventories/`, else its path."""
    directory = directory.absolute()
    return directory.name if directory.parent == Path.cwd() / FOLDER else str(directory)


def hosts(directory: Path) -> dict[str, dict[str, object]]:
    """The hosts that `inventory.py` gives pyinfra, with their data: every public list is a group of names
    or of (name, data), and so is the first of every public tuple, the second being data for all of them."""
    file = directory / HOSTS
    if not file.is_file():
        raise UserError(f"{file}: not there. It names the hosts; `mailkeep init` writes one to copy from.")
    found: dict[str, dict[str, object]] = {}
    try:
        for name, group in runpy.run_path(str(file)).items():
            if isinstance(group, list | tuple) and not name.startswith("_"):
                members, shared = group if isinstance(group, tuple) else (group, {})
                for member in members:
                    host, own = member if isinstance(member, tuple) else (member, {})
                    found[host] = {**shared, **found.get(host, {}), **own}
    except Exception as error:  # it is the user's program: anything can happen
        raise UserError(f"{file}: it does not run: {type(error).__name__}: {error}") from error
    return found
