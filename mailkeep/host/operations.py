"""How parts become true on a host: pyinfra operations that compare with the snapshot and yield only the difference.

`converge_host` sets their order. Nothing live changes before every changed file has passed its service's own checker.
Marks are written before the files go live, so that the next run finishes an interrupted one.
"""

import base64
import io
import tarfile
from collections.abc import Generator, Iterator
from pathlib import PurePosixPath
from shlex import join, quote
from typing import cast

from pyinfra import host
from pyinfra.api import StringCommand, operation
from pyinfra.api.exceptions import PyinfraError

from mailkeep.host import adoption, deploy_history, diff
from mailkeep.host.diff import FileChange
from mailkeep.host.preflight import needs_sudo, read_history, read_history_text
from mailkeep.host.snapshot import NEW_SUFFIX, PENDING, POLICY_RC_D, RUN, Snapshot, SnapshotFact
from mailkeep.host.ssh_connection import COMMAND_TIMEOUT
from mailkeep.host.stopped_units import BRING_BACK, BRING_BACK_IF_IT_FAILS, STOP_REPLACED
from mailkeep.parts import server_package
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part
from mailkeep_server.common.paths import DEPLOY_HISTORY, KNOWN_ACCESS, STOPPED_UNITS

Commands = Generator[StringCommand, None, None]
Parts = tuple[Part, ...]

LEFTOVERS, PACKAGES, USERS = "Leftovers of an interrupted run", "Packages", "System users"
ACCESS, SETTLE = "Who can become root", "What was stopped is replaced"
HISTORY = "Which inventory was deployed"
FILES = "Files: checked, then put in place"
STAGE = f"{RUN}/stage"
"""Holds the changed files while they are checked. A tmpfs that only the committing process sees, and that ends with
it."""
LOCK_TIMEOUT = 600  # seconds for another deploy to end
MAX_APT_WAITS = 300  # of a second each, for another program to release a lock of apt's or dpkg's


def converge_host(parts: Parts, declared: deploy_history.DeclaredState | None = None) -> None:
    """Declare the operations that make `parts` true on the current host. With `declared`, the host keeps what was
    deployed."""
    sudo = needs_sudo()
    clear_leftovers(parts=parts, name=LEFTOVERS, _sudo=sudo)
    install_packages(parts=parts, name=PACKAGES, _sudo=sudo)
    add_users(parts=parts, name=USERS, _sudo=sudo)
    put_in_place(parts=parts, name=FILES, _sudo=sudo)
    for part in parts:
        if part.units:
            activate_units(parts=parts, part=part, name=f"{part.name}: services", _sudo=sudo)
    record_root_access(parts=parts, name=ACCESS, _sudo=sudo)
    forget_stopped_units(parts=parts, name=SETTLE, _sudo=sudo)
    if declared:
        record_inventory(declared=declared, name=HISTORY, _sudo=sudo)


def read_snapshot(parts: Parts) -> Snapshot:
    """The current host's snapshot, read once and cached until `forget_snapshot`."""
    cache = host.connector_data
    if "mailkeep" not in cache:
        cache["mailkeep"] = host.get_fact(SnapshotFact, parts=parts, _timeout=COMMAND_TIMEOUT)
    if cache["mailkeep"] is None:  # pyinfra has printed why; an unreadable host is not an empty one
        raise PyinfraError(f"{host.name}: Mailkeep could not read the host's state; the error is above.")
    return cast(Snapshot, cache["mailkeep"])


def forget_snapshot() -> None:
    """Call it after a command that changes the host's state. Code behind a `yield` runs once the command succeeded."""
    host.connector_data.pop("mailkeep", None)


@operation()
def clear_leftovers(parts: Parts) -> Commands:
    if paths := diff.find_leftovers(parts, read_snapshot(parts)):
        yield _script(_LOCK, f"rm -f -- {join(paths)}")
        forget_snapshot()


@operation()
def install_packages(parts: Parts) -> Commands:
    actual = read_snapshot(parts)
    missing = diff.missing_packages(parts, actual)
    if missing or actual.unconfigured:
        yield _install_script(missing, bool(actual.unconfigured))
        forget_snapshot()


