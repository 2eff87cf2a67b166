"""Processes that are stopped, as by SIGSTOP or a debugger: systemd calls their unit active, and nothing answers.

The kernel's files are read, no program is started: some fifty small reads every ten seconds.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.sensor import Sensor

CGROUP_ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd")
"""Of the unified and of the former hierarchy (cgroups(7))."""
STOPPED_STATES = ("T", "t")  # proc_pid_stat(5)
SESSION_UNITS = {"ssh.service"}  # a shell in it may stop its programs, as by Ctrl-Z
MAX_NAMED = 3  # processes in an alert


class ProcessSensor(Sensor):
    name, interval, samples = "process", 10.0, 2

    def __init__(
        self, control_groups: Mapping[str, str], proc: Path = Path("/proc"), roots: tuple[str, ...] = CGROUP_ROOTS
    ) -> None:
        """`control_groups`: by unit, as systemd names them; others may change it."""
        self.control_groups, self.proc, self.roots = control_groups, proc, roots

    def find_troubles(self) -> Troubles:
        troubles = {}
        for unit in self.control_groups:
            if unit in SESSION_UNITS or not (stopped := list(self._find_stopped(unit))):
                continue
            names = ", ".join(f"{name} ({pid})" for pid, name in stopped[:MAX_NAMED])
            others = f" and {len(stopped) - MAX_NAMED} more" if len(stopped) > MAX_NAMED else ""
            text = (
                f"{unit} hangs: somebody has stopped its process {names}{others}. `kill -CONT {stopped[0][0]}` lets it "
                f"go on, `systemctl restart {unit}` starts it anew"
            )
            troubles[unit] = text, f"{unit} hangs no longer"
        return troubles

    def _find_stopped(self, unit: str) -> Iterator[tuple[int, str]]:
        for pid in self._list_processes(self.control_groups[unit]):
            if (state := read_process_state(self.proc / str(pid))) and state[1] in STOPPED_STATES:
                yield pid, state[0]

    def _list_processes(self, control_group: str) -> list[int]:
        for root in self.roots:
            try:
                return [int(line) for line in Path(f"{root}{control_group}/cgroup.procs").read_text().split()]
            except (OSError, ValueError):
                continue
        return []


def read_process_state(process: Path) -> tuple[str, str, str] | None:
    """Name, state and start time of a process by its directory in /proc; None if it has ended (proc_pid_stat(5))."""
    try:
        before, _, after = (process / "stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return None
    fields = after.split()
    return before.partition("(")[2], fields[0], fields[19]
