"""Why a machine of a lab did not boot completely: what this machine, which all labs share, is short of."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mailkeep.lab.podman import as_root

INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
SUGGESTED_INOTIFY_LIMIT = 1024
MIN_FREE_INOTIFY = 5  # instances; systemd of a booted machine has five open
MIN_FREE_MEMORY = 256  # MiB; a built server idles at some 200
SLOW_BOOT = 30.0  # seconds; on an idle machine a boot takes two


@dataclass(frozen=True)
class MachineLoad:
    """The resources of this machine just after a boot that failed."""

    inotify_used: int
    """inotify instances of the user with the most; the limit counts them by user (inotify(7))."""
    inotify_limit: int
    free_memory: int
    """MiB (MemAvailable of proc_meminfo(5))."""
    load: float
    """Average number of running processes in the last minute."""
    processors: int
    boot_seconds: float


def find_shortages(load: MachineLoad) -> list[str]:
    """A sentence for each shortage: the figures, and how to end it."""
    shortages = []
    if load.inotify_limit - load.inotify_used < MIN_FREE_INOTIFY:
        limit = max(SUGGESTED_INOTIFY_LIMIT, 2 * load.inotify_limit)
        shortages.append(
            f"inotify instances are short: {load.inotify_used} of {load.inotify_limit} are in use; "
            f"run `sysctl fs.inotify.max_user_instances={limit}`, or remove other labs with `make down`."
        )
    if load.free_memory < MIN_FREE_MEMORY:
        shortages.append(
            f"memory is short: {load.free_memory} MiB are free, and a server needs {MIN_FREE_MEMORY}; "
            "remove other labs with `make down`, or stop other programs."
        )
    if load.boot_seconds >= SLOW_BOOT:
        shortages.append(
            f"time is short: the boot took {load.boot_seconds:.0f} s at a load of {load.load:.1f} "
            f"on {load.processors} processors; stop other programs, and try again."
        )
    return shortages


def read_load(boot_seconds: float) -> MachineLoad:
    """Read the figures of this machine; `boot_seconds` is how long the boot took."""
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return MachineLoad(
        inotify_used=_count_inotify_instances(),
        inotify_limit=int(INOTIFY_LIMIT.read_text()),
        free_memory=int(meminfo["MemAvailable"].split()[0]) // 1024,
        load=os.getloadavg()[0],
        processors=os.cpu_count() or 1,
        boot_seconds=boot_seconds,
    )


def _count_inotify_instances() -> int:
    # Each open instance is a file descriptor whose link in /proc/PID/fd leads to "anon_inode:inotify".
    command = as_root("find", "/proc", "-maxdepth", "3", "-lname", "anon_inode:inotify", "-printf", "%U\\n")
    # Exit 1: a process ended meanwhile.
    users = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return max(Counter(users).values(), default=0)
