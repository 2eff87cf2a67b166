"""The SSH connection to a host of an inventory: as root, by the same options with which pyinfra reaches it."""

import errno
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from getpass import getpass
from pathlib import Path
from shlex import join
from typing import Any, TypeVar

from testinfra.backend.base import CommandResult
from testinfra.backend.ssh import SshBackend
from testinfra.host import Host

from mailkeep.errors import UserError
from mailkeep.host import preflight, preflight_facts, preflight_rules
from mailkeep.host.ssh_failure import explain_ssh_failure
from mailkeep.inventory import hosts as inventories
from mailkeep.parts import server_package

T = TypeVar("T")

# pyinfra's host data (mailkeep.inventory.hosts) and the option of ssh(1) that each stands for.
SSH_OPTIONS = {
    "ssh_hostname": "HostName",
    "ssh_port": "Port",
    "ssh_user": "User",
    "ssh_known_hosts_file": "UserKnownHostsFile",
    "ssh_strict_host_key_checking": "StrictHostKeyChecking",
}
ALIVE_OPTION = "-o ServerAliveInterval=15"  # ends a connection to a machine that has gone, after 45 seconds
LOGIN_TIMEOUT = 45.0  # seconds for the first command: sshd may accept the key and hang then
COMMAND_TIMEOUT = 300.0  # seconds for any other command; the longest takes ten
SLOW_HOST = "Log in, and see what hangs: `systemctl list-jobs`, `dmesg`. If you cannot, restart the machine."


class UnreachableError(Exception):
    """No command can be run on the host. The message is the last line of ssh, sudo or Python; `remedy` says what
    helps."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class SudoSshBackend(SshBackend):  # type: ignore[misc]
    """testinfra's SSH backend, but sudo reads its password from standard input, where no process list shows it.

    `typed_command` is the ssh command with which the operator reaches the same host. No command takes longer than
    `command_timeout` seconds.
    """

    def __init__(self, name: str, data: Mapping[str, Any], password: str | None = None, **options: Any) -> None:
        super().__init__(name, **options)
        self.data, self.password = data, password
        self.command_timeout = LOGIN_TIMEOUT

    @property
    def typed_command(self) -> str:
        return inventories.ssh_command(self.hostname, self.data)

    def get_sudo_command(self, command: str, sudo_user: str | None) -> str:
        if self.password is None:
            return str(super().get_sudo_command(command, sudo_user))
        # -k: sudo must ask, even if it remembers. Else the command would find the password on its standard input.
        return str(self.quote("sudo -k -S -p '' /bin/sh -c %s", command))

    def run_local(self, command: str, *args: str) -> CommandResult:
        line = self.encode(self.quote(command, *args))
        stdin = f"{self.password}\n".encode() if self.sudo and self.password is not None else b""
        try:
            done = subprocess.run(  # noqa: S602
                line, shell=True, input=stdin, capture_output=True, check=False, timeout=self.command_timeout
            )
        except subprocess.TimeoutExpired:
            raise UnreachableError(f"ssh: no answer within {self.command_timeout:.0f} seconds", SLOW_HOST) from None
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            remedy = "mail.yml declares too much for one host: move some of its domains to another."
            raise UnreachableError(f"ssh: a command of {len(line) // 1024} KiB is too long", remedy) from None
        return self.result(done.returncode, line, done.stdout, done.stderr)


@dataclass(frozen=True)
class RemoteHost:
    """`name` is the host's name in the inventory, `data` the data that the inventory gives pyinfra for it."""

    name: str
    data: Mapping[str, Any]

    @property
    def settings_file(self) -> Path:
        """The host's mail.yml. Raises UserError when the data do not name it."""
        return inventories.settings_path(self.name, self.data)

    @property
    def inventory_label(self) -> str:
        """The inventory's name, as the operator would type it."""
        return inventories.inventory_label(self.settings_file.parent)

    def connect(self) -> Host:
        """A root shell. The first call connects, and asks at the terminal for a sudo password if one is needed.

        Raises UnreachableError.
        """
        # No cached_property: up to Python 3.11 it lets one host connect at a time.
        shell: Host | None = vars(self).get("root shell")
        if shell is None:
            shell = vars(self)["root shell"] = self._open_root_shell()
        return shell

    def run(self, command: str) -> CommandResult:
        """Run `command` as root. Raises UnreachableError."""
        return _run(self.connect(), command)

    def run_mailkeep(self, command: str) -> CommandResult:
        """Run a command that needs Mailkeep's package on the host. Raises UnreachableError, also when it is missing."""
        done = self.run(command)
        if done.rc and self.run(f"test -e {server_package.DIRECTORY}").rc:
            remedy = f"`mailkeep deploy {self.inventory_label}` installs it."
            raise UnreachableError("Mailkeep is not installed on this host yet", remedy)
        return done

    def _open_root_shell(self) -> Host:
        direct = self._open_shell()
        login = _read_login(direct)
        if login.uid == 0:
            direct.backend.command_timeout = COMMAND_TIMEOUT
            return direct
        if trouble := preflight_rules.sudo_problem(login, preflight.can_ask_password(self.data)):
            raise UnreachableError(*trouble)
        if not login.sudo:
            return self._open_shell(sudo=True)
        password = str(self.data.get("_sudo_password") or _ask_sudo_password(self.name))
        with_password = self._open_shell(sudo=True, password=password)
        if (done := _run(with_password, "true")).rc:
            raise UnreachableError(f"sudo: {last_line(done, 'sudo')}", "Run it again with the right password.")
        return with_password

    def _open_shell(self, *, sudo: bool = False, password: str | None = None) -> Host:
        options = [f"-o {option}={self.data[key]}" for key, option in SSH_OPTIONS.items() if self.data.get(key)]
        backend = SudoSshBackend(
            self.name.removeprefix("@ssh/"),
            data=self.data,
            password=password,
            ssh_config=self.data.get("ssh_config_file"),
            ssh_identity_file=self.data.get("ssh_key"),
            ssh_extra_args=" ".join(("-o BatchMode=yes", ALIVE_OPTION, *options)),
            sudo=sudo,
        )
        shell = Host(backend)
        backend.set_host(shell)
        if sudo:  # the login was seen to work
            backend.command_timeout = COMMAND_TIMEOUT
        return shell