def _install_script(packages: list[str], was_interrupted: bool) -> StringCommand:
    keep = ("--force-confold", "--force-confdef")  # keep configuration files that are already ours
    install = " ".join(["install --no-install-recommends", *(f"-o Dpkg::Options::={option}" for option in keep)])
    policy, new_policy = POLICY_RC_D.path, f"{POLICY_RC_D.path}{NEW_SUFFIX}"
    return _script(
        _LOCK,
        "export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8",
        BRING_BACK,
        STOP_REPLACED,
        "our_policy=",
        """trap '[ $? = 0 ] || bring_back; [ -z "$our_policy" ] || rm -f "$our_policy"' EXIT""",
        f"if [ ! -e {policy} ]; then",
        f"  our_policy={policy}",
        f"  printf %s {quote(POLICY_RC_D.content.decode())} > {new_policy}",
        f"  chmod {POLICY_RC_D.mode:o} {new_policy} && mv {new_policy} {policy}",
        "fi",
        _PATIENTLY,
        # Fails for a package that waits for another which was never unpacked; --fix-broken then fetches that.
        *([f"patiently dpkg --configure -a {join(keep)} || true"] if was_interrupted else []),
        "patiently apt-get -qq update",
        f'replace() {{ patiently apt-get -qq -y {install} --download-only "$@"',
        f"  {adoption.mark_script(adoption.PACKAGES_CHANGED)}",
        f'  stop_replaced {install} "$@"',
        f'  patiently apt-get -qq -y {install} "$@"; }}',
        *(["replace --fix-broken"] if was_interrupted else []),
        f"replace {join(packages)}",
        "forget_failures",
    )


_PATIENTLY = f"""
patiently() {{  # wait while another program, such as unattended-upgrades, holds a lock of apt's or dpkg's
  waits=0
  until output=$("$@" 2>&1 < /dev/null 9>&-); do
    case $output in
      *'get lock'* | *'lock was locked'*) [ $((waits += 1)) -le {MAX_APT_WAITS} ] ;;
      *) false ;;
    esac || {{ printf '%s\\n' "$output" >&2; return 1; }}
    sleep 1
  done
}}"""


@operation()
def add_users(parts: Parts) -> Commands:
    actual = read_snapshot(parts)
    users = [user for part in parts for user in diff.missing_users(part, actual)]
    memberships = [pair for part in parts for pair in diff.missing_memberships(part, actual)]
    if users or memberships:
        create = ("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin")
        yield _script(
            _LOCK,
            BRING_BACK_IF_IT_FAILS,
            *(join([*create, "--home-dir", user.home, user.name]) for user in users),
            *(join(["gpasswd", "--add", user, group]) for user, group in memberships),
        )
        forget_snapshot()


@operation()
def put_in_place(parts: Parts) -> Commands:
    actual = read_snapshot(parts)
    directories = [directory for part in parts for directory in diff.changed_directories(part, actual)]
    if directories or diff.changed_paths(parts, actual):
        for change in _file_changes(parts, actual):
            host.log(f"{change.kind:8}{change.file.path}")
        # Files and scripts travel on standard input. Any user of the host can read an argument list, and could guess
        # the name of a temporary file.
        encoded = base64.encodebytes(build_archive(parts, actual, directories)).decode().splitlines()
        yield StringCommand(_unpack_script(read_history_text()), _stdin=encoded)
        forget_snapshot()


def _unpack_script(history_text: str | None) -> str:
    return _join_lines(
        "set -eu",
        _LOCK,
        BRING_BACK_IF_IT_FAILS,
        deploy_history.refuse_if_changed(history_text),
        f"mkdir -p {STAGE}",
        "unshare --mount --propagation private sh -euc '",
        f"mount -t tmpfs -o mode=700 tmpfs {STAGE}",
        f"base64 -d | tar -x -p -m -C {STAGE} -f -",  # -m: Dovecot rereads accounts when their time changes
        f"exec sh -eu {STAGE}/commit < /dev/null",
        "'",
    )


def _file_changes(parts: Parts, actual: Snapshot) -> list[FileChange]:
    return [change for part in parts for change in diff.changed_files(part, actual)]


