"""The attacks of a Linux user without rights: what it can read, connect to and send.

This file is also run alone, as that user, so it imports nothing of its package.
"""

import json
import os
import socket
import subprocess
import sys
from typing import Any

NAME = "mailkeep-probe"
SENDMAIL_TIMEOUT = 20.0
CONNECT_TIMEOUT = 2.0
ACCEPTS = 0x10000  # __SO_ACCEPTCON: a listening socket (proc_pid_net(5))


def run_attacks(paths: list[str], sockets: list[str], directories: list[str]) -> dict[str, Any]:
    """`directories`: every socket in them is tried, too."""
    return {
        "user": os.getuid(),
        "readable": [path for path in paths if _can_read(path)],
        "connectable": [path for path in sorted({*sockets, *_list_sockets(directories)}) if _can_connect(path)],
        "sendmail": _try_sendmail(),
        "connections": [try_port_25("192.0.2.1"), try_port_25("2001:db8::1")],
    }


def _can_read(path: str) -> bool:
    try:
        if os.path.isdir(path):  # noqa: PTH112 - pathlib takes long to import
            return bool(os.listdir(path) or True)  # noqa: PTH208
        with open(path, "rb") as file:  # noqa: PTH123
            file.read(1)
    except (PermissionError, FileNotFoundError):
        return False
    return True


def _list_sockets(directories: list[str]) -> list[str]:
    """Those below these directories on which a program listens; the kernel lists them to everybody."""
    with open("/proc/net/unix") as lines:  # noqa: PTH123
        paths = [line.split()[7] for line in lines if line.count(" /") == 1 and int(line.split()[3], 16) & ACCEPTS]
    return [path for path in paths if path.startswith(tuple(directories))]


def _can_connect(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            return False
    return True


def _try_sendmail() -> dict[str, Any]:
    """A message from the null sender to an address that does not exist: if it is accepted, it vanishes."""
    done = subprocess.run(
        ["/usr/sbin/sendmail", "-f", "<>", f"{NAME}@localhost"],
        input="Subject: mailkeep verify\n\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=SENDMAIL_TIMEOUT,
    )
    return {"code": done.returncode, "output": (done.stdout + done.stderr).strip()}


def try_port_25(address: str) -> str:
    """`connected`, or the error, for a documentation address, which no server has."""
    try:
        socket.create_connection((address, 25), CONNECT_TIMEOUT).close()
    except OSError as error:
        return str(error)
    return "connected"


if __name__ == "__main__":
    print(json.dumps(run_attacks(**json.loads(sys.argv[1]))))
