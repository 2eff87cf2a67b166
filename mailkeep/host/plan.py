"""Prints what a deploy would do to the hosts of an inventory, without changing them.

It connects as a deploy does, reads the same facts, compares with the same functions, and only prints.
"""

import base64
import difflib
import json as json_format
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from shlex import join
from typing import Any

from pyinfra.api import FactBase, Host, StringCommand
from pyinfra.api.exceptions import PyinfraError

from mailkeep.host import (
    adoption,
    connection,
    deploy_history,
    diff,
    each_host,
    operations,
    plan_report,
    preflight,
    takeover,
)
from mailkeep.host.diff import FileChange
from mailkeep.host.plan_report import Change, HostPlan
from mailkeep.host.preflight_facts import PASSED_MARK, HostFacts, LoginFact
from mailkeep.host.preflight_rules import is_takeover
from mailkeep.host.snapshot import PathState, Snapshot, SnapshotFact
from mailkeep.host.ssh_connection import COMMAND_TIMEOUT
from mailkeep.inventory import hosts, secrets
from mailkeep.parts import mail_server, server_package
from mailkeep.parts.model import Directory, File, Part, Unit
from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings
from mailkeep_server.common.paths import DEPLOY_HISTORY, STOPPED_UNITS

Parts = tuple[Part, ...]
MAX_DIFF_BYTES = 200_000  # of a live file; ours are far smaller
_ACTION_TEXTS = {"reset-failed": "forget the failures of", "try-restart": "restart, if it runs,"}


def print_plan(inventory: Path, *, json: bool = False, adopt: bool = False, full: bool = False) -> int:
    """Print the plan for each host of this inventory directory. Of many, print equal changes once, unless `full`.
    Return 0 if nothing would change, 2 if something would, and 1 if a host is unreachable or would be refused. Raises
    UserError if the inventory itself is wrong."""
    declared_hosts = {name: _load_host(name, data) for name, data in hosts.read_hosts(inventory).items()}
    is_short = not full and not json and len(declared_hosts) >= each_host.MIN_HOSTS_FOR_SHORT_FORM

    def plan_host(name: str) -> HostPlan:
        declared = declared_hosts[name]
        return _with_connection(name, declared.data, partial(_plan_host, declared=declared, adopt=adopt))

    plans = {}
    for name, plan in _run_on_each(list(declared_hosts), plan_host):
        plans[name] = plan
        if is_short:
            plan_report.print_line(name, plan)
    plans = {name: plans[name] for name in declared_hosts}
    if json:
        print(json_format.dumps({"hosts": {name: asdict(plan) for name, plan in plans.items()}}, indent=2))
    elif is_short:
        plan_report.print_broken_and_changes(plans)
    else:
        for name, plan in plans.items():
            plan_report.print_host_plan(name, plan)
    if any(plan.error or plan.problems for plan in plans.values()):
        return 1
    return 2 if any(plan.changes for plan in plans.values()) else 0


def _run_on_each(names: list[str], action: Callable[[str], HostPlan]) -> Iterator[tuple[str, HostPlan]]:
    """The plan of each host as it is ready. A single host needs no process of its own."""
    if len(names) == 1:
        yield names[0], action(names[0])
        return
    for result in each_host.run_on_each(names, action):
        yield result.name, result.value or HostPlan(error=result.error)


@dataclass(frozen=True, slots=True)
class _DeclaredHost:
    """A host as its inventory declares it; `data` is for pyinfra."""

    data: dict[str, object]
    settings: Settings
    parts: Parts
    state: deploy_history.DeclaredState


def _load_host(name: str, data: dict[str, object]) -> _DeclaredHost:
    file = hosts.settings_path(name, data)
    settings = load_settings(file)
    parts = mail_server.build_parts(settings, secrets.load_secrets(settings, file.parent))
    return _DeclaredHost(data, settings, parts, deploy_history.declare_state(file, settings, parts))


def explain_failure(inventory: Path, *, json: bool = False) -> None:
    """After a failed deploy: print which hosts are unreachable, and the ssh command that must work."""
    declared = hosts.read_hosts(inventory)
    plans = dict(
        _run_on_each(list(declared), lambda name: _with_connection(name, declared[name], lambda _: HostPlan()))
    )
    if json:
        report = {name: {"error": plans[name].error or "See standard error."} for name in declared}
        print(json_format.dumps({"hosts": report}, indent=2))
    else:
        for name in declared:
            if plans[name].error:
                plan_report.print_host_plan(name, HostPlan(error=plans[name].error))


