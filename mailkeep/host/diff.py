"""The difference between the parts and a host's snapshot. Pure: `plan` prints it, `operations` carry it out."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mailkeep.host.snapshot import NEW_SUFFIX, POLICY_RC_D, PathState, Snapshot, UnitState
from mailkeep.parts import server_package
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, StateFile, Unit, User, unit_check
from mailkeep_server.common.paths import KNOWN_ACCESS, STOPPED_UNITS

UnitAction = Literal["enable", "disable", "start", "stop", "restart", "try-restart", "reload", "reset-failed"]
PendingAction = Literal["restart", "reload"]


@dataclass(frozen=True, slots=True)
class FileChange:
    """`kind`: the file is `new`, its `content` differs, or only its owner or mode does (`access`)."""

    file: File
    kind: Literal["new", "content", "access"]


def find_leftovers(parts: Iterable[Part], actual: Snapshot) -> list[str]:
    """Paths that an interrupted run left behind. An operator's own policy-rc.d is not one of them."""
    files = [POLICY_RC_D, *(file for part in parts for file in part.files)]
    leftovers = [path for file in files if (path := file.path + NEW_SUFFIX) in actual.paths]
    is_ours = _compare_file(POLICY_RC_D, actual.paths.get(POLICY_RC_D.path)) is None
    return [*leftovers, POLICY_RC_D.path] if is_ours else leftovers


def missing_packages(parts: Iterable[Part], actual: Snapshot) -> list[str]:
    return sorted({name for part in parts for name in part.packages} - actual.packages)


def missing_users(part: Part, actual: Snapshot) -> list[User]:
    return [user for user in part.users if user.name not in actual.users]


def missing_memberships(part: Part, actual: Snapshot) -> list[tuple[str, str]]:
    return [pair for pair in part.memberships if pair not in actual.members]


def changed_directories(part: Part, actual: Snapshot) -> list[Directory]:
    def is_right(directory: Directory) -> bool:
        expected = PathState("directory", directory.owner, directory.group, directory.mode)
        return actual.paths.get(directory.path) == expected

    return [directory for directory in part.directories if not is_right(directory)]


def changed_files(part: Part, actual: Snapshot) -> list[FileChange]:
    return [change for file in part.files if (change := _compare_file(file, actual.paths.get(file.path)))]


def _compare_file(file: File, state: PathState | None) -> FileChange | None:
    if state is None:
        return FileChange(file, "new")
    if file.create_only:
        return None
    if state.digest != hashlib.sha256(file.content).hexdigest():
        return FileChange(file, "content")
    if (state.owner, state.group, state.mode) != (file.owner, file.group, file.mode):
        return FileChange(file, "access")
    return None


def paths_to_remove(part: Part, actual: Snapshot) -> list[str]:
    """Paths that exist and must not: declared absent, or unmanaged files in a directory with `purge_unmanaged`."""
    absent = [path for path in part.absent if path in actual.paths]
    managed = {file.path for file in part.files}
    purged = {directory.path for directory in part.directories if directory.purge_unmanaged}
    strays = [
        path
        for path, state in actual.paths.items()
        if path.rpartition("/")[0] in purged and path not in managed and state.kind != "directory"
    ]
    return [*absent, *sorted(strays)]


def units_to_stop(parts: Iterable[Part], actual: Snapshot) -> list[str]:
    """Units whose unit files are removed. A directory beside them holds drop-ins and is no unit."""
    return [
        path.rpartition("/")[2]
        for part in parts
        for path in paths_to_remove(part, actual)
        if path.rpartition("/")[0] == SYSTEMD and actual.paths[path].kind != "directory"
    ]


def changed_paths(parts: Iterable[Part], actual: Snapshot) -> list[str]:
    """Paths of all files to write or remove. Units and checks depend on them."""
    return [
        path
        for part in parts
        for path in [*(change.file.path for change in changed_files(part, actual)), *paths_to_remove(part, actual)]
    ]


def checks_to_run(parts: Iterable[Part], changed: list[str]) -> list[tuple[Part, Check]]:
    return [
        (part, check)
        for part in parts
        for check in (
            *part.checks,
            *(unit_check(unit.name, f"{SYSTEMD}/{unit.name}") for unit in part.units if unit.running),
        )
        if is_under(changed, check.reads)
    ]


def lacks_access_record(parts: Iterable[Part], actual: Snapshot) -> bool:
    """Whether it is still to be recorded who could become root when Mailkeep came."""
    return KNOWN_ACCESS not in actual.paths and any(part.name == server_package.NAME for part in parts)


def has_stopped_units(actual: Snapshot) -> bool:
    """Whether a deploy has stopped services of packages that it replaces, and has not ended."""
    return STOPPED_UNITS in actual.paths


def unit_actions(unit: Unit, actual: Snapshot, changed: list[str]) -> list[UnitAction]:
    """The actions that bring the unit to its declared state, in order. `changed` are the paths that this run writes;
    the snapshot's pending marks stand for those of an interrupted run."""
    state = actual.units.get(unit.name, UnitState({}))
    if not unit.running:
        stop: list[UnitAction] = ["stop"] if state.is_active else []
        disable: list[UnitAction] = ["disable"] if state.is_enabled and not unit.enabled else []
        return disable + stop
    enable: list[UnitAction] = ["enable"] if unit.enabled and not state.is_enabled else []
    return enable + _start_actions(unit, state, pending_action(unit, actual, changed))


def pending_action(unit: Unit, actual: Snapshot, changed: list[str]) -> PendingAction | None:
    """Restart or reload, if the unit must read changed files; else None."""
    if actual.units.get(unit.name, UnitState({})).is_skipped:
        return None
    if f"{unit.name}.restart" in actual.pending or is_under(changed, unit.restart_on) or spoilt_state(unit, actual):
        return "restart"
    if f"{unit.name}.reload" in actual.pending or is_under(changed, unit.reload_on):
        return "reload"
    return None


def spoilt_state(unit: Unit, actual: Snapshot) -> list[tuple[StateFile, PathState | None]]:
    """The files of the unit's state with which the service cannot work, and what they are. None: it is missing."""
    is_active = actual.units.get(unit.name, UnitState({})).is_active  # the first start has yet to make its files

    def is_spoilt(file: StateFile, state: PathState | None) -> bool:
        if state is None:
            return file.required and is_active
        return not state.kind.startswith("regular") or (state.owner, state.group) != (file.owner, file.group)

    states = [(file, actual.paths.get(file.path)) for file in unit.state]
    return [(file, state) for file, state in states if is_spoilt(file, state)]


def _start_actions(unit: Unit, state: UnitState, pending: PendingAction | None) -> list[UnitAction]:
    if state.is_skipped:
        return []
    if state.is_failed:  # after too many failures, systemd refuses to start it until they are reset
        return ["reset-failed", "start"]
    if unit.socket and pending:  # a connection may have started it meanwhile, with what was there before
        return ["try-restart"]
    if not state.is_active:
        return [] if unit.socket and state.is_ended else ["start"]
    return [pending] if pending else []


def is_under(paths: Iterable[str], prefixes: tuple[str, ...]) -> bool:
    """Whether any of the paths starts with one of the prefixes."""
    return any(path.startswith(prefixes) for path in paths)
