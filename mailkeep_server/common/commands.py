"""Running other programs, each with a timeout."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import IO


def run(*command: str, stdin: str = "", check: bool = True, timeout: float = 5.0) -> str:
    """Standard output of a command. Raises OSError, subprocess.TimeoutExpired after `timeout` seconds, and, unless
    `check` is false, RuntimeError for another exit code than 0."""
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout,
    )
    if check and done.returncode:
        raise _build_error(command, done.returncode, done.stderr or done.stdout)
    return done.stdout


@contextmanager
def stream_output(*command: str, timeout: float = 5.0) -> Iterator[IO[bytes]]:
    """Standard output of a command as it comes, for output that is too long for memory. Raises as `run` does.

    A reader that stops early ends the command. Only a reader that reads to the end learns of a failure.
    """
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        killer = Timer(timeout, process.kill)
        killer.start()
        try:
            yield process.stdout
            if process.stdout.read(1):
                return
            if code := process.wait():
                if code == -signal.SIGKILL:
                    raise subprocess.TimeoutExpired(command, timeout)
                raise _build_error(command, code, process.stderr.read().decode(errors="replace"))
        finally:
            killer.cancel()
            process.kill()


def _build_error(command: tuple[str, ...], code: int, output: str) -> RuntimeError:
    return RuntimeError(f"{' '.join(command[:3])}: exit {code}: {output.strip()[-200:]}")