def _with_connection(name: str, data: dict[str, object], make_plan: Callable[[Host], HostPlan]) -> HostPlan:
    with connection.collect_log(name):
        try:
            with connection.connect_host(name, data) as host:
                return make_plan(host)
        except connection.CONNECTION_ERRORS as error:
            return HostPlan(error=connection.describe_failure(error, name, data))


def _plan_host(host: Host, declared: _DeclaredHost, adopt: bool) -> HostPlan:
    login = _read_fact(host, LoginFact)
    sudo = login.uid != 0

    def read(fact: type[FactBase[Any]], **arguments: Any) -> Any:
        return _read_fact(host, fact, sudo, **arguments)

    can_ask = preflight.can_ask_password(host.data)
    facts, verdict = preflight.examine_host(declared.settings, login, read, adopt=adopt, can_ask=can_ask)
    if verdict.problems or facts is None:
        return HostPlan(problems=verdict.problems, warnings=verdict.warnings)
    warnings, history = verdict.warnings, deploy_history.parse_history(facts.deploy_history)
    if older := deploy_history.describe_undone(history, declared.state):
        warnings = (f"A deploy would refuse. {older}", *warnings)
    actual = read(SnapshotFact, parts=declared.parts)
    changes = [change for part in declared.parts for change in diff.changed_files(part, actual)]
    shown = [change.file.path for change in changes if _may_show(change, actual)]
    live = read(FileContents, paths=shown) if shown else {}
    plan = (*_takeover_changes(facts), *list_changes(declared.parts, actual, live))
    if not deploy_history.is_recorded(history, declared.state):
        plan = (*plan, Change(operations.HISTORY, f"write into {DEPLOY_HISTORY} what was deployed"))
    if not takeover.is_told(facts):
        return HostPlan(warnings=warnings, changes=plan)
    arguments = (declared.settings, declared.parts, facts, read(takeover.TakeoverFact), actual)
    losses, kept = takeover.describe_losses(*arguments), takeover.describe_kept(*arguments)
    return HostPlan(warnings=warnings, changes=plan, losses=losses, kept=kept)


def _read_fact(host: Host, fact: type[FactBase[Any]], sudo: bool = False, **arguments: Any) -> Any:
    """As pyinfra's `get_fact`, but raises PyinfraError with the command's own error."""
    reader = fact()
    command = StringCommand(reader.command(**arguments))
    password = host.data.get("_sudo_password")
    succeeded, output = host.run_shell_command(
        command, _sudo=sudo, _timeout=COMMAND_TIMEOUT, **({"_sudo_password": password} if password else {})
    )
    if not succeeded:
        raise PyinfraError(f"{fact.__name__} could not be read: {' '.join(output.stderr_lines) or 'no answer'}")
    return reader.process(output.stdout_lines)


class FileContents(FactBase[dict[str, bytes]]):
    """The first MAX_DIFF_BYTES of each file, by path; empty for an unreadable file."""

    def command(self, paths: list[str]) -> str:
        self._paths = paths
        return f'for file in {join(paths)}; do head -c {MAX_DIFF_BYTES} "$file" | base64 -w 0; echo; done'

    def process(self, output: list[str]) -> dict[str, bytes]:
        return {path: base64.b64decode(line) for path, line in zip(self._paths, output, strict=True)}


def _may_show(change: FileChange, actual: Snapshot) -> bool:
    """Whether a diff may be printed: not of secrets, nor of a live file that is not world-readable, for it may hold
    secrets."""
    if change.kind != "content" or change.file.secret:
        return False
    state = actual.paths[change.file.path]
    return state.kind.startswith("regular") and bool(state.mode & 0o004)


def _takeover_changes(facts: HostFacts) -> Iterator[Change]:
    if is_takeover(facts):
        operation = preflight.OPERATION
        yield Change(operation, f"save in {adoption.describe_directory()} what is replaced or removed")
        for package in facts.other_mtas:
            yield Change(
                operations.PACKAGES, f"once all is downloaded, stop the services of {package}; Postfix replaces it"
            )
        yield Change(operation, f"make {PASSED_MARK}: from now on, Mailkeep manages the host")


