"""A machine of a move, and the steps that `mailkeep_server.moving_house` runs on it."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from shlex import join, quote, split
from typing import IO, Any

from testinfra.backend.base import CommandResult

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, UnreachableError, last_line
from mailkeep.host.ssh_connection import SshError
from mailkeep.parts.server_package import PYTHON

ShowProgress = Callable[[str], None]

CHUNK = 2**16
END_TIMEOUT = 60.0  # seconds, for a process whose other end has ended
PROGRESS_SECONDS = 5.0
STEP_FAULT = 1
"""The exit code of a step that has failed. An older Mailkeep, which does not know the step, exits with another."""
STEP_TIMEOUT = 3600.0  # seconds: reading the sizes of a large mailbox, or placing it


class Machine:
    """`label` is what the operator calls it: the old or the new machine, with its name for ssh."""

    def __init__(self, remote: RemoteHost, label: str) -> None:
        self.remote, self.label = remote, label

    def run_step(self, *words: object) -> str:
        """Standard output of a step. Raises UserError with the words of the machine."""
        return self.run(f"{PYTHON} move {join(map(str, words))}")

    def run_detached_step(self, *words: object) -> str:
        """A step that goes on when this program ends before it."""
        return self.run(f"systemd-run --quiet --wait --pipe --collect {PYTHON} move {join(map(str, words))}")

    def run(self, command: str) -> str:
        """Raises UserError."""
        return self._read_output(self._try_command(command))

    def read_status(self) -> Mapping[str, Any]:
        """The fields of `mailkeep_server.moving_house.record.MoveRecord`. UserError if its Mailkeep is older."""
        done = self._try_command(f"{PYTHON} move status")
        if done.rc not in (0, STEP_FAULT):
            raise UserError(
                f"{self.label}: {last_line(done)}.\nIt needs this version of Mailkeep. Deploy it there first, by the "
                "inventory as it is: nothing of the move has begun."
            )
        status: dict[str, Any] = json.loads(self._read_output(done))
        return status

    def _read_output(self, done: CommandResult) -> str:
        """Raises UserError with the words of the machine if the command has failed."""
        if done.rc:
            raise UserError(f"{self.label}: {last_line(done)}.")
        return str(done.stdout).strip()

    def _try_command(self, command: str) -> CommandResult:
        """Raises UserError if the machine is not reached."""
        try:
            return self.remote.connect().backend.run(command, timeout=STEP_TIMEOUT)
        except UnreachableError as error:
            raise UserError(f"{self.label}: {error}. {error.remedy}") from None

    @contextmanager
    def start_step(self, *words: object) -> "Iterator[subprocess.Popen[bytes]]":
        """A step with pipes, for what is too long for memory. It is ended with the context."""
        try:
            backend = self.remote.connect().backend
            process = backend.connection.start(backend.get_command(f"{PYTHON} move {join(map(str, words))}"))
        except (UnreachableError, SshError) as error:
            raise UserError(f"{self.label}: {error}.") from None
        try:
            if backend.sudo and backend.password is not None:
                process.stdin.write(f"{backend.password}\n".encode())
                process.stdin.flush()
            yield process
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()


def copy_mail(old: Machine, new: Machine, show_progress: ShowProgress, *, compare: bool = False) -> list[str]:
    """One pass of rsync, through this machine: neither of the two needs a key for the other. Returns what differs, with
    `compare`, which changes nothing. Raises UserError."""
    with new.start_step("receive-mail", *(["--compare"] if compare else [])) as receiver:
        assert receiver.stdin
        assert receiver.stdout
        call = _read_line(receiver.stdout)
        if not call:
            raise UserError(f"{new.label}: the copy did not start. Is `rsync` installed there?")
        with old.start_step("send-mail", "--", *_read_options(call, new)) as sender:
            assert sender.stdin
            assert sender.stdout
            back = threading.Thread(target=_pump, args=(receiver.stdout, sender.stdin), daemon=True)
            back.start()
            _pump(sender.stdout, receiver.stdin, show_progress)
            for process, machine in ((receiver, new), (sender, old)):
                _wait_for_end(process, machine)
            back.join(END_TIMEOUT)
    result = json.loads(new.run_step("result"))
    if result["fault"]:
        raise UserError(f"{new.label}: the copy of the mail failed: {result['fault']}\nRun this again: it goes on.")
    return list(result["differences"])


def copy_files(old: Machine, new: Machine, kept: Sequence[str]) -> None:
    """What the services have made by themselves, and the queue. Raises UserError."""
    with new.start_step("receive-files") as receiver, old.start_step("send-files", "--kept", *kept) as sender:
        assert receiver.stdin
        assert sender.stdout
        _pump(sender.stdout, receiver.stdin)
        for process, machine in ((sender, old), (receiver, new)):
            if _wait_for_end(process, machine):
                raise UserError(f"{machine.label}: the server's state could not be copied.")


def _wait_for_end(process: "subprocess.Popen[bytes]", machine: Machine) -> int:
    """Its exit code. Raises UserError."""
    try:
        return process.wait(END_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise UserError(f"{machine.label}: the copy did not end. Run this again: it goes on.") from None


def _read_line(pipe: IO[bytes]) -> str:
    """Byte by byte: what follows the line is rsync's."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(pipe.fileno(), 1)):
        line += byte
    return line.decode(errors="replace").strip()


def _read_options(call: str, new: Machine) -> list[str]:
    """The options of rsync's sender. The old machine checks them, and names the path itself."""
    words = split(call)
    if words[:3] != ["rsync", "--server", "--sender"] or words[-2:-1] != ["."]:
        raise UserError(f"{new.label}: its rsync asks for something unknown: {quote(call[:200])}.")
    return words[3:-2]


def _pump(source: IO[bytes], target: IO[bytes], show_progress: ShowProgress | None = None) -> None:
    """Until the source ends; then closes the target. A target that has ended is told by its exit code."""
    copied, shown = 0, time.monotonic()
    with suppress(OSError):
        while chunk := os.read(source.fileno(), CHUNK):
            target.write(chunk)
            target.flush()
            copied += len(chunk)
            if show_progress and time.monotonic() - shown > PROGRESS_SECONDS:
                shown = time.monotonic()
                show_progress(f"{copied / 2**20:.0f} MB copied")
    with suppress(OSError):
        target.close()
