"""Inventory directories: `inventories/NAME/` with `mail.yml`, `inventory.py` and `secrets/`."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import join
from typing import Any, Protocol

from mailkeep.errors import UserError
from mailkeep.locations import HOME_VARIABLE, expand_home, inventories_home

INVENTORIES = "inventories"
SETTINGS_FILE = "mail.yml"
HOSTS_FILE = "inventory.py"
UNANSWERED = "TODO"
"""In a draft, in place of what only the operator knows. `check` refuses it."""
DEPLOY = "mailkeep.deploy.deploy_host"
"""The function that pyinfra runs for each host."""
RUN_PYINFRA = (
    "from pyinfra_cli.main import main; from mailkeep.host.ssh_connector import use_ssh_program; "
    "use_ssh_program(); main()"
)
"""As its program does, which is not always beside Python's: `pip install --user` puts it elsewhere. But hosts are
reached as by all other commands."""
SSH_FLAGS = {"-F": "ssh_config_file", "-l": "ssh_user", "-p": "ssh_port", "-i": "ssh_key"}
SSH_OPTIONS = {
    "ssh_known_hosts_file": "UserKnownHostsFile",
    "ssh_strict_host_key_checking": "StrictHostKeyChecking",
}
"""pyinfra's names of a host's data, and the options of ssh(1) that they stand for."""
_UNUSABLE_DATA = ("ssh_password", "ssh_key_password", "ssh_paramiko_connect_kwargs")


class HostData(Protocol):
    """The data of a host, as `read_hosts` or pyinfra has them."""

    def get(self, key: str, /) -> Any: ...


def find_inventory(name_or_path: str, home: Path | None = None) -> Path:
    """The inventory's directory: `inventories/NAME` below `home` (default: `locations.inventories_home`), or the path
    of a directory with a mail.yml, or of the mail.yml itself. UserError says where it looked and what there is."""
    folder = (home or inventories_home()) / INVENTORIES
    path = Path.cwd() / expand_home(name_or_path)
    for directory in (folder / name_or_path, path, path.parent if path.name == SETTINGS_FILE else path):
        if (directory / SETTINGS_FILE).is_file():
            return directory
    names = list_inventories(home)
    known = f"There are: {', '.join(names)}." if names else f"There are none below {folder}."
    raise UserError(
        f"{name_or_path}: no such inventory. Looked for {SETTINGS_FILE} in {folder / name_or_path}/ and in {path}/.\n"
        f"{known} For one elsewhere, give the path of its directory, or say which directory holds {INVENTORIES}/: "
        f"`--in DIR`, or {HOME_VARIABLE}.\n"
        "`mailkeep init NAME --host … --address … --admin …` creates a new one."
    )


def list_inventories(home: Path | None = None) -> list[str]:
    """The names of the inventories below `home`, as `find_inventory` takes it."""
    return sorted(file.parent.name for file in ((home or inventories_home()) / INVENTORIES).glob(f"*/{SETTINGS_FILE}"))


def inventory_label(directory: Path) -> str:
    """What the operator would type to name this inventory: its NAME below `inventories/`, else its path."""
    directory = directory.absolute()
    return directory.name if directory.parent == inventories_home() / INVENTORIES else str(directory)


def pyinfra_command(directory: Path, *options: str, deploy: str = DEPLOY) -> list[str]:
    """The pyinfra command that deploys this inventory. It reads no config.py that happens to be in the working
    directory: a plan would not know of it."""
    program = [sys.executable, "-P", "-c", RUN_PYINFRA, "--config", "/dev/null"]
    return [*program, str(directory.resolve() / HOSTS_FILE), deploy, "-y", *options]


def read_only_host(directory: Path) -> tuple[str, dict[str, object]]:
    """Name and data of the host, for what concerns the mail of one. UserError if the inventory has several hosts."""
    hosts = read_hosts(directory)
    if len(hosts) > 1:
        names = ", ".join(hosts)
        raise UserError(f"{directory}: it has several hosts ({names}). Make an inventory with the one that you mean.")
    [(name, data)] = hosts.items()
    return name, data


def read_hosts(directory: Path) -> dict[str, dict[str, object]]:
    """The hosts that `inventory.py` gives pyinfra, with their data. Every public list is a group of names or of (name,
    data). A public tuple is (such a list, data for all its hosts). UserError unless there is a host, and each host's
    data name its mail.yml."""
    file = directory / HOSTS_FILE
    if not file.is_file():
        raise UserError(f"{file}: this file is missing. It names the hosts; `mailkeep init` writes one to copy from.")
    try:
        hosts = _merge_groups(runpy.run_path(str(file)))
    except (Exception, SystemExit) as error:  # the file is the user's program and may raise anything
        raise UserError(f"{file}: this program fails: {type(error).__name__}: {error}") from error
    if not hosts:
        raise UserError(f"{file}: it names no host. Add a list `hosts = [(NAME, DATA)]`.")
    for host, data in hosts.items():
        if not isinstance(host, str):
            raise UserError(f"{file}: {host!r} is no name of a host. Write the name in quotes.")
        if host == UNANSWERED:
            raise UserError(
                f"{file}: write in place of {UNANSWERED} how SSH reaches the new server. The old server itself would "
                "lose its mail server to a deploy with --adopt."
            )
        settings_path(host, data)
        if unusable := [key for key in _UNUSABLE_DATA if data.get(key)]:
            raise UserError(
                f"{file}: host {host}: Mailkeep logs in by the program ssh and with a key, and cannot use "
                f"{', '.join(unusable)}. Remove that, and have `{ssh_command(host, data)}` log in without asking "
                "anything: `ssh-copy-id` installs a key, `ssh-add` remembers its passphrase."
            )
    return hosts


def _merge_groups(public: dict[str, Any]) -> dict[str, dict[str, object]]:
    """As pyinfra does: of a host in several groups, an earlier group's data win, and its own data win over those."""
    hosts: dict[str, dict[str, object]] = {}
    for name, group in public.items():
        if isinstance(group, list | tuple) and not name.startswith("_"):
            members, group_data = group if isinstance(group, tuple) else (group, {})
            for member in members:
                host, host_data = member if isinstance(member, tuple) else (member, {})
                hosts[host] = {**group_data, **hosts.get(host, {}), **host_data}
    return hosts


