"""What the tests of the command share."""

import os
import pty
import select
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
class Said:
    code: int
    out: str = field(repr=False)
    err: str = field(repr=False)


Run = Callable[..., Said]


def environment(root: Path) -> dict[str, str]:
    """Of a user without identities or preferences of their own."""
    kept = {name: os.environ[name] for name in ("PATH",)}
    return {**kept, "HOME": str(root / "user"), "LC_ALL": "C.UTF-8", "TERM": "xterm", "COLUMNS": "100"}


class Terminal:
    """`mailkeep …` at a terminal of its own."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [MAILKEEP, *arguments],
            cwd=root,
            env=environment(root),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def until(self, text: str) -> None:
        while text not in self.seen:
            assert self._more(), f"no {text!r} in {self.seen!r}"

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def end(self) -> int:
        while self._more():
            pass
        os.close(self.ours)
        return self.process.wait(timeout=30)

    def _more(self) -> bool:
        assert select.select([self.ours], [], [], 30)[0], f"silent for 30 s after {self.seen!r}"
        try:
            found = os.read(self.ours, 65536).decode()
        except OSError:  # EIO: the other side is closed
            return False
        self.seen += found
        return bool(found)


def program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


SSH = """\
#!/bin/sh
# ssh to a machine that is this one: the last argument is the command, the one before it the host's name.
while [ $# -gt 2 ]; do shift; done
[ "$1" != gone ] || { echo "ssh: connect to host gone port 22: Connection refused" >&2; exit 255; }
MACHINE=$1 exec sh -c "$2"
"""
SUDO = """\
#!/bin/sh
# sudo that wants the password `open sesame`, on standard input.
[ "$1" != -n ] || { echo "sudo: a password is required" >&2; exit 1; }
while [ "$1" != /bin/sh ]; do shift; done
IFS= read -r password
[ "$password" = "open sesame" ] || { echo "sudo: 1 incorrect password attempt" >&2; exit 1; }
AS_ROOT=yes exec "$@"
"""
