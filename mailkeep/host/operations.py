"""How parts become true: pyinfra operations, each of which reads the snapshot and yields only the difference.

The order is that of `converge`. Nothing live changes before every changed file has passed its service's own checker;
what was put in place is marked before it is, so that an interrupted run is finished by the next one.
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

from mailkeep.host import diff
from mailkeep.host.diff import FileChange
from mailkeep.host.preflight import needs_sudo
from mailkeep.host.snapshot import NEW, PENDING, POLICY, RUN, Snapshot, SnapshotFact
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part

Commands = Generator[StringCommand, None, None]
Parts = tuple[Part, ...]

STAGE = f"{RUN}/stage"
"""Where changed files wait to be checked: a tmpfs that only the committing process sees, and that ends with it."""


def converge(parts: Parts) -> None:
    """Declares the operations that make `parts` true on the current host."""
    sudo = needs_sudo()
    clear_leftovers(parts=parts, name="Leftovers of an interrupted run", _sudo=sudo)
    install_packages(parts=parts, name="Packages", _sudo=sudo)
    add_users(parts=parts, name="System users", _sudo=sudo)
    put_in_place(parts=parts, name="Files: checked, then put in place", _sudo=sudo)
    for part in parts:
        if part.units:
            activate(parts=parts, part=part, name=f"{part.name}: services", _sudo=sudo)


def snapshot(parts: Parts) -> Snapshot:
    """The current host's snapshot, read once and kept until `forget`."""
    known = host.connector_data
    if "mailkeep" not in known:
        known["mailkeep"] = host.get_fact(SnapshotFact, parts=parts)
    if known["mailkeep"] is None:  # pyinfra has printed why; never take an unreadable host for an empty one
        raise PyinfraError(f"{host.name}: could not read what is there")
    return cast(Snapshot, known["mailkeep"])


def forget() -> None:
    """After a command that changed what a snapshot shows. Code behind a `yield` runs once the command succeeded."""
    host.connector_data.pop("mailkeep", None)


@operation()
def clear_leftovers(parts: Parts) -> Commands:
    if paths := diff.leftovers(parts, snapshot(parts)):
        yield _script(_ALONE, f"rm -f -- {join(paths)}")
        forget()


@operation()
def install_packages(parts: Parts) -> Commands:
    now = snapshot(parts)
    missing = diff.packages(parts, now)
    if missing or now.unconfigured:
        yield _install(missing, bool(now.unconfigured))
        forget()


def _install(packages: list[str], interrupted: bool) -> StringCommand:
    keep = ("--force-confold", "--force-confdef")  # a file that is already ours stays
    install = " ".join(
        ["apt-get -qq install -y --no-install-recommends", *(f"-o Dpkg::Options::={option}" for option in keep)]
    )
    return _script(
        _ALONE,
        "export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8",
        f"if [ ! -e {POLICY.path} ]; then",
        f"  trap 'rm -f {POLICY.path}' EXIT",
        f"  printf %s {quote(POLICY.content.decode())} > {POLICY.path}{NEW}",
        f"  chmod {POLICY.mode:o} {POLICY.path}{NEW} && mv {POLICY.path}{NEW} {POLICY.path}",
        "fi",
        _PATIENTLY,
        # Fails for what waits for a package that was not unpacked any more; --fix-broken gets that.
        *([f"patiently dpkg --configure -a {join(keep)} || true"] if interrupted else []),
        "patiently apt-get -qq update",
        *([f"patiently {install} --fix-broken"] if interrupted else []),
        f"patiently {install} {join(packages)}",
    )


_PATIENTLY = """
patiently() {  # waits while another program, such as unattended-upgrades, holds a lock of apt's or dpkg's
  waited=0
  until said=$("$@" 2>&1 < /dev/null 9>&-); do
    case $said in
      *'get lock'* | *'lock was locked'*) [ $((waited += 1)) -le 300 ] ;;
      *) false ;;
    esac || { printf '%s\\n' "$said" >&2; return 1; }
    sleep 1
  done
}"""


