"""What a host should be, as plain data.

A `Part` is everything that one service needs of a host. Parts are made from settings alone, with no host, network or
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
    """In an `purge_unmanaged` one there are no files but those of its part: what was there for others is removed."""

    path: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o755
    purge_unmanaged: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """A regular file, written whole. The content of a `secret` one never appears in any output. An `create_only` one is
    put there only where there is none: what becomes of it is the host's own business."""

    path: str
    content: bytes = field(repr=False)
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    secret: bool = False
    create_only: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """A systemd unit. `restart_on` and `reload_on` are path prefixes: when a managed file below one of them changes,
    in whichever part, the unit is restarted (or reloaded; a restart wins)."""

    name: str
    restart_on: tuple[str, ...] = ()
    reload_on: tuple[str, ...] = ()
    enabled: bool = True
    running: bool = True


@dataclass(frozen=True, slots=True)
class Check:
    """A shell command that must pass before changed files go live. It runs on the host in a private, read-only view
    of the file system in which the staged files already lie at their final paths, so it is the service's own checker
    exactly as an operator would call it. It runs when a file below one of `reads` changes."""

    command: str
    reads: tuple[str, ...]


def unit_check(unit: str, file: str) -> Check:
    """systemd(1) passes over what it cannot read of a unit or a drop-in; a sandbox would silently not be there. `unit`
    is a name, or the file of one that others start; `file` a path prefix."""
    return Check(f"systemd-analyze verify --man=no --recursive-errors=no {unit}", reads=(file,))


@dataclass(frozen=True, slots=True)
class Part:
    """One service: what must be there (`packages` … `units`), what must not be (`absent` files and directories), and
    the checks."""

    name: str
    packages: tuple[str, ...] = ()
    users: tuple[User, ...] = ()
    memberships: tuple[tuple[str, str], ...] = ()  # (user, group): the user is added to the group
    directories: tuple[Directory, ...] = ()
    files: tuple[File, ...] = ()
    absent: tuple[str, ...] = ()
    units: tuple[Unit, ...] = ()
    checks: tuple[Check, ...] = ()

    def __repr__(self) -> str:
        return f"Part({self.name})"
