"""File systems that are mounted while the watch runs.

Its sandbox has mounts of its own, and hides what is mounted later over a path that the sandbox has bound. So the watch
ends when the machine's mounts change, and systemd starts it anew with the new ones.
"""

import sys
from collections.abc import Collection
from pathlib import Path

from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.sensor import Sensor

MACHINE_MOUNTS = Path("/proc/1/mountinfo")  # proc_pid_mountinfo(5), of systemd itself


class MountSensor(Sensor):
    name = "mount"

    def __init__(self, directories: Collection[str], file: Path = MACHINE_MOUNTS) -> None:
        self.directories, self.file = frozenset(directories), file
        self.first = self._read_mounts()

    def find_troubles(self) -> Troubles:
        """Raises SystemExit when a file system was mounted on one of the directories, or unmounted."""
        if self._read_mounts() != self.first:
            print("A file system was mounted or unmounted: the watch starts anew to see it", flush=True)
            sys.exit(0)
        return {}

    def _read_mounts(self) -> list[tuple[str, str]]:
        """Device and mount point of each file system on one of the directories."""
        lines = (line.split(" ", 5) for line in self.file.read_text(errors="replace").splitlines())
        return [(device, path) for _, _, device, _, path, _ in lines if path in self.directories]
