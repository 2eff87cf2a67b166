"""pyinfra's connection to a host, by the same program as all other commands: ssh.

pyinfra's own (paramiko) reads a part of the SSH configuration only, and accepts unknown host keys. And it passes sudo's
password as an argument (`env PYINFRA_SUDO_PASSWORD=…`), which any user sees in the process list.
"""

from typing import IO, Any

from pyinfra.api import StringCommand, inventory
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.output import echo, format_text
from pyinfra.api.util import get_file_io
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import (
    CommandOutput,
    OutputLine,
    clear_askpass_cache,
    execute_command_with_sudo_retry,
    extract_control_arguments,
    make_unix_command,
    make_unix_command_for_host,
    remove_any_sudo_askpass_file,
)

from mailkeep.host.ssh_connection import DEPLOY_TIMEOUT, SSH_FAILED, SshConnection, SshError

_SUDO_READS = "sudo -H -k -S -p ''"
"""sudo with its password on standard input, as `mailkeep.host.remote` does it. -k: sudo must ask, even if it
remembers."""
_SUDO_HAS_READ = "mailkeep: the lines for sudo end here"
_SKIP_LINES = f'while IFS= read -r line && [ "$line" != "{_SUDO_HAS_READ}" ]; do :; done'
"""For a user who needs no password: sudo leaves it on standard input then."""

_get_connectors = inventory.get_execution_connectors


def use_ssh_program() -> None:
    """Have pyinfra reach all hosts by the ssh program. May be called again."""

    def get_connectors() -> dict[str, Any]:
        return {**_get_connectors(), "ssh": SshProgramConnector}  # type: ignore[no-untyped-call]

    inventory.get_execution_connectors = get_connectors


class SshProgramConnector(SSHConnector):
    """Runs commands by `SshConnection`. A connection that ends is a failed command with ssh's reason as its error."""

    connection: SshConnection | None = None

    def connect(self) -> None:
        """Raises ConnectError with ssh's reason."""
        self.connection = SshConnection(self.host.name, self.host.data)
        try:
            self.connection.open()
        except SshError as error:
            raise ConnectError(str(error)) from None

    def disconnect(self) -> None:
        if not self.connection or not self.connection.is_open:
            clear_askpass_cache(self.host)  # a host that froze would have to be waited for once more
        remove_any_sudo_askpass_file(self.host)  # pyinfra would do it afterwards, by another connection
        if self.connection:
            self.connection.close()

    def run_shell_command(
        self, command: StringCommand, print_output: bool = False, print_input: bool = False, **arguments: Any
    ) -> tuple[bool, CommandOutput]:
        """As pyinfra's, for which a command takes at most DEPLOY_TIMEOUT seconds by default."""
        control = extract_control_arguments(arguments)  # type: ignore[arg-type]
        stdin = _encode_lines(control.get("_stdin"))
        timeout = control.get("_timeout") or DEPLOY_TIMEOUT

        def execute() -> tuple[int, CommandOutput]:
            password = self._find_sudo_password(arguments)
            if password:
                line = _read_sudo_password(command, arguments)
            else:
                line = make_unix_command_for_host(self.state, self.host, command, **arguments)
            if print_input:
                echo(f"{self.host.print_prefix}>>> {line}", err=True)
            lines = f"{password}\n{_SUDO_HAS_READ}\n".encode() if password else b""
            return self._run(line.get_raw_value(), lines + stdin, timeout)

        code, output = execute_command_with_sudo_retry(self.host, arguments, execute)  # type: ignore[arg-type]
        if print_output:
            for line in output:
                text = line.line if line.buffer_name == "stdout" else format_text(line.line, "red")
                echo(f"{self.host.print_prefix}{text}", err=True)
        return code in (control.get("_success_exit_codes") or (0,)), output

    def _find_sudo_password(self, arguments: dict[str, Any]) -> str:
        """From the inventory, or as pyinfra has asked for it; "" if sudo needs none."""
        if not arguments.get("_sudo"):
            return ""
        return str(arguments.get("_sudo_password") or self.host.connector_data.get("prompted_sudo_password") or "")

    def _run(self, command: str, stdin: bytes, timeout: float) -> tuple[int, CommandOutput]:
        assert self.connection
        try:
            done = self.connection.run(command, stdin, timeout)
        except SshError as error:
            return SSH_FAILED, CommandOutput([OutputLine("stderr", f"ssh: {error}")])
        lines = [
            OutputLine(name, line)
            for name, text in (("stdout", done.stdout), ("stderr", done.stderr))
            for line in _split_lines(text)
        ]
        return done.code, CommandOutput(lines)

    def _put_file(self, filename_or_io: str | IO[Any], remote_location: str) -> None:
        assert self.connection
        with get_file_io(filename_or_io) as file:
            content = file.read()
        self._transfer(StringCommand("cat", ">", remote_location), content)

    def _get_file(self, remote_filename: str, filename_or_io: str | IO[Any]) -> None:
        content = self._transfer(StringCommand("cat", remote_filename))
        with get_file_io(filename_or_io, "wb") as file:
            file.write(content)

    def _transfer(self, command: StringCommand, content: bytes = b"") -> bytes:
        """Raises OSError, as pyinfra expects of a transfer that fails."""
        assert self.connection
        try:
            done = self.connection.run(command.get_raw_value(), content, DEPLOY_TIMEOUT)
        except SshError as error:
            raise OSError(f"ssh: {error}") from None
        if done.code:
            raise OSError(done.stderr.decode(errors="replace").strip())
        return done.stdout


def _read_sudo_password(command: StringCommand, arguments: dict[str, Any]) -> StringCommand:
    """The command for a shell, with sudo that reads its password and the end of it from standard input."""
    after_password = StringCommand(f"{_SKIP_LINES};", command)
    line = make_unix_command(after_password, **{**arguments, "_sudo_password": ""})
    before, sudo, after = line.get_raw_value().partition("sudo -H -n ")
    assert sudo  # as pyinfra writes it without a password
    return StringCommand(f"{before}{_SUDO_READS} {after}")


def _split_lines(text: bytes) -> list[str]:
    """At line feeds only, as pyinfra does: the files that facts print have other characters that end a line."""
    return text.decode(errors="replace").removesuffix("\n").split("\n") if text else []


def _encode_lines(stdin: Any) -> bytes:
    """Of pyinfra's `_stdin`: a file, a text, or lines."""
    if not stdin:
        return b""
    lines = stdin.readlines() if hasattr(stdin, "readlines") else [stdin] if isinstance(stdin, str) else stdin
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines).encode()
