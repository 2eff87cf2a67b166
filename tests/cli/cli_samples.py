"""Samples and helpers that the tests of the command line share."""

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

INIT = (
    *("init", "home", "--host", "mail.example.org", "--address", "203.0.113.25", "--address", "2001:db8::25"),
    *("--admin", "you@example.net", "--account", "anna@example.org"),
)
MAILKEEP = Path(sys.executable).parent / "mailkeep"


@dataclass(frozen=True)
class CommandResult:
    code: int
    out: str = field(repr=False)
    err: str = field(repr=False)


Run = Callable[..., CommandResult]


def environment(root: Path) -> dict[str, str]:
    """The environment of a user without age identities or preferences."""
    inherited = {name: os.environ[name] for name in ("PATH",)}
    return {**inherited, "HOME": str(root / "user"), "LC_ALL": "C.UTF-8", "TERM": "xterm", "COLUMNS": "100"}


class Terminal:
    """`mailkeep …` at its own terminal."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.terminal, process_side = pty.openpty()
        self.process = subprocess.Popen(
            [MAILKEEP, *arguments],
            cwd=root,
            env=environment(root),
            stdin=process_side,
            stdout=process_side,
            stderr=process_side,
            start_new_session=True,
        )
        os.close(process_side)
        self.output = ""

    def wait_for(self, text: str) -> None:
        while text not in self.output:
            assert self.read_more(), f"no {text!r} in {self.output!r}"

    def type_text(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def interrupt(self) -> None:
        """Interrupt as often as it takes: Python overlooks a signal that comes just before it begins to read."""
        for _ in range(30):
            self.process.send_signal(signal.SIGINT)
            if select.select([self.terminal], [], [], 1)[0]:
                return
        raise AssertionError(f"30 interrupts had no effect after {self.output!r}")

    def wait_for_end(self) -> int:
        while self.read_more():
            pass
        os.close(self.terminal)
        return self.process.wait(timeout=30)

    def read_more(self) -> bool:
        assert select.select([self.terminal], [], [], 30)[0], f"silent for 30 s after {self.output!r}"
        try:
            text = os.read(self.terminal, 65536).decode()
        except OSError:  # EIO: the process has closed its side
            return False
        self.output += text
        return bool(text)


def write_program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


SSH = """\
#!/bin/sh
# ssh that runs commands on this machine: the last argument is the command, the one before it the host's name.
while [ $# -gt 2 ]; do shift; done
[ "$1" != gone ] || { echo "ssh: connect to host gone port 22: Connection refused" >&2; exit 255; }
MACHINE=$1 exec sh -c "$2"
"""
SUDO = """\
#!/bin/sh
# sudo that asks for the password `open sesame`, on standard input.
[ "$1" != -n ] || { echo "sudo: a password is required" >&2; exit 1; }
while [ "$1" != /bin/sh ]; do shift; done
IFS= read -r password
[ "$password" = "open sesame" ] || { echo "sudo: 1 incorrect password attempt" >&2; exit 1; }
AS_ROOT=yes exec "$@"
"""
