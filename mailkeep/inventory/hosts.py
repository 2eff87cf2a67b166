"""Inventory directories: `inventories/NAME/` with `mail.yml`, `inventory.py` and `secrets/`."""

import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import join
from typing import Any

from mailkeep.errors import UserError
from mailkeep.locations import HOME_VARIABLE, expand_home, inventories_home

INVENTORIES = "inventories"
SETTINGS_FILE = "mail.yml"
HOSTS_FILE = "inventory.py"
DEPLOY = "mailkeep.deploy.deploy_host"
"""The function that pyinfra runs for each host."""


def find_inventory(name_or_path: str, home: Path | None = None) -> Path:
    """The inventory's directory: `inventories/NAME` below `home` (default: `locations.inventories_home`), or the path
    of a directory with a mail.yml, or of the mail.yml itself. UserError says where it looked and what there is."""
    folder = (home or inventories_home()) / INVENTORIES
    path = Path.cwd() / expand_home(name_or_path)
    for directory in (folder / name_or_path, path, path.parent if path.name == SETTINGS_FILE else path):
        if (directory / SETTINGS_FILE).is_file():
            return directory
    names = sorted(file.parent.name for file in folder.glob(f"*/{SETTINGS_FILE}"))
    known = f"There are: {', '.join(names)}." if names else f"There are none below {folder}."
    raise UserError(
        f"{name_or_path}: no such inventory: no {SETTINGS_FILE} in {folder / name_or_path}/, nor in {path}/.\n"
        f"{known} If it is elsewhere, give the path of its directory, or name the directory that holds "
        f"{INVENTORIES}/: `--in DIR`, or {HOME_VARIABLE}.\n"
        "`mailkeep init NAME --host … --address … --admin …` makes a new one."
    )


def inventory_label(directory: Path) -> str:
    """What the operator would type to name this inventory: its NAME below `inventories/`, else its path."""
    directory = directory.absolute()
    return directory.name if directory.parent == inventories_home() / INVENTORIES else str(directory)


def pyinfra_command(directory: Path, *options: str, deploy: str = DEPLOY) -> list[str]:
    """The pyinfra command that deploys this inventory. It reads no config.py that happens to be in the working
    directory: a plan would not know of it."""
    program = Path(sys.executable).parent / "pyinfra"
    return [str(program), "--config", "/dev/null", str(directory.resolve() / HOSTS_FILE), deploy, "-y", *options]


def read_hosts(directory: Path) -> dict[str, dict[str, object]]:
    """The hosts that `inventory.py` gives pyinfra, with their data: every public list is a group of names
    or of (name, data), and so is the first of every public tuple, the second being data for all of them.
    UserError unless there is one, and each says where its mail.yml is."""
    file = directory / HOSTS_FILE
    if not file.is_file():
        raise UserError(f"{file}: not there. It names the hosts; `mailkeep init` writes one to copy from.")
    try:
        found = _groups(runpy.run_path(str(file)))
    except (Exception, SystemExit) as error:  # it is the user's program: anything can happen
        raise UserError(f"{file}: it does not run: {type(error).__name__}: {error}") from error
    if not found:
        raise UserError(f"{file}: it names no host. A list `hosts = [(NAME, DATA)]` does.")
    for host, data in found.items():
        if not isinstance(host, str):
            raise UserError(f"{file}: {host!r} is no name of a host. Write it in quotes.")
        settings_path(host, data)
    return found


def _groups(public: dict[str, Any]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for name, group in public.items():
        if isinstance(group, list | tuple) and not name.startswith("_"):
            members, shared = group if isinstance(group, tuple) else (group, {})
            for member in members:
                host, own = member if isinstance(member, tuple) else (member, {})
                found[host] = {**shared, **found.get(host, {}), **own}
    return found


def settings_path(host: str, data: Any) -> Path:
    """The mail.yml that a host's data (pyinfra's, or of `hosts`) name. UserError when they do not."""
    if isinstance(file := data.get("mailkeep"), str | Path):
        return Path(file)
    raise UserError(
        f"{HOSTS_FILE}: host {host}: its data do not say where its mail.yml is. "
        '`{"mailkeep": str(here / "mail.yml")}` does.'
    )


def ssh_command(host: str, data: Mapping[str, object]) -> str:
    """What the user would type to get where pyinfra is sent."""
    given = {"-F": "ssh_config_file", "-l": "ssh_user", "-p": "ssh_port", "-i": "ssh_key"}
    options = (word for option, key in given.items() if data.get(key) for word in (option, str(data[key])))
    return join(["ssh", *options, str(data.get("ssh_hostname") or host.removeprefix("@ssh/"))])
