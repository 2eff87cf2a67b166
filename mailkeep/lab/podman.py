"""Calls to podman as root: directly, or through sudo when this process is another user's."""

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
    """The lab could not do what it was asked; the text names the command and its output."""


def print_progress(text: str) -> None:
    """One line on stderr."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def poll(condition: Callable[[], T | None], timeout: float, failure: str, interval: float = 0.1) -> T:
    """Call `condition` until its result is true, and return that.

    After `timeout` seconds, raises LabError "`failure` after N s".
    """
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise LabError(f"lab: {failure} after {timeout:.0f} s")
        time.sleep(interval)
    return result


def as_root(*command: str) -> list[str]:
    """The command line that runs `command` as root."""
    if shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        raise LabError(
            f"lab: {command[0]} is not installed. Labs and drills in them need it; in a clone, run scripts/bootstrap."
        )
    return list(command) if os.geteuid() == 0 else ["sudo", *command]


def podman(*arguments: str, stdin: bytes | None = None, timeout: float = 600) -> str:
    """Standard output of `podman ARGUMENTS`. Its warnings are dropped; an exit code other than 0 raises LabError."""
    done = subprocess.run(as_root("podman", *arguments), input=stdin, capture_output=True, check=False, timeout=timeout)
    if done.returncode:
        error = done.stderr.decode(errors="replace").strip()
        raise LabError(f"lab: {' '.join(('podman', *arguments))}\nexit {done.returncode}: {error}")
    return done.stdout.decode().strip()


@cache
def machine_flags() -> tuple[str, ...]:
    """Options of `podman create` that suit this machine: a container runtime, and limits that it can grant."""
    # podman's default limits (nofile 1048576) need CAP_SYS_RESOURCE: ask for no more than we have.
    files = _capped_limit(resource.RLIMIT_NOFILE, 524288)
    processes = _capped_limit(resource.RLIMIT_NPROC, 32768)  # podman lowers its own to this
    limits = ("--ulimit", f"nofile=1024:{files}", "--ulimit", f"nproc={processes}:{processes}")
    # crun refuses hybrid cgroups; there /sys/fs/cgroup is a tmpfs with no cgroup.controllers of its own.
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return limits if unified or not shutil.which("runc") else ("--runtime", "runc", *limits)


def _capped_limit(limit: int, ceiling: int) -> int:
    hard = resource.getrlimit(limit)[1]
    return ceiling if hard == resource.RLIM_INFINITY else min(hard, ceiling)