def for_each_host(inventory: Path, action: Callable[[RemoteHost], T]) -> Iterator[T]:
    """Run `action` on all hosts at once, and yield the results in the inventory's order. Raises one UserError after the
    last host, naming every failure."""
    remotes = [RemoteHost(name, data) for name, data in inventories.read_hosts(inventory).items()]
    failures = []
    with ThreadPoolExecutor(len(remotes)) as pool:
        futures = {remote.name: pool.submit(action, remote) for remote in remotes}
        for name, future in futures.items():
            try:
                result = future.result()
            except UnreachableError as error:
                failures.append(f"{name}: {error}. {error.remedy}")
            except UserError as error:
                failures.append(f"{name}: {error}")
            else:
                yield result
    if failures:
        raise UserError("\n".join(failures))


def last_line(done: CommandResult, program: str = "") -> str:
    """The last line of a failed command, without the leading "`program`: "."""
    lines = (done.stderr or done.stdout).strip().splitlines()
    return str(lines[-1]).removeprefix(f"{program}: ") if lines else f"exit {done.rc}"


def _run(shell: Host, command: str) -> CommandResult:
    try:
        return shell.run(command)
    except RuntimeError as error:  # testinfra raises it for ssh's exit code 255; its argument is the result
        done, backend = error.args[0], shell.backend
        message, remedy = last_line(done, "ssh"), explain_ssh_failure(done.stderr, backend.hostname, backend.data)
        raise UnreachableError(f"ssh: {message.rstrip('.')}", remedy) from None


def _read_login(shell: Host) -> preflight_facts.Login:
    """The user that ssh logs in as. Raises UnreachableError."""
    fact = preflight_facts.LoginFact()
    done = _run(shell, join(["sh", "-c", fact.command()]))
    try:
        return fact.process(done.stdout.splitlines())
    except (KeyError, ValueError):
        remedy = f"`{shell.backend.typed_command}` must give you a shell."
        raise UnreachableError(f"no shell: {last_line(done)}", remedy) from None


@cache
def _ask_sudo_password(name: str) -> str:
    """Asked once per host, and for one host at a time; only this process knows it."""
    try:
        with _terminal:
            return getpass(f"[{name}] sudo password: ")
    except EOFError:
        return ""


_terminal = threading.Lock()