def build_archive(parts: Parts, actual: Snapshot, directories: list[Directory]) -> bytes:
    """A tar archive of the scripts `commit` and `check`, and below `new` of the changed files and their managed parent
    directories."""
    files = [change.file for change in _file_changes(parts, actual)]
    parents = {str(parent) for file in files for parent in PurePosixPath(file.path).parents}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add_member(path: str, content: bytes | None, owner: str, group: str, mode: int) -> None:
            member = tarfile.TarInfo(path)
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.uname, member.gname, member.mode, member.size = owner, group, mode, len(content or b"")
            tar.addfile(member, io.BytesIO(content or b""))

        add_member("commit", commit_script(parts, actual, directories).encode(), "root", "root", 0o600)
        add_member("check", check_script(parts, actual).encode(), "root", "root", 0o600)
        add_member("new", None, "root", "root", 0o755)
        for directory in (directory for part in parts for directory in part.directories):
            if directory.path in parents:
                add_member(f"new{directory.path}", None, directory.owner, directory.group, directory.mode)
        for file in files:
            add_member(f"new{file.path}", file.content, file.owner, file.group, file.mode)
    return buffer.getvalue()


def commit_script(parts: Parts, actual: Snapshot, directories: list[Directory]) -> str:
    """The script that makes the staged files live: all of them, if every check passes and the disk has room; else
    none."""
    changed = diff.changed_paths(parts, actual)
    files = [change.file for change in _file_changes(parts, actual)]
    paths: list[File | Directory] = [*files, *directories]
    return _join_lines(
        # tar would silently give a file of an unknown user to root.
        *(_require("user", "passwd", name) for name in sorted({path.owner for path in paths})),
        *(_require("group", "group", name) for name in sorted({path.group for path in paths})),
        f"unshare --mount --propagation private sh -eu {STAGE}/check",
        *(f"install -d -o {d.owner} -g {d.group} -m {d.mode:o} -- {quote(d.path)}" for d in directories),
        f"set -- {join(file.path for file in files)}",
        _COPY,
        f"mkdir -p -m 700 {PENDING}",
        *(f": > {PENDING}/{mark}" for mark in _pending_marks(parts, actual, changed)),
        adoption.mark_script(adoption.FILES_REPLACED),
        f'for live; do mv -fT "$live{NEW_SUFFIX}" "$live"; done',
        _stop_units(parts, actual),
        _remove_paths(parts, actual),
        "systemctl daemon-reload" if diff.is_under(changed, (f"{SYSTEMD}/",)) else ":",
    )


def _require(kind: str, database: str, name: str) -> str:
    error = f"The host has no {kind} {name}, which a file must belong to."
    return f"getent {database} {name} > /dev/null || {{ echo '{error}' >&2; exit 1; }}"


_COPY = f"""
trap 'for live; do rm -f "$live{NEW_SUFFIX}"; done' EXIT
for live; do  # beside the live file: only a rename within one file system is atomic
  if [ -d "$live" ] && [ ! -L "$live" ]; then
    echo "$live is a directory, but must be a file. Move it away, then deploy again." >&2
    exit 1
  fi
  mkdir -p "${{live%/*}}"
  cp -pT "{STAGE}/new$live" "$live{NEW_SUFFIX}"
done"""


def _stop_units(parts: Parts, actual: Snapshot) -> str:
    """Stop the units whose files are removed, while systemd still knows them. A timer without its service would stay
    failed for ever, as would a unit that failed before: hence reset-failed."""
    units = diff.units_to_stop(parts, actual)
    if not units:
        return ":"
    return _join_lines(
        f"systemctl --quiet disable --now -- {join(units)}",
        f"for unit in {join(units)}; do",
        '  if systemctl --quiet is-failed "$unit"; then systemctl reset-failed "$unit"; fi',
        "done",
    )


def _remove_paths(parts: Parts, actual: Snapshot) -> str:
    paths = [path for part in parts for path in diff.paths_to_remove(part, actual)]
    return f"rm -rf -- {join(paths)}" if paths else ":"


def _pending_marks(parts: Parts, actual: Snapshot, changed: list[str]) -> Iterator[str]:
    for unit in (unit for part in parts for unit in part.units):
        if action := diff.pending_action(unit, actual, changed):
            yield f"{unit.name}.{action}"


def check_script(parts: Parts, actual: Snapshot) -> str:
    """The script that runs the checks with the staged files at their final paths.

    In a mount namespace of its own, it lays the stage over each top directory that changes. The host sees none of it.
    """
    changed = diff.changed_paths(parts, actual)
    tops = sorted({PurePosixPath(path).parts[1] for path in changed})
    return _join_lines(
        _CHECK,
        *(f"lay_over {quote(top)}" for top in tops),
        _remove_paths(parts, actual),
        *(_check_command(part, check, changed) for part, check in diff.checks_to_run(parts, changed)),
        'exit "$refused"',
    )


