"""The changes to a host follow from the parts and the snapshot alone."""

import hashlib
from dataclasses import replace

import pytest

from mailkeep.host import diff
from mailkeep.host.diff import FileChange
from mailkeep.host.snapshot import NEW_SUFFIX, POLICY_RC_D, PathState, Snapshot, UnitState
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, StateFile, Unit, User

CONF = File("/etc/demo/demo.conf", b"port 25\n", mode=0o640, group="demo")
DEMO = Part(
    name="demo",
    packages=("demo", "demo-tools"),
    users=(User("demo"),),
    memberships=(("postfix", "demo"),),
    directories=(Directory("/etc/demo", "root", "demo", 0o750),),
    files=(CONF,),
    absent=("/etc/demo/conf.d/default.conf",),
    units=(Unit("demo.service", restart_on=("/etc/demo/tls",), reload_on=("/etc/demo/",)),),
    checks=(Check("demo -t", reads=("/etc/demo/",)),),
)
PARTS = (DEMO,)
RUNNING = UnitState({"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"})


def actual_state(file: File) -> PathState:
    return PathState("regular file", file.owner, file.group, file.mode, hashlib.sha256(file.content).hexdigest())


CONVERGED = Snapshot(
    paths={
        CONF.path: actual_state(CONF),
        "/etc/demo": PathState("directory", "root", "demo", 0o750),
    },
    packages=frozenset({"demo", "demo-tools", "another"}),
    users=frozenset({"demo"}),
    members=frozenset({("postfix", "demo")}),
    units={"demo.service": RUNNING},
)


def with_path(path: str, state: PathState) -> Snapshot:
    return replace(CONVERGED, paths={**CONVERGED.paths, path: state})


def with_unit(**properties: str) -> Snapshot:
    return replace(CONVERGED, units={"demo.service": UnitState({**RUNNING.properties, **properties})})


def test_a_converged_host_needs_no_change() -> None:
    assert diff.missing_packages(PARTS, CONVERGED) == []
    assert diff.missing_users(DEMO, CONVERGED) == []
    assert diff.missing_memberships(DEMO, CONVERGED) == []
    assert diff.changed_directories(DEMO, CONVERGED) == []
    assert diff.changed_paths(PARTS, CONVERGED) == []
    assert diff.unit_actions(DEMO.units[0], CONVERGED, []) == []
    assert diff.checks_to_run(PARTS, []) == []


def test_a_bare_host_needs_every_change() -> None:
    bare = Snapshot(units={"demo.service": UnitState({"LoadState": "not-found", "ActiveState": "inactive"})})
    assert diff.missing_packages(PARTS, bare) == ["demo", "demo-tools"]
    assert diff.missing_users(DEMO, bare) == [User("demo")]
    assert diff.missing_memberships(DEMO, bare) == [("postfix", "demo")]
    assert diff.changed_directories(DEMO, bare) == list(DEMO.directories)
    assert diff.changed_files(DEMO, bare) == [FileChange(CONF, "new")]
    assert diff.unit_actions(DEMO.units[0], bare, [CONF.path]) == ["enable", "start"]
    assert diff.checks_to_run(PARTS, diff.changed_paths(PARTS, bare)) == [(DEMO, DEMO.checks[0])]


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (replace(actual_state(CONF), digest=hashlib.sha256(b"port 26\n").hexdigest()), "content"),
        (replace(actual_state(CONF), mode=0o644), "access"),
        (replace(actual_state(CONF), owner="demo"), "access"),
        (replace(actual_state(CONF), group="root"), "access"),
        (PathState("symbolic link", "root", "demo", 0o777), "content"),
        (PathState("directory", "root", "demo", 0o640), "content"),
    ],
)
def test_a_changed_file_is_written_and_the_kind_of_change_is_named(state: PathState, kind: str) -> None:
    assert [change.kind for change in diff.changed_files(DEMO, with_path(CONF.path, state))] == [kind]