@operation()
def add_users(parts: Parts) -> Commands:
    now = snapshot(parts)
    new = [user for part in parts for user in diff.users(part, now)]
    joins = [pair for part in parts for pair in diff.memberships(part, now)]
    if new or joins:
        create = ("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin")
        yield _script(
            _ALONE,
            *(join([*create, "--home-dir", user.home, user.name]) for user in new),
            *(join(["gpasswd", "--add", user, group]) for user, group in joins),
        )
        forget()


@operation()
def put_in_place(parts: Parts) -> Commands:
    now = snapshot(parts)
    directories = [d for part in parts for d in diff.directories(part, now)]
    if directories or diff.touched(parts, now):
        for change in _changes(parts, now):
            host.log(f"{change.why:8}{change.file.path}")
        # Everything travels on standard input: neither files nor scripts are in an argument list, which any user of
        # the host can read, nor in a temporary file of a name that others could guess.
        encoded = base64.encodebytes(archive(parts, now, directories)).decode().splitlines()
        yield StringCommand(
            _lines(
                "set -eu",
                _ALONE,
                f"mkdir -p {STAGE}",
                "exec unshare --mount --propagation private sh -euc '",
                f"mount -t tmpfs -o mode=700 tmpfs {STAGE}",
                f"base64 -d | tar -x -p -m -C {STAGE} -f -",  # -m: Dovecot rereads accounts when their time changes
                f"exec sh -eu {STAGE}/commit < /dev/null",
                "'",
            ),
            _stdin=encoded,
        )
        forget()


def _changes(parts: Parts, now: Snapshot) -> list[FileChange]:
    return [change for part in parts for change in diff.files(part, now)]


def archive(parts: Parts, now: Snapshot, directories: list[Directory]) -> bytes:
    """A tar archive: the scripts `commit` and `check`, and below `new` the changed files with the managed directories
    that lead to them."""
    files = [change.file for change in _changes(parts, now)]
    parents = {str(parent) for file in files for parent in PurePosixPath(file.path).parents}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(path: str, content: bytes | None, owner: str, group: str, mode: int) -> None:
            member = tarfile.TarInfo(path)
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.uname, member.gname, member.mode, member.size = owner, group, mode, len(content or b"")
            tar.addfile(member, io.BytesIO(content or b""))

        add("commit", commit_script(parts, now, directories).encode(), "root", "root", 0o600)
        add("check", check_script(parts, now).encode(), "root", "root", 0o600)
        add("new", None, "root", "root", 0o755)
        for directory in (d for part in parts for d in part.directories if d.path in parents):
            add(f"new{directory.path}", None, directory.owner, directory.group, directory.mode)
        for file in files:
            add(f"new{file.path}", file.content, file.owner, file.group, file.mode)
    return buffer.getvalue()


def commit_script(parts: Parts, now: Snapshot, directories: list[Directory]) -> str:
    """What makes the staged files live: none of them, unless each passes its checks and the disk has room for all."""
    changed = diff.touched(parts, now)
    owned: list[File | Directory] = [*(change.file for change in _changes(parts, now)), *directories]
    systemd = diff.below(changed, (f"{SYSTEMD}/",))
    return _lines(
        # tar gives what belongs to an unknown user to root.
        *(f"getent passwd {name} > /dev/null || {_no('user', name)}" for name in sorted({o.owner for o in owned})),
        *(f"getent group {name} > /dev/null || {_no('group', name)}" for name in sorted({o.group for o in owned})),
        f"unshare --mount --propagation private sh -eu {STAGE}/check",
        *(f"install -d -o {d.owner} -g {d.group} -m {d.mode:o} -- {quote(d.path)}" for d in directories),
        f"set -- {join(change.file.path for change in _changes(parts, now))}",
        _COPY,
        f"mkdir -p -m 700 {PENDING}",
        *(f": > {PENDING}/{mark}" for mark in _marks(parts, now, changed)),
        f'for live; do mv -fT "$live{NEW}" "$live"; done',
        _retire(parts, now),
        _remove(parts, now),
        "systemctl daemon-reload" if systemd else ":",
    )


def _no(kind: str, name: str) -> str:
    return f"{{ echo 'There is no {kind} {name}, to whom a file shall belong.' >&2; exit 1; }}"


_COPY = f"""
trap 'for live; do rm -f "$live{NEW}"; done' EXIT
for live; do  # beside the live file: only a rename within one file system is atomic
  if [ -d "$live" ] && [ ! -L "$live" ]; then
    echo "$live is a directory; a file belongs there." >&2
    exit 1
  fi
  mkdir -p "${{live%/*}}"
  cp -pT "{STAGE}/new$live" "$live{NEW}"
done"""


def _retire(parts: Parts, now: Snapshot) -> str:
    """Ends the units whose files go, while systemd still knows them: a timer that finds no service any more has failed,
    and counts as that for ever, as does whatever failed before."""
    units = diff.retired(parts, now)
    if not units:
        return ":"
    return _lines(
        f"systemctl --quiet disable --now -- {join(units)}",
        f"for unit in {join(units)}; do",
        '  if systemctl --quiet is-failed "$unit"; then systemctl reset-failed "$unit"; fi',
        "done",
    )


def _remove(parts: Parts, now: Snapshot) -> str:
    gone = [path for part in parts for path in diff.absent(part, now)]
    return f"rm -rf -- {join(gone)}" if gone else ":"


def _marks(parts: Parts, now: Snapshot, changed: list[str]) -> Iterator[str]:
    for unit in (unit for part in parts for unit in part.units):
        if due := diff.due(unit, now, changed):
            yield f"{unit.name}.{due}"


def check_script(parts: Parts, now: Snapshot) -> str:
    """Runs the checks where the staged files already lie at their final places: in a mount namespace of its own, with
    the stage laid over each directory of `/` that changes. The host sees none of it."""
    changed = diff.touched(parts, now)
    tops = sorted({PurePosixPath(path).parts[1] for path in changed})
    return _lines(
        _CHECK,
        *(f"lay_over {quote(top)}" for top in tops),
        _remove(parts, now),
        *(_check(part, check, changed) for part, check in diff.checks(parts, changed)),
        'exit "$refused"',
    )


def _check(part: Part, check: Check, changed: list[str]) -> str:
    files = ", ".join(path for path in changed if diff.below([path], check.reads))
    return f"check {quote(part.name)} {quote(files)} {quote(check.command)}"


_CHECK = f"""
lay_over() {{
  mkdir -p "{STAGE}/new/$1" "{STAGE}/upper/$1" "{STAGE}/work/$1"
  mount -t overlay overlay -o "lowerdir={STAGE}/new/$1:/$1,upperdir={STAGE}/upper/$1,workdir={STAGE}/work/$1" "/$1"
}}
refused=0
check() {{
  said=$(sh -c "$3" 2>&1) && return
  printf '%s: refused, and nothing was put in place: %s\\n%s\\n' "$1" "$2" "${{said:-(the check says nothing: $3)}}" >&2
  refused=1
}}"""


@operation()
def activate(parts: Parts, part: Part) -> Commands:
    now = snapshot(parts)
    changed = diff.touched(parts, now)
    wanted = {unit: diff.actions(unit, now, changed) for unit in part.units}
    stale = any(now.units[unit.name].stale for unit in part.units)
    if stale or any(wanted.values()):
        yield _script(
            _ALONE,
            _ACT,
            "systemctl daemon-reload",  # what an operator removed by hand does not always show as NeedDaemonReload
            *(f"act {action} {quote(unit.name)}" for unit, actions in wanted.items() for action in actions),
        )


_ACT = f"""
act() {{
  systemctl "$1" "$2" || {{ journalctl --sync; systemctl status --no-pager --full --lines=20 "$2" >&2; exit 1; }}
  case $1 in
    start | restart) rm -f "{PENDING}/$2.restart" "{PENDING}/$2.reload" ;;
    reload) rm -f "{PENDING}/$2.reload" ;;
  esac
}}"""

# What an interrupted run has started may still be at work.
_ALONE = f"""
umask 022
install -d -m 700 {RUN}  # who can open a lock can hold it
exec 9> {RUN}/lock
flock -w 600 9 || {{ echo "Another deploy is at work on this host: {RUN}/lock is held." >&2; exit 1; }}"""


def _script(*lines: str) -> StringCommand:
    return StringCommand(_lines("set -eu", *lines))


def _lines(*lines: str) -> str:
    return "\n".join(lines)