def _check_command(part: Part, check: Check, changed: list[str]) -> str:
    files = ", ".join(path for path in changed if diff.is_under([path], check.reads))
    return f"check {quote(part.name)} {quote(files)} {quote(check.command)}"


_CHECK = f"""
lay_over() {{
  mkdir -p "{STAGE}/new/$1" "{STAGE}/upper/$1" "{STAGE}/work/$1"
  mount -t overlay overlay -o "lowerdir={STAGE}/new/$1:/$1,upperdir={STAGE}/upper/$1,workdir={STAGE}/work/$1" "/$1"
}}
refused=0
check() {{
  output=$(sh -c "$3" 2>&1) && return
  printf '%s: refused, and nothing was put in place: %s\\n%s\\n' "$1" "$2" "${{output:-(no output from: $3)}}" >&2
  refused=1
}}"""


@operation()
def activate_units(parts: Parts, part: Part) -> Commands:
    actual = read_snapshot(parts)
    changed = diff.changed_paths(parts, actual)
    actions = [(action, unit) for unit in part.units for action in diff.unit_actions(unit, actual, changed)]
    if actions or any(actual.units[unit.name].is_stale for unit in part.units):
        yield _script(
            _LOCK,
            BRING_BACK_IF_IT_FAILS,
            _ACT,
            "systemctl daemon-reload",  # NeedDaemonReload does not always show a unit file that was removed by hand
            *(f"act {action} {quote(unit.name)}" for action, unit in actions),
        )


@operation()
def record_root_access(parts: Parts) -> Commands:
    """Once, last: what `mailkeep verify` names from then on is new. A later deploy must not take over an intruder's
    key."""
    if diff.lacks_access_record(parts, read_snapshot(parts)):
        directory = KNOWN_ACCESS.rpartition("/")[0]
        yield _script(_LOCK, f"install -d -m 755 {directory}", f"{server_package.PYTHON} root-access record")
        forget_snapshot()


@operation()
def forget_stopped_units(parts: Parts) -> Commands:
    """Once the deploy has ended, the new services do the work of those that it stopped."""
    if diff.has_stopped_units(read_snapshot(parts)):
        yield _script(_LOCK, f"rm -f {STOPPED_UNITS}")
        forget_snapshot()


@operation()
def record_inventory(declared: deploy_history.DeclaredState) -> Commands:
    """Last: a later deploy from an older inventory is then noticed."""
    history = read_history()
    if history is not None and not deploy_history.is_recorded(history, declared):
        state = deploy_history.add_state(history, declared)
        yield StringCommand(_record_script(read_history_text()), _stdin=state.splitlines())


def _record_script(history_text: str | None) -> str:
    return _join_lines(
        "set -eu",
        _LOCK,
        deploy_history.refuse_if_changed(history_text),
        f"install -d -m 755 {DEPLOY_HISTORY.rpartition('/')[0]}",
        f"umask 077; cat > {DEPLOY_HISTORY}.new; mv {DEPLOY_HISTORY}.new {DEPLOY_HISTORY}",
    )


_ACT = f"""
act() {{
  systemctl "$1" "$2" || {{ journalctl --sync; systemctl status --no-pager --full --lines=20 "$2" >&2; exit 1; }}
  case $1 in
    start | restart | try-restart) rm -f "{PENDING}/$2.restart" "{PENDING}/$2.reload" ;;
    reload) rm -f "{PENDING}/$2.reload" ;;
  esac
}}"""

# Commands that an interrupted run started may still be running.
_LOCK = f"""
umask 022
install -d -m 700 {RUN}  # a user who can open the lock can hold it
exec 9> {RUN}/lock
flock -w {LOCK_TIMEOUT} 9 || {{
  echo "Another deploy holds {RUN}/lock on this host. Deploy again when it has ended." >&2
  exit 1
}}"""


def _script(*lines: str) -> StringCommand:
    return StringCommand(_join_lines("set -eu", *lines))


def _join_lines(*lines: str) -> str:
    return "\n".join(lines)