@pytest.mark.parametrize(
    "state",
    [
        PathState("directory", "root", "demo", 0o755),
        PathState("directory", "root", "root", 0o750),
        PathState("regular file", "root", "demo", 0o750),
    ],
)
def test_a_changed_directory_is_set_right(state: PathState) -> None:
    assert diff.changed_directories(DEMO, with_path("/etc/demo", state)) == list(DEMO.directories)


def test_a_create_only_file_is_written_once_and_then_left_to_the_host() -> None:
    initial = replace(CONF, create_only=True)
    part = replace(DEMO, files=(initial,))
    assert diff.changed_files(part, replace(CONVERGED, paths={})) == [FileChange(initial, "new")]
    others = PathState("regular file", "demo", "demo", 0o600, "another digest")
    assert diff.changed_files(part, with_path(CONF.path, others)) == []


def test_an_absent_path_is_removed_and_counts_as_a_change() -> None:
    actual = with_path("/etc/demo/conf.d/default.conf", PathState("regular file", "root", "root", 0o644, "0"))
    assert diff.changed_paths(PARTS, actual) == ["/etc/demo/conf.d/default.conf"]
    assert diff.unit_actions(DEMO.units[0], actual, diff.changed_paths(PARTS, actual)) == ["reload"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["/etc/demo/demo.conf"], ["reload"]),
        (["/etc/demo/tls/key.pem"], ["restart"]),
        (["/etc/demo/demo.conf", "/etc/demo/tls/key.pem"], ["restart"]),
        (["/etc/other.conf"], []),
    ],
)
def test_a_unit_reloads_or_restarts_when_its_files_change(changed: list[str], expected: list[str]) -> None:
    assert diff.unit_actions(DEMO.units[0], CONVERGED, changed) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, []),
        (PathState("regular file", "demo", "demo", 0o600), []),
        (PathState("regular empty file", "demo", "demo", 0o600), []),
        (PathState("regular file", "root", "root", 0o600), ["restart"]),
        (PathState("directory", "demo", "demo", 0o700), ["restart"]),
        (PathState("symbolic link", "demo", "demo", 0o777), ["restart"]),
    ],
)
def test_a_service_restarts_to_mend_its_spoilt_state(state: PathState | None, expected: list[str]) -> None:
    unit = replace(DEMO.units[0], state=(StateFile("/var/lib/demo/db", "demo", "demo"),))
    actual = with_path("/var/lib/demo/db", state) if state else CONVERGED
    assert diff.unit_actions(unit, actual, []) == expected


@pytest.mark.parametrize(("properties", "expected"), [({}, ["restart"]), ({"ActiveState": "inactive"}, ["start"])])
def test_a_service_restarts_to_make_a_file_of_its_state_that_is_gone(
    properties: dict[str, str], expected: list[str]
) -> None:
    unit = replace(DEMO.units[0], state=(StateFile("/var/lib/demo/db", "demo", "demo", required=True),))
    actual = with_unit(**properties)
    assert diff.unit_actions(unit, actual, []) == expected
    assert len(diff.spoilt_state(unit, actual)) == (expected == ["restart"])


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ({"demo.service.reload"}, ["reload"]),
        ({"demo.service.restart"}, ["restart"]),
        ({"demo.service.restart", "demo.service.reload"}, ["restart"]),
        ({"other.service.restart"}, []),
    ],
)
def test_the_pending_actions_of_an_interrupted_run_are_carried_out(marks: set[str], expected: list[str]) -> None:
    assert diff.unit_actions(DEMO.units[0], replace(CONVERGED, pending=frozenset(marks)), []) == expected


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"ActiveState": "inactive"}, ["start"]),
        ({"ActiveState": "activating"}, ["start"]),  # it may crash and be restarted in a loop
        ({"ActiveState": "failed"}, ["reset-failed", "start"]),
        ({"UnitFileState": "disabled"}, ["enable"]),
        ({"UnitFileState": "static"}, []),
        ({"ActiveState": "inactive", "ConditionResult": "no", "ConditionTimestampMonotonic": "7"}, []),
        # Never started, so its conditions were not evaluated.
        ({"ActiveState": "inactive", "ConditionResult": "no", "ConditionTimestampMonotonic": "0"}, ["start"]),
    ],
)
def test_a_unit_is_started_from_every_state(properties: dict[str, str], expected: list[str]) -> None:
    assert diff.unit_actions(DEMO.units[0], with_unit(**properties), []) == expected