def settings_path(host: str, data: Any) -> Path:
    """The mail.yml that a host's data name (pyinfra's, or those of `read_hosts`). UserError if they name none."""
    if isinstance(file := data.get("mailkeep"), str | Path):
        return Path(file)
    raise UserError(
        f"{HOSTS_FILE}: host {host}: its data do not name its mail.yml. "
        'Add `{"mailkeep": str(Path(__file__).resolve().parent / "mail.yml")}`.'
    )


def ssh_command(host: str, data: HostData) -> str:
    """The ssh(1) command that reaches the host, as the operator would type it."""
    return join(ssh_words(host, data))


def ssh_words(host: str, data: HostData) -> list[str]:
    """The words of that command; the last is the host's name for ssh."""
    words = [word for option, key in SSH_FLAGS.items() if data.get(key) for word in (option, str(data.get(key)))]
    words += [f"-o{option}={value}" for option, value in _ssh_options(data)]
    return ["ssh", *words, str(data.get("ssh_hostname") or host.removeprefix("@ssh/"))]


def _ssh_options(data: HostData) -> Iterator[tuple[str, object]]:
    yield from ((option, data.get(key)) for key, option in SSH_OPTIONS.items() if data.get(key))
    if data.get("ssh_forward_agent"):
        yield "ForwardAgent", "yes"
    if data.get("ssh_allow_agent") is False:
        yield "IdentityAgent", "none"