def list_changes(parts: Parts, actual: Snapshot, live: dict[str, bytes]) -> Iterator[Change]:
    """The changes of a deploy, in its order. `live` has the contents of those files whose diff may be shown."""
    yield from (Change(operations.LEFTOVERS, f"remove {path}") for path in diff.find_leftovers(parts, actual))
    for line in actual.unconfigured:
        yield Change(operations.PACKAGES, f"finish an interrupted installation: {line}")
    yield from (Change(operations.PACKAGES, f"install {name}") for name in diff.missing_packages(parts, actual))
    for part in parts:
        yield from (Change(operations.USERS, f"add the user {user.name}") for user in diff.missing_users(part, actual))
        for user, group in diff.missing_memberships(part, actual):
            yield Change(operations.USERS, f"add {user} to the group {group}")
    for part in parts:
        yield from _file_changes(part, actual, live)
    yield from _service_changes(parts, actual)
    if diff.lacks_access_record(parts, actual):
        listing = f"`{server_package.PYTHON} root-access` lists them"
        text = f"record who and what can become root now: {listing}, and verify names what is added later"
        yield Change(operations.ACCESS, text)
    if diff.has_stopped_units(actual):
        yield Change(operations.SETTLE, f"remove {STOPPED_UNITS}")


def _service_changes(parts: Parts, actual: Snapshot) -> Iterator[Change]:
    changed = diff.changed_paths(parts, actual)
    for part in parts:
        for unit in part.units:
            for action in _unit_actions(unit, actual, changed):
                yield Change(f"{part.name}: services", action)


def _file_changes(part: Part, actual: Snapshot, live: dict[str, bytes]) -> Iterator[Change]:
    for directory in diff.changed_directories(part, actual):
        yield Change(operations.FILES, _describe_directory(directory, actual))
    for change in diff.changed_files(part, actual):
        yield _describe_file(change, actual, live)
    yield from (Change(operations.FILES, f"stop and disable {unit}") for unit in diff.units_to_stop((part,), actual))
    yield from (Change(operations.FILES, f"remove {path}") for path in diff.paths_to_remove(part, actual))


def _unit_actions(unit: Unit, actual: Snapshot, changed: list[str]) -> Iterator[str]:
    state = actual.units.get(unit.name)
    if state and state.is_stale:
        yield f"have systemd reread {unit.name}"
    for file, spoilt in diff.spoilt_state(unit, actual):
        defect = f"a {spoilt.kind} of {_describe_access(spoilt)}" if spoilt else "missing"
        yield f"mend {file.path}: {defect}, but must be a file of {file.owner}:{file.group}"
    for action in diff.unit_actions(unit, actual, changed):
        yield f"{_ACTION_TEXTS.get(action, action)} {unit.name}"


def _describe_directory(directory: Directory, actual: Snapshot) -> str:
    if state := actual.paths.get(directory.path):
        return f"{directory.path}/: {_describe_access(state)} becomes {_describe_access(directory)}"
    return f"make {directory.path}/ ({_describe_access(directory)})"


def _describe_access(path: File | Directory | PathState) -> str:
    return f"{path.owner}:{path.group} {path.mode:04o}"


def _describe_file(change: FileChange, actual: Snapshot, live: dict[str, bytes]) -> Change:
    file, state = change.file, actual.paths.get(change.file.path)
    if state is None:
        size = "secret" if file.secret else f"{len(file.content)} bytes"
        return Change(operations.FILES, f"{file.path}: new ({size}, {_describe_access(file)})")
    is_right = (state.owner, state.group, state.mode) == (file.owner, file.group, file.mode)
    access = "" if is_right else f"{_describe_access(state)} becomes {_describe_access(file)}"
    if change.kind == "access":
        return Change(operations.FILES, f"{file.path}: {access}")
    if not state.kind.startswith("regular"):
        text = f"{file.path}: is a {state.kind}, becomes a file ({_describe_access(file)})"
        return Change(operations.FILES, text)
    text, unified = f"{file.path}: content differs", ""
    if file.path in live:
        unified = _unified_diff(file.path, live[file.path], file.content)
    else:
        text += f" ({'secret' if file.secret else 'not shown: it is not world-readable'})"
    return Change(operations.FILES, f"{text}, {access}" if access else text, unified)


def _unified_diff(path: str, live: bytes, planned: bytes) -> str:
    before, after = (text.decode(errors="backslashreplace").splitlines() for text in (live, planned))
    return "\n".join(difflib.unified_diff(before, after, f"{path} (on the host)", f"{path} (planned)", lineterm=""))