def test_a_unit_that_its_condition_skips_is_left_alone_whatever_changes() -> None:
    idle = with_unit(ActiveState="inactive", ConditionResult="no", ConditionTimestampMonotonic="7")
    assert diff.pending_action(DEMO.units[0], idle, ["/etc/demo/demo.conf"]) is None
    assert diff.unit_actions(DEMO.units[0], idle, ["/etc/demo/demo.conf"]) == []


@pytest.mark.parametrize(
    ("state", "expected", "expected_after_a_change"),
    [
        ("active", [], ["try-restart"]),
        ("inactive", [], ["try-restart"]),
        ("activating", ["start"], ["try-restart"]),  # it crashes in a loop
        ("failed", ["reset-failed", "start"], ["reset-failed", "start"]),
    ],
)
def test_a_unit_that_runs_on_demand_may_have_ended(
    state: str, expected: list[str], expected_after_a_change: list[str]
) -> None:
    unit, actual = replace(DEMO.units[0], socket="/run/demo"), with_unit(ActiveState=state)
    assert diff.unit_actions(unit, actual, []) == expected
    assert diff.unit_actions(unit, actual, ["/etc/demo/tls"]) == expected_after_a_change
    marked = replace(actual, pending=frozenset({"demo.service.restart"}))
    assert diff.unit_actions(unit, marked, []) == expected_after_a_change, "the mark would stay"


def test_an_unwanted_unit_is_disabled_and_stopped_and_then_left_alone() -> None:
    unwanted = Unit("demo.service", enabled=False, running=False)
    assert diff.unit_actions(unwanted, CONVERGED, []) == ["disable", "stop"]
    stopped = with_unit(ActiveState="inactive", UnitFileState="")
    assert diff.unit_actions(unwanted, stopped, []) == []


@pytest.mark.parametrize("file", ["demo.service", "demo.service.d/mailkeep.conf"])
def test_a_changed_unit_file_or_drop_in_is_verified_for_its_own_unit_only(file: str) -> None:
    ((part, check),) = diff.checks_to_run(PARTS, [f"/etc/systemd/system/{file}"])
    assert part is DEMO
    assert check.command.endswith(" demo.service")
    assert diff.checks_to_run(PARTS, [f"/etc/systemd/system/other-{file}"]) == []


def test_a_unit_whose_file_is_removed_is_stopped_and_one_that_loses_a_drop_in_is_not() -> None:
    unit, drop_ins = f"{SYSTEMD}/demo.service", f"{SYSTEMD}/other.service.d"
    part = Part("demo", absent=(unit, drop_ins, f"{drop_ins}/mailkeep.conf", f"{SYSTEMD}/not-there.timer"))
    actual = {
        unit: actual_state(CONF),
        drop_ins: PathState("directory", "root", "root", 0o755),
        f"{drop_ins}/mailkeep.conf": actual_state(CONF),
    }
    assert diff.units_to_stop((part,), replace(CONVERGED, paths=actual)) == ["demo.service"]


def test_only_our_own_leftovers_are_removed() -> None:
    assert diff.find_leftovers(PARTS, CONVERGED) == []
    assert diff.find_leftovers(PARTS, with_path(CONF.path + NEW_SUFFIX, actual_state(CONF))) == [CONF.path + NEW_SUFFIX]
    assert diff.find_leftovers(PARTS, with_path(POLICY_RC_D.path, actual_state(POLICY_RC_D))) == [POLICY_RC_D.path]
    operators = replace(actual_state(POLICY_RC_D), digest=hashlib.sha256(b"#!/bin/sh\nexit 0\n").hexdigest())
    assert diff.find_leftovers(PARTS, with_path(POLICY_RC_D.path, operators)) == []
