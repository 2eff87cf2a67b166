"""Someone with a shell on the server and no rights: what they can read, reach and send.

This file also runs on its own, as that Linux user: it imports nothing of the package.
"""

import json
import os
import socket
import subprocess
import sys
from typing import Any

NAME = "mailkeep-probe"


def attempts(paths: list[str], sockets: list[str]) -> dict[str, Any]:
    return {
        "user": os.getuid(),
        "read": [path for path in paths if _reads(path)],
        "reached": [path for path in sockets if _reaches(path)],
        "sent": _sends(),
        "out": [_connects("192.0.2.1"), _connects("2001:db8::1")],
    }


def _reads(path: str) -> bool:
    try:
        if os.path.isdir(path):  # noqa: PTH112 - no import for a word
            return bool(os.listdir(path) or True)  # noqa: PTH208
        with open(path, "rb") as file:  # noqa: PTH123
            file.read(1)
    except PermissionError:
        return False
    return True


def _reaches(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as tried:
        try:
            tried.connect(path)
        except OSError:
            return False
    return True


def _sends() -> dict[str, Any]:
    """A message with the null sender to nobody: were it taken, it would vanish."""
    done = subprocess.run(
        ["/usr/sbin/sendmail", "-f", "<>", f"{NAME}@localhost"],
        input="Subject: mailkeep verify\n\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return {"code": done.returncode, "said": (done.stdout + done.stderr).strip()}


def _connects(address: str) -> str:
    """To port 25 of a documentation address, where no server is."""
    try:
        socket.create_connection((address, 25), 2).close()
    except OSError as error:
        return str(error)
    return "connected"


if __name__ == "__main__":
    print(json.dumps(attempts(**json.loads(sys.argv[1]))))
