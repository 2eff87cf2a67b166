"""A root shell on a host of an inventory, over SSH."""

import errno
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from getpass import getpass
from pathlib import Path
from shlex import join
from typing import Any, TypeVar

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

from mailkeep.errors import UserError
from mailkeep.host import preflight, preflight_facts, preflight_rules
from mailkeep.host.ssh_connection import COMMAND_TIMEOUT, SSH_FAILED, SshConnection, SshError
from mailkeep.host.ssh_failure import explain_ssh_failure
from mailkeep.inventory import hosts as inventories
from mailkeep.parts import server_package

T = TypeVar("T")


class UnreachableError(Exception):
    """No command can be run on the host. The message is the last line of ssh, sudo or Python; `remedy` says what
    helps."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class SudoSshBackend(BaseBackend):  # type: ignore[misc]
    """A backend of testinfra's over the connection that all commands share. sudo reads its password from standard
    input, where no process list shows it.

    `typed_command` is the ssh command with which the operator reaches the same host.
    """

    def __init__(
        self,
        name: str,
        data: Mapping[str, Any],
        connection: SshConnection | None = None,
        *,
        sudo: bool = False,
        password: str | None = None,
    ) -> None:
        super().__init__(name, sudo=sudo)
        self.data, self.password = data, password
        self.connection = connection or SshConnection(name, data)

    @property
    def typed_command(self) -> str:
        return inventories.ssh_command(self.hostname, self.data)

    def get_sudo_command(self, command: str, sudo_user: str | None) -> str:
        if self.password is None:
            return str(super().get_sudo_command(command, sudo_user))
        # -k: sudo must ask, even if it remembers. Else the command would find the password on its standard input.
        return str(self.quote("sudo -k -S -p '' /bin/sh -c %s", command))

    def run(
        self, command: str, *args: str, stdin: bytes = b"", timeout: float = COMMAND_TIMEOUT, **_: Any
    ) -> CommandResult:
        """Raises UnreachableError. The command gets `stdin` after sudo has read its own line."""
        line = self.get_command(command, *args)
        password = f"{self.password}\n".encode() if self.sudo and self.password is not None else b""
        try:
            done = self.connection.run(line, password + stdin, timeout)
        except SshError as error:
            raise UnreachableError(f"ssh: {error}", self._explain(str(error))) from None
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            remedy = "mail.yml declares too much for one host: move some of its domains to another."
            raise UnreachableError(f"ssh: a command of {len(line) // 1024} KiB is too long", remedy) from None
        result = self.result(done.code, line.encode(), done.stdout, done.stderr)
        if done.code == SSH_FAILED:
            raise UnreachableError(f"ssh: {last_line(result, 'ssh').rstrip('.')}", self._explain(result.stderr))
        return result

    def _explain(self, message: str) -> str:
        return explain_ssh_failure(message, self.hostname, self.data)


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
        return self.connect().run(command)

    def run_mailkeep(self, command: str) -> CommandResult:
        """Run a command that needs Mailkeep's package on the host. Raises UnreachableError, also when it is missing."""
        done = self.run(command)
        if done.rc and self.run(f"test -e {server_package.DIRECTORY}").rc:
            remedy = f"`mailkeep deploy {self.inventory_label}` installs it."
            raise UnreachableError("Mailkeep is not installed on this host yet", remedy)
        return done

    def _open_root_shell(self) -> Host:
        connection = SshConnection(self.name, self.data)
        direct = self._open_shell(connection)
        login = _read_login(direct)
        if login.uid == 0:
            return direct
        if trouble := preflight_rules.sudo_problem(login, preflight.can_ask_password(self.data)):
            raise UnreachableError(*trouble)
        if not login.sudo:
            return self._open_shell(connection, sudo=True)
        password = str(self.data.get("_sudo_password") or _ask_sudo_password(self.name))
        with_password = self._open_shell(connection, sudo=True, password=password)
        if (done := with_password.run("true")).rc:
            raise UnreachableError(f"sudo: {last_line(done, 'sudo')}", "Run it again with the right password.")
        return with_password

    def _open_shell(self, connection: SshConnection, *, sudo: bool = False, password: str | None = None) -> Host:
        backend = SudoSshBackend(self.name, self.data, connection, sudo=sudo, password=password)
        shell = Host(backend)
        backend.set_host(shell)
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


def _read_login(shell: Host) -> preflight_facts.Login:
    """The user that ssh logs in as. Raises UnreachableError."""
    fact = preflight_facts.LoginFact()
    done = shell.run(join(["sh", "-c", fact.command()]))
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
