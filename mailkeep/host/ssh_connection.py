"""The only way in: the ssh program, with the operator's SSH configuration. Every command that needs a host goes this
way. So keys, agent, jump hosts and known hosts are those of `ssh HOST`.

One connection carries all commands to a host (ssh_config(5), ControlMaster). It asks nothing: where ssh would ask, as
about an unknown host key, it fails with ssh's own words. A host that no longer answers ends it within a minute
(ServerAliveInterval), also when its kernel still does.
"""

import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import util as process_end
from typing import IO

from mailkeep.inventory import hosts

CONNECT_TIMEOUT = 10  # seconds for TCP, and for each step until sshd asks who is there
ALIVE_SECONDS, MAX_UNANSWERED = 15, 3
LOGIN_TIMEOUT = 45.0  # seconds for the first command: sshd may accept the key and hang then
COMMAND_TIMEOUT = 300  # seconds, an integer for pyinfra, for any command but a deploy's; the longest takes ten
DEPLOY_TIMEOUT = 3600.0  # seconds: packages may come over a slow line, after another program's apt-get
SSH_FAILED = 255  # ssh(1), EXIT STATUS
SLOW_HOST = "Log in, and see what hangs: `systemctl list-jobs`, `dmesg`. If you cannot, restart the machine."
MAX_DIRECTORY = 55  # bytes: unix(7) has 108 for the path of a socket; ssh adds 17 while it creates it, we two names
OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": str(CONNECT_TIMEOUT),
    "ServerAliveInterval": str(ALIVE_SECONDS),
    "ServerAliveCountMax": str(MAX_UNANSWERED),
    "ControlPersist": "no",  # the operator's own connections have other options, and would not notice a dead host
    # For sessions of the operator's, not for programs.
    "ClearAllForwardings": "yes",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
}
_READY = "mailkeep: connected"
_CHANGED_KEY = "REMOTE HOST IDENTIFICATION HAS CHANGED"
_TELLING = ("banner exchange", "kex_exchange_identification")


_forks_directory = ""


class SshError(Exception):
    """There is no connection, or it has ended. The message is ssh's."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a remote command."""

    code: int
    stdout: bytes
    stderr: bytes


def make_socket_directory() -> str:
    """A directory in which forks of this process have their connections' sockets. The caller removes it: a fork that
    is killed cannot."""
    temporary = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="mailkeep-", dir=temporary if len(temporary) < MAX_DIRECTORY else "/tmp")  # noqa: S108


def use_socket_directory(directory: str) -> None:
    """Call it in the fork."""
    global _forks_directory
    _forks_directory = directory


class SshConnection:
    """A connection to the host of this `name` in the inventory, with the `data` that the inventory gives for it. The
    first command opens it; it ends with this process."""

    def __init__(self, name: str, data: hosts.HostData) -> None:
        self.words = hosts.ssh_words(name, data)
        self._master: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # ends with this object
        self._socket = ""

    @property
    def is_open(self) -> bool:
        return self._master is not None and self._master.poll() is None

    def open(self) -> None:
        """Log in. Raises SshError."""
        self.close()
        directory = tempfile.mkdtemp(prefix="", dir=_forks_directory) if _forks_directory else make_socket_directory()
        process_end.Finalize(self, shutil.rmtree, (directory, True), exitpriority=1)
        self._socket = f"{directory}/ssh"
        self._log.seek(0)
        self._log.truncate()
        try:
            # Its standard input is a pipe from here, so it ends when this process ends, however that ends.
            self._master = subprocess.Popen(
                self._build_command("yes", "INFO", f"echo '{_READY}' && exec cat > /dev/null"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,  # no terminal at which ssh, or the ssh of a jump host, could ask
            )
        except OSError as error:
            raise SshError(f"the program ssh does not start: {error.strerror}") from None
        self._wait_until_ready(self._master)

    def run(self, command: str, stdin: bytes = b"", timeout: float = COMMAND_TIMEOUT) -> Finished:
        """Run `command` in the login shell. Raises SshError without a connection, and when the command takes longer
        than `timeout` seconds. OSError of E2BIG: the command is longer than an argument can be."""
        if not self.is_open:
            self.open()
        try:
            done = subprocess.run(
                self._build_command("no", "ERROR", command),
                input=stdin,
                capture_output=True,
                check=False,
                timeout=timeout,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise SshError(f"no answer within {timeout:.0f} seconds. {SLOW_HOST}") from None
        if done.returncode == SSH_FAILED and self._has_ended():
            raise SshError(self._read_reason() or "the connection has ended")
        return Finished(done.returncode, done.stdout, done.stderr)

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start `command` in the login shell, for input or output that is too long for memory. The caller uses its
        pipes and ends it; what it writes to standard error is dropped. Raises SshError without a connection."""
        if not self.is_open:
            self.open()
        return subprocess.Popen(
            self._build_command("no", "ERROR", command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self) -> None:
        if master := self._master:
            self._master = None
            master.kill()
            master.wait()
            for pipe in (master.stdin, master.stdout):
                if pipe:
                    pipe.close()
        if self._socket:
            shutil.rmtree(os.path.dirname(self._socket), ignore_errors=True)  # noqa: PTH120

    def _build_command(self, master: str, log_level: str, command: str) -> list[str]:
        options = OPTIONS | {"ControlMaster": master, "ControlPath": self._socket, "LogLevel": log_level}
        *words, target = self.words
        # An option comes first, since ssh takes the first value that it meets.
        return [words[0], *(f"-o{key}={value}" for key, value in options.items()), *words[1:], "--", target, command]

    def _wait_until_ready(self, master: subprocess.Popen[bytes]) -> None:
        assert master.stdout
        output, end = b"", time.monotonic() + LOGIN_TIMEOUT
        while f"{_READY}\n".encode() not in output:
            ready, _, _ = select.select([master.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                self.close()
                raise SshError(f"no answer within {LOGIN_TIMEOUT:.0f} seconds. {SLOW_HOST}")
            chunk = os.read(master.stdout.fileno(), 4096)
            if not chunk:
                master.wait()
                reason = self._read_reason() or output.decode(errors="replace").strip().rpartition("\n")[2]
                self.close()
                raise SshError(reason or "ssh ended without a word")
            output += chunk

    def _has_ended(self) -> bool:
        """Whether the connection has ended, not the command alone."""
        assert self._master
        with suppress(subprocess.TimeoutExpired):
            self._master.wait(timeout=1)
        return self._master.returncode is not None

    def _read_reason(self) -> str:
        """The last line that ssh has logged, or the line before it that says more."""
        self._log.seek(0)
        text = self._log.read().decode(errors="replace")
        if _CHANGED_KEY in text:
            return _CHANGED_KEY.capitalize()
        lines = text.split("\n")
        lines = [line.strip().removeprefix("ssh: ").rstrip(".") for line in lines if line.strip()]
        return next((line for line in lines if any(phrase in line for phrase in _TELLING)), lines[-1] if lines else "")
