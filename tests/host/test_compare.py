"""What must change on a host follows from the parts and the snapshot alone."""

import hashlib
from dataclasses import replace

import pytest

from mailkeep.host import diff
from mailkeep.host.diff import FileChange
from mailkeep.host.snapshot import NEW, POLICY, PathState, Snapshot, UnitState
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, User

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


def there(file: File) -> PathState:
    return PathState("regular file", file.owner, file.group, file.mode, hashlib.sha256(file.content).hexdigest())


DONE = Snapshot(
    paths={
        CONF.path: there(CONF),
        "/etc/demo": PathState("directory", "root", "demo", 0o750),
    },
    packages=frozenset({"demo", "demo-tools", "another"}),
    users=frozenset({"demo"}),
    members=frozenset({("postfix", "demo")}),
    units={"demo.service": RUNNING},
)


def with_path(path: str, state: PathState) -> Snapshot:
    return replace(DONE, paths={**DONE.paths, path: state})


def with_unit(**properties: str) -> Snapshot:
    return replace(DONE, units={"demo.service": UnitState({**RUNNING.properties, **properties})})


def test_on_a_host_that_is_as_it_should_be_nothing_is_to_do() -> None:
    assert diff.packages(PARTS, DONE) == []
    assert diff.users(DEMO, DONE) == []
    assert diff.memberships(DEMO, DONE) == []
    assert diff.directories(DEMO, DONE) == []
    assert diff.touched(PARTS, DONE) == []
    assert diff.actions(DEMO.units[0], DONE, []) == []
    assert diff.checks(PARTS, []) == []


def test_on_a_bare_host_everything_is_to_do() -> None:
    bare = Snapshot(units={"demo.service": UnitState({"LoadState": "not-found", "ActiveState": "inactive"})})
    assert diff.packages(PARTS, bare) == ["demo", "demo-tools"]
    assert diff.users(DEMO, bare) == [User("demo")]
    assert diff.memberships(DEMO, bare) == [("postfix", "demo")]
    assert diff.directories(DEMO, bare) == list(DEMO.directories)
    assert diff.files(DEMO, bare) == [FileChange(CONF, "new")]
    assert diff.actions(DEMO.units[0], bare, [CONF.path]) == ["enable", "start"]
    assert diff.checks(PARTS, diff.touched(PARTS, bare)) == [(DEMO, DEMO.checks[0])]


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (replace(there(CONF), digest=hashlib.sha256(b"port 26\n").hexdigest()), "content"),
        (replace(there(CONF), mode=0o644), "access"),
        (replace(there(CONF), owner="demo"), "access"),
        (replace(there(CONF), group="root"), "access"),
        (PathState("symbolic link", "root", "demo", 0o777), "content"),
        (PathState("directory", "root", "demo", 0o640), "content"),
    ],
)
def test_a_file_that_differs_is_written_and_says_in_what(state: PathState, why: str) -> None:
    assert [change.why for change in diff.files(DEMO, with_path(CONF.path, state))] == [why]


@pytest.mark.parametrize(
    "state",
    [
        PathState("directory", "root", "demo", 0o755),
        PathState("directory", "root", "root", 0o750),
        PathState("regular file", "root", "demo", 0o750),
    ],
)
def test_a_directory_that_differs_is_set_right(state: PathState) -> None:
    assert diff.directories(DEMO, with_path("/etc/demo", state)) == list(DEMO.directories)


def test_an_initial_file_is_put_there_once_and_then_left_to_the_host() -> None:
    initial = replace(CONF, create_only=True)
    part = replace(DEMO, files=(initial,))
    assert diff.files(part, replace(DONE, paths={})) == [FileChange(initial, "new")]
    others = PathState("regular file", "demo", "demo", 0o600, "another digest")
    assert diff.files(part, with_path(CONF.path, others)) == []


