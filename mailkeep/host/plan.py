"""What a deploy would do to the hosts of an inventory, found out without touching them.

It connects as a deploy does, looks with the same facts, compares with the same functions, and only prints.
"""

import base64
import difflib
import json as json_format
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from shlex import join
from typing import Any

from paramiko import SSHException
from pyinfra.api import Config, FactBase, Host, Inventory, State, StringCommand
from pyinfra.api.exceptions import PyinfraError
from rich.console import Console
from rich.text import Text

from mailkeep.host import diff, preflight
from mailkeep.host.diff import FileChange
from mailkeep.host.snapshot import PathState, Snapshot, SnapshotFact
from mailkeep.inventory import hosts as inventories
from mailkeep.inventory import secrets
from mailkeep.parts import mail_server
from mailkeep.parts.model import Directory, File, Part, Unit
from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings

Parts = tuple[Part, ...]
DIFF_BYTES = 200_000  # of a live file; ours are far smaller
_FILES = "Files: checked, then put in place"
_STYLES = {"+": "green", "-": "red", "@": "cyan"}
_DOES = {"reset-failed": "forget the failures of"}


@dataclass(frozen=True, slots=True)
class Change:
    """`operation` is the one of `deploy` that does it; `diff` a unified diff, empty for what is not a file, new or
    secret."""

    operation: str
    what: str
    diff: str = ""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What a deploy would do to a host; or the `problems` for which it would refuse it; or the `error` with which it
    could not be looked at."""

    error: str = ""
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()


def plan(inventory: Path, *, json: bool = False, adopt: bool = False) -> int:
    """Prints what would change on each host of this inventory directory: 0 nothing, 2 something, 1 a host that cannot
    be reached or would be refused. UserError when the inventory itself is wrong."""
    hosts = {name: _declared(name, data) for name, data in inventories.read_hosts(inventory).items()}
    found = {
        name: _at(name, declared.data, partial(_look, declared=declared, adopt=adopt))
        for name, declared in hosts.items()
    }
    if json:
        print(json_format.dumps({"hosts": {name: asdict(planned) for name, planned in found.items()}}, indent=2))
    else:
        for name, planned in found.items():
            _show(name, planned)
    if any(planned.error or planned.problems for planned in found.values()):
        return 1
    return 2 if any(planned.changes for planned in found.values()) else 0


@dataclass(frozen=True, slots=True)
class _Declared:
    """A host's data for pyinfra, and what it should be."""

    data: dict[str, object]
    settings: Settings
    parts: Parts


def _declared(name: str, data: dict[str, object]) -> _Declared:
    file = inventories.settings_path(name, data)
    declared = load_settings(file)
    return _Declared(data, declared, mail_server.build_parts(declared, secrets.load_secrets(declared, file.parent)))


def explain(inventory: Path, *, json: bool = False) -> None:
    """After a deploy that failed: says which hosts cannot be reached, and what must get there; as JSON if asked."""
    hosts = inventories.read_hosts(inventory)
    errors = {name: _at(name, data, lambda _: HostPlan()).error for name, data in hosts.items()}
    if json:
        said = {name: {"error": error or "See standard error."} for name, error in errors.items()}
        print(json_format.dumps({"hosts": said}, indent=2))
    else:
        for name, error in errors.items():
            if error:
                _show(name, HostPlan(error=error))


def _at(name: str, data: dict[str, object], look: Callable[[Host], HostPlan]) -> HostPlan:
    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what it says, with tracebacks, pyinfra says too
    alone = Inventory(([(name, data)], {}))  # type: ignore[no-untyped-call]
    State(alone, Config())  # type: ignore[no-untyped-call]  # ties itself to the hosts
    host = alone.get_host(name)
    try:
        host.connect(show_errors=False, raise_exceptions=True)
        return look(host)
    except (PyinfraError, SSHException, OSError, EOFError) as error:
        said = str(error) or type(error).__name__
        return HostPlan(error=f"{said}. `{inventories.ssh_command(name, data)}` must get in without a question.")
    finally:
        if host.connected:
            host.disconnect()


def _look(host: Host, declared: _Declared, adopt: bool) -> HostPlan:
    login = _read(host, preflight.LoginFact)
    sudo = login.uid != 0

    def read(fact: type[FactBase[Any]], **arguments: Any) -> Any:
        return _read(host, fact, sudo, **arguments)

    can_ask = preflight.can_ask(host.data)
    seen, verdict = preflight.examine(declared.settings, login, read, adopt=adopt, can_ask=can_ask)
    if verdict.problems or seen is None:
        return HostPlan(problems=verdict.problems, warnings=verdict.warnings)
    now = read(SnapshotFact, parts=declared.parts)
    shown = [change.file.path for part in declared.parts for change in diff.files(part, now) if _shows(change, now)]
    live = read(Contents, paths=shown) if shown else {}
    found = (*_takeover(seen), *changes(declared.parts, now, live))
    return HostPlan(warnings=verdict.warnings, changes=found)


def _read(host: Host, fact: type[FactBase[Any]], sudo: bool = False, **arguments: Any) -> Any:
    """As pyinfra's `get_fact`, but a failure is an error that can be told."""
    asked = fact()
    command = StringCommand(asked.command(**arguments))
    password = host.data.get("_sudo_password")
    good, output = host.run_shell_command(command, _sudo=sudo, **({"_sudo_password": password} if password else {}))
    if not good:
        raise PyinfraError(f"{fact.__name__} could not be read: {' '.join(output.stderr_lines) or 'no answer'}")
    return asked.process(output.stdout_lines)


