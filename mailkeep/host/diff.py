"""What must change on a host: the parts against its snapshot. Pure: `plan` prints it, `operations` do it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mailkeep.host.snapshot import NEW, POLICY, PathState, Snapshot, UnitState
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, User, unit_check

Action = Literal["enable", "disable", "start", "stop", "restart", "reload", "reset-failed"]
Due = Literal["restart", "reload"]


@dataclass(frozen=True, slots=True)
class FileChange:
    """`why`: the file is `new`, has other `content`, or only another owner or mode (`access`)."""

    file: File
    why: Literal["new", "content", "access"]


def leftovers(parts: Iterable[Part], now: Snapshot) -> list[str]:
    """Paths that an interrupted run left behind."""
    new = [path + NEW for path in (POLICY.path, *(file.path for part in parts for file in part.files))]
    found = [path for path in new if path in now.paths]
    return found if _file(POLICY, now.paths.get(POLICY.path)) else [*found, POLICY.path]


def packages(parts: Iterable[Part], now: Snapshot) -> list[str]:
    return sorted({name for part in parts for name in part.packages} - now.packages)


def users(part: Part, now: Snapshot) -> list[User]:
    return [user for user in part.users if user.name not in now.users]


def memberships(part: Part, now: Snapshot) -> list[tuple[str, str]]:
    return [pair for pair in part.memberships if pair not in now.members]


def directories(part: Part, now: Snapshot) -> list[Directory]:
    def right(want: Directory) -> bool:
        is_now = now.paths.get(want.path)
        return is_now == PathState("directory", want.owner, want.group, want.mode)

    return [want for want in part.directories if not right(want)]


def files(part: Part, now: Snapshot) -> list[FileChange]:
    return [change for file in part.files if (change := _file(file, now.paths.get(file.path)))]


def _file(want: File, is_now: PathState | None) -> FileChange | None:
    if is_now is None:
        return FileChange(want, "new")
    if want.create_only:
        return None
    if is_now.digest != hashlib.sha256(want.content).hexdigest():
        return FileChange(want, "content")
    if (is_now.owner, is_now.group, is_now.mode) != (want.owner, want.group, want.mode):
        return FileChange(want, "access")
    return None


def absent(part: Part, now: Snapshot) -> list[str]:
    """What is there and must not be."""
    named = [path for path in part.absent if path in now.paths]
    wanted = {file.path for file in part.files}
    exclusive = {directory.path for directory in part.directories if directory.purge_unmanaged}
    strays = [
        path
        for path, state in now.paths.items()
        if path.rpartition("/")[0] in exclusive and path not in wanted and state.kind != "directory"
    ]
    return [*named, *sorted(strays)]


def retired(parts: Iterable[Part], now: Snapshot) -> list[str]:
    """Units whose files go. A directory there holds drop-ins."""
    return [
        path.rpartition("/")[2]
        for part in parts
        for path in absent(part, now)
        if path.rpartition("/")[0] == SYSTEMD and now.paths[path].kind != "directory"
    ]


def touched(parts: Iterable[Part], now: Snapshot) -> list[str]:
    """Every path whose file is written or removed; what units and checks look at."""
    return [path for part in parts for path in [*(c.file.path for c in files(part, now)), *absent(part, now)]]


def checks(parts: Iterable[Part], changed: list[str]) -> list[tuple[Part, Check]]:
    return [
        (part, check)
        for part in parts
        for check in (
            *part.checks,
            *(unit_check(unit.name, f"{SYSTEMD}/{unit.name}") for unit in part.units if unit.running),
        )
        if below(changed, check.reads)
    ]


def actions(unit: Unit, now: Snapshot, changed: list[str]) -> list[Action]:
    """What brings the unit where it should be, in order. `changed` are the paths that this run writes; changes of
    an interrupted run come from the snapshot's pending marks."""
    is_now = now.units.get(unit.name, UnitState({}))
    if not unit.running:
        stop: list[Action] = ["stop"] if is_now.active else []
        disable: list[Action] = ["disable"] if is_now.enabled and not unit.enabled else []
        return disable + stop
    enable: list[Action] = ["enable"] if unit.enabled and not is_now.enabled else []
    return enable + _activation(is_now, due(unit, now, changed))


def due(unit: Unit, now: Snapshot, changed: list[str]) -> Due | None:
    """What the unit needs in order to read what is new."""
    if now.units.get(unit.name, UnitState({})).not_meant_to_run:
        return None
    if f"{unit.name}.restart" in now.pending or below(changed, unit.restart_on):
        return "restart"
    if f"{unit.name}.reload" in now.pending or below(changed, unit.reload_on):
        return "reload"
    return None


def _activation(is_now: UnitState, due: Due | None) -> list[Action]:
    if is_now.not_meant_to_run:
        return []
    if is_now.failed:  # too many failures, and systemd starts it no more
        return ["reset-failed", "start"]
    if not is_now.active:
        return ["start"]
    return [due] if due else []


def below(paths: Iterable[str], prefixes: tuple[str, ...]) -> bool:
    return any(path.startswith(prefixes) for path in paths)