def test_what_must_not_be_there_goes_and_counts_as_a_change() -> None:
    seen = with_path("/etc/demo/conf.d/default.conf", PathState("regular file", "root", "root", 0o644, "0"))
    assert diff.touched(PARTS, seen) == ["/etc/demo/conf.d/default.conf"]
    assert diff.actions(DEMO.units[0], seen, diff.touched(PARTS, seen)) == ["reload"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["/etc/demo/demo.conf"], ["reload"]),
        (["/etc/demo/tls/key.pem"], ["restart"]),
        (["/etc/demo/demo.conf", "/etc/demo/tls/key.pem"], ["restart"]),
        (["/etc/other.conf"], []),
    ],
)
def test_a_unit_reloads_or_restarts_for_the_files_that_it_reads(changed: list[str], expected: list[str]) -> None:
    assert diff.actions(DEMO.units[0], DONE, changed) == expected


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ({"demo.service.reload"}, ["reload"]),
        ({"demo.service.restart"}, ["restart"]),
        ({"demo.service.restart", "demo.service.reload"}, ["restart"]),
        ({"other.service.restart"}, []),
    ],
)
def test_what_an_interrupted_run_did_not_come_to_is_done(marks: set[str], expected: list[str]) -> None:
    assert diff.actions(DEMO.units[0], replace(DONE, pending=frozenset(marks)), []) == expected


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"ActiveState": "inactive"}, ["start"]),
        ({"ActiveState": "activating"}, ["start"]),  # as one that crashes and is restarted, again and again
        ({"ActiveState": "failed"}, ["reset-failed", "start"]),
        ({"UnitFileState": "disabled"}, ["enable"]),
        ({"UnitFileState": "static"}, []),
        ({"ActiveState": "inactive", "ConditionResult": "no", "ConditionTimestampMonotonic": "7"}, []),
        # Never tried, so its conditions have not been asked.
        ({"ActiveState": "inactive", "ConditionResult": "no", "ConditionTimestampMonotonic": "0"}, ["start"]),
    ],
)
def test_a_unit_is_brought_to_run_from_every_state(properties: dict[str, str], expected: list[str]) -> None:
    assert diff.actions(DEMO.units[0], with_unit(**properties), []) == expected


def test_a_unit_that_is_not_meant_to_run_here_is_left_alone_whatever_changes() -> None:
    idle = with_unit(ActiveState="inactive", ConditionResult="no", ConditionTimestampMonotonic="7")
    assert diff.due(DEMO.units[0], idle, ["/etc/demo/demo.conf"]) is None
    assert diff.actions(DEMO.units[0], idle, ["/etc/demo/demo.conf"]) == []


def test_a_unit_that_shall_not_run_is_disabled_and_stopped_and_then_left_alone() -> None:
    unwanted = Unit("demo.service", enabled=False, running=False)
    assert diff.actions(unwanted, DONE, []) == ["disable", "stop"]
    gone = with_unit(ActiveState="inactive", UnitFileState="")
    assert diff.actions(unwanted, gone, []) == []


@pytest.mark.parametrize("file", ["demo.service", "demo.service.d/mailkeep.conf"])
def test_a_changed_unit_file_or_drop_in_is_verified_for_its_own_unit_only(file: str) -> None:
    ((part, check),) = diff.checks(PARTS, [f"/etc/systemd/system/{file}"])
    assert part is DEMO
    assert check.command.endswith(" demo.service")
    assert diff.checks(PARTS, [f"/etc/systemd/system/other-{file}"]) == []


def test_a_unit_whose_file_goes_is_retired_and_one_that_loses_a_drop_in_is_not() -> None:
    unit, drop_ins = f"{SYSTEMD}/demo.service", f"{SYSTEMD}/other.service.d"
    part = Part("demo", absent=(unit, drop_ins, f"{drop_ins}/mailkeep.conf", f"{SYSTEMD}/not-there.timer"))
    seen = {
        unit: there(CONF),
        drop_ins: PathState("directory", "root", "root", 0o755),
        f"{drop_ins}/mailkeep.conf": there(CONF),
    }
    assert diff.retired((part,), replace(DONE, paths=seen)) == ["demo.service"]


def test_leftovers_are_ours_alone() -> None:
    assert diff.leftovers(PARTS, DONE) == []
    assert diff.leftovers(PARTS, with_path(CONF.path + NEW, there(CONF))) == [CONF.path + NEW]
    assert diff.leftovers(PARTS, with_path(POLICY.path, there(POLICY))) == [POLICY.path]
    operators = replace(there(POLICY), digest=hashlib.sha256(b"#!/bin/sh\nexit 0\n").hexdigest())
    assert diff.leftovers(PARTS, with_path(POLICY.path, operators)) == []