class Contents(FactBase[dict[str, bytes]]):
    """The first DIFF_BYTES of each file, by path; nothing of one that cannot be read."""

    def command(self, paths: list[str]) -> str:
        self._paths = paths
        return f'for file in {join(paths)}; do head -c {DIFF_BYTES} "$file" | base64 -w 0; echo; done'

    def process(self, output: list[str]) -> dict[str, bytes]:
        return {path: base64.b64decode(line) for path, line in zip(self._paths, output, strict=True)}


def _shows(change: FileChange, now: Snapshot) -> bool:
    """Whether a diff may be shown. Of what others cannot read on the host neither: who knows what is in it."""
    if change.why != "content" or change.file.secret:
        return False
    is_now = now.paths[change.file.path]
    return is_now.kind.startswith("regular") and bool(is_now.mode & 0o004)


def _takeover(seen: preflight.Seen) -> Iterator[Change]:
    if preflight.begins(seen):
        if seen.foreign or seen.mtas:
            yield Change(preflight.NAME, f"save the mail server's configuration that is there in {preflight.BACKUPS}")
        yield from (
            Change(preflight.NAME, f"stop what runs of {package}; Postfix replaces it") for package in seen.mtas
        )
        yield Change(preflight.NAME, f"make {preflight.BEGUN}: from now on the host is Mailkeep's")


def changes(parts: Parts, now: Snapshot, live: dict[str, bytes]) -> Iterator[Change]:
    """What a deploy would do, in its order. `live` has the contents of the files of which a diff may be shown."""
    yield from (Change("Leftovers of an interrupted run", f"remove {p}") for p in diff.leftovers(parts, now))
    yield from (Change("Packages", f"finish what dpkg was interrupted at: {line}") for line in now.unconfigured)
    yield from (Change("Packages", f"install {package}") for package in diff.packages(parts, now))
    for part in parts:
        yield from (Change("System users", f"add the user {user.name}") for user in diff.users(part, now))
        for user, group in diff.memberships(part, now):
            yield Change("System users", f"add {user} to the group {group}")
    for part in parts:
        yield from (Change(_FILES, _directory(want, now)) for want in diff.directories(part, now))
        yield from (_file(change, now, live) for change in diff.files(part, now))
        yield from (Change(_FILES, f"stop and disable {unit}") for unit in diff.retired((part,), now))
        yield from (Change(_FILES, f"remove {path}") for path in diff.absent(part, now))
    touched = diff.touched(parts, now)
    for part in parts:
        for unit in part.units:
            yield from (Change(f"{part.name}: services", what) for what in _unit(unit, now, touched))


def _unit(unit: Unit, now: Snapshot, touched: list[str]) -> Iterator[str]:
    is_now = now.units.get(unit.name)
    if is_now and is_now.stale:
        yield f"have systemd reread {unit.name}"
    for action in diff.actions(unit, now, touched):
        yield f"{_DOES.get(action, action)} {unit.name}"


def _directory(want: Directory, now: Snapshot) -> str:
    if is_now := now.paths.get(want.path):
        return f"{want.path}/: {_access(is_now)} becomes {_access(want)}"
    return f"make {want.path}/ ({_access(want)})"


def _access(of: File | Directory | PathState) -> str:
    return f"{of.owner}:{of.group} {of.mode:04o}"


def _file(change: FileChange, now: Snapshot, live: dict[str, bytes]) -> Change:
    file = change.file
    path, is_now = file.path, now.paths.get(file.path)
    if is_now is None:
        kind = "secret" if file.secret else f"{len(file.content)} bytes"
        return Change(_FILES, f"{path}: new ({kind}, {_access(file)})")
    kept = (is_now.owner, is_now.group, is_now.mode) == (file.owner, file.group, file.mode)
    access = "" if kept else f"{_access(is_now)} becomes {_access(file)}"
    if change.why == "access":
        return Change(_FILES, f"{path}: {access}")
    if path in live:
        return Change(_FILES, _and(f"{path}: content differs", access), _diff(path, live[path], file.content))
    if not is_now.kind.startswith("regular"):
        return Change(_FILES, f"{path}: is a {is_now.kind}, becomes a file ({_access(file)})")
    why = "secret" if file.secret else "not shown: others cannot read it there"
    return Change(_FILES, _and(f"{path}: content differs ({why})", access))


def _and(first: str, second: str) -> str:
    return f"{first}, {second}" if second else first


def _diff(path: str, live: bytes, wanted: bytes) -> str:
    before, after = (text.decode(errors="backslashreplace").splitlines() for text in (live, wanted))
    return "\n".join(difflib.unified_diff(before, after, f"{path} (on the host)", f"{path} (planned)", lineterm=""))


def _show(name: str, planned: HostPlan) -> None:
    out, err = (Console(stderr=stderr, highlight=False, soft_wrap=True) for stderr in (False, True))
    for warning in planned.warnings:
        err.print(Text.assemble((f"{name}: warning: ", "yellow"), warning))
    if planned.error or planned.problems:
        problems = preflight.Verdict(planned.problems).refusal(name)
        err.print(Text(f"{name}: {planned.error}" if planned.error else problems, "red"))
        return
    operation = ""
    out.print(Text(f"{name}: {_counted(planned.changes)}", "bold"))
    for change in planned.changes:
        if change.operation != operation:
            operation = change.operation
            out.print(Text(f"  {operation}", "bold"))
        out.print(Text(f"    {change.what}"))
        for line in change.diff.splitlines():
            out.print(Text(f"      {line}", _STYLES.get(line[:1], "")))


def _counted(listed: tuple[Change, ...]) -> str:
    if not listed:
        return "nothing to do"
    return f"{len(listed)} change{'s' if len(listed) > 1 else ''}; nothing was touched"
