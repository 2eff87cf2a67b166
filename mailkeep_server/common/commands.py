"""Other programs, each with an end."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import IO


def run(*command: str, stdin: str = "", check: bool = True, timeout: float = 5.0) -> str:
    """Standard output of a command that must succeed, unless `check` is false. Raises OSError, RuntimeError or
    subprocess.TimeoutExpired."""
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
        raise _failed(command, done.returncode, done.stderr or done.stdout)
    return done.stdout


@contextmanager
def reading(*command: str, timeout: float = 5.0) -> Iterator[IO[bytes]]:
    """Standard output of a command as it comes, for what is too long to have at once. When the reader has had enough
    the command is ended; who reads all hears if it failed. Raises as `run` does."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        late = Timer(timeout, process.kill)
        late.start()
        try:
            yield process.stdout
            if process.stdout.read(1):
                return
            if code := process.wait():
                if code == -signal.SIGKILL:
                    raise subprocess.TimeoutExpired(command, timeout)
                raise _failed(command, code, process.stderr.read().decode(errors="replace"))
        finally:
            late.cancel()
            process.kill()


def _failed(command: tuple[str, ...], code: int, said: str) -> RuntimeError:
    return RuntimeError(f"{' '.join(command[:3])}: exit {code}: {said.strip()[-200:]}")
