"""The line above the figures of a bench: the machine on which they were measured."""

import os
import platform
from pathlib import Path


def describe_machine() -> str:
    """Processors, their model, memory, load over the last minute, kernel, Python."""
    information = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((row.split(":", 1)[1].strip() for row in information if row.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"machine: {os.cpu_count()} x {model}, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f}, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )
