"""A host's declared state as plain data.

A `Part` is everything that one service needs on a host. Parts are built from settings alone, without a host, network or
clock, so they can be rendered, compared and tested anywhere. `mailkeep.host` makes them true.
"""

from dataclasses import dataclass, field

SYSTEMD = "/etc/systemd/system"


@dataclass(frozen=True, slots=True)
class User:
    """A system user with a group of its own name and no login shell."""

    name: str
    home: str = "/nonexistent"


@dataclass(frozen=True, slots=True)
class Directory:
    """With `purge_unmanaged`, files in it that no part declares are removed."""

    path: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o755
    purge_unmanaged: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """A regular file, written whole. The content of a `secret` file never appears in any output. With `create_only`,
    the file is written only if it does not exist; later changes are the host's own."""

    path: str
    content: bytes = field(repr=False)
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    secret: bool = False
    create_only: bool = False


@dataclass(frozen=True, slots=True)
class StateFile:
    """A file that a service writes itself. Its owner and group, as the service needs them."""

    path: str
    owner: str
    group: str
    required: bool = False
    """Whether it is always there while the service runs."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A systemd unit. `restart_on` and `reload_on` are path prefixes: the unit restarts (or reloads) when a managed
    file of any part changes under one of them. A restart makes a reload unnecessary.

    The unit restarts too when a file of its `state` is no plain file, another user's, or missing though required:
    its start mends that.

    A unit with a `socket` runs on demand: it ends when idle, and systemd starts it with the next connection at that
    path."""

    name: str
    restart_on: tuple[str, ...] = ()
    reload_on: tuple[str, ...] = ()
    enabled: bool = True
    running: bool = True
    state: tuple[StateFile, ...] = ()
    socket: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A shell command that must succeed before changed files go live.

    It runs on the host, in a private view of the file system with the staged files at their final paths. So it can be
    the service's own checker, called as usual. It runs when a file under one of the prefixes `reads` changes.
    """

    command: str
    reads: tuple[str, ...]


def unit_check(unit: str, file: str) -> Check:
    """Verify a unit. systemd ignores lines of a unit or drop-in that it cannot parse, so a sandbox could silently be
    missing. `unit` is a name, or the path of a unit file; `file` is a path prefix."""
    return Check(f"systemd-analyze verify --man=no --recursive-errors=no {unit}", reads=(file,))


@dataclass(frozen=True, slots=True)
class Part:
    """One service: what must exist (`packages` to `files`), the `absent` files and directories, its units, and the
    checks. `memberships` are (user, group) pairs: the user is added to the group.

    `kept` are paths of state that the service makes by itself, and that nothing can make anew: backups have it."""

    name: str
    packages: tuple[str, ...] = ()
    users: tuple[User, ...] = ()
    memberships: tuple[tuple[str, str], ...] = ()
    directories: tuple[Directory, ...] = ()
    files: tuple[File, ...] = ()
    absent: tuple[str, ...] = ()
    units: tuple[Unit, ...] = ()
    checks: tuple[Check, ...] = ()
    kept: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Part({self.name})"
