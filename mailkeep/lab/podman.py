"""Calls to podman, as root: on a machine where we are not root, through sudo."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from mailkeep.errors import UserError

LABEL = "mailkeep.lab"
T = TypeVar("T")


class LabError(UserError):
    """The lab could not do what it was asked; the text names the command and what it said."""


def say(text: str) -> None:
    """One line of progress on stderr."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def poll(condition: Callable[[], T | None], timeout: float, what: str, interval: float = 0.1) -> T:
    """Ask until the answer is true, and return it; after `timeout` seconds raise LabError "`what` after N s"."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise LabError(f"lab: {what} after {timeout:.0f} s")
        time.sleep(interval)
    return answer


def as_root(*command: str) -> list[str]:
    """The command line that runs `command` as root."""
    if shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        raise LabError(f"lab: {command[0]} is not installed; run scripts/bootstrap")
    return list(command) if os.geteuid() == 0 else ["sudo", *command]


def podman(*arguments: str, stdin: bytes | None = None, timeout: float = 600) -> str:
    """What `podman ARGUMENTS` prints. Its warnings are dropped, its errors raise LabError."""
    done = subprocess.run(as_root("podman", *arguments), input=stdin, capture_output=True, check=False, timeout=timeout)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise LabError(f"lab: {' '.join(('podman', *arguments))}\nexit {done.returncode}: {said}")
    return done.stdout.decode().strip()


@cache
def machine_flags() -> tuple[str, ...]:
    """What this machine needs from `podman create`: a runtime and limits that it can grant."""
    # podman's default limits (nofile 1048576) need CAP_SYS_RESOURCE: ask for no more than we have.
    files = _at_most(resource.RLIMIT_NOFILE, 524288)
    processes = _at_most(resource.RLIMIT_NPROC, 32768)  # podman lowers its own to this
    limits = ("--ulimit", f"nofile=1024:{files}", "--ulimit", f"nproc={processes}:{processes}")
    # crun refuses hybrid cgroups; there /sys/fs/cgroup is a tmpfs with no cgroup.controllers of its own.
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return limits if unified or not shutil.which("runc") else ("--runtime", "runc", *limits)


def _at_most(limit: int, ceiling: int) -> int:
    hard = resource.getrlimit(limit)[1]
    return ceiling if hard == resource.RLIM_INFINITY else min(hard, ceiling)
