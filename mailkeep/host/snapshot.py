"""What a host is now: every path, package, user and unit that the parts name, read in one remote command.

A remote command costs two round trips and a process; a server has hundreds of managed things. So nothing here asks
about one thing: one shell script prints all of it, and `compare` decides what to do from that picture alone.
"""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api import FactBase

from mailkeep.parts.model import File, Part

RUN = "/run/mailkeep"
PENDING = f"{RUN}/pending"
"""Marks `UNIT.restart` and `UNIT.reload` that outlive an interrupted run. In /run: a reboot settles them."""
NEW = ".mailkeep-new"
"""Appended to a path: the new file, beside the live one, about to be renamed onto it."""
POLICY = File("/usr/sbin/policy-rc.d", b"#!/bin/sh\n# Mailkeep is installing packages.\nexit 101\n", mode=0o755)
"""Keeps services from starting before they are configured (invoke-rc.d(8)); there only while packages install."""


@dataclass(frozen=True, slots=True)
class PathState:
    """As `stat` and `sha256sum` print it; `digest` is empty for anything but a readable regular file."""

    kind: str
    owner: str
    group: str
    mode: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class UnitState:
    """Properties of `systemctl show` by name."""

    properties: dict[str, str]

    @property
    def enabled(self) -> bool:
        return self.properties.get("UnitFileState") in {"enabled", "static", "generated", "alias", "indirect"}

    @property
    def active(self) -> bool:
        """Not while `activating`: a unit that systemd restarts again and again is that most of the time."""
        return self.properties.get("ActiveState") in {"active", "reloading"}

    @property
    def failed(self) -> bool:
        return self.properties.get("ActiveState") == "failed"

    @property
    def stale(self) -> bool:
        """Its unit file or a drop-in is newer than what systemd has read."""
        return self.properties.get("NeedDaemonReload") == "yes"

    @property
    def not_meant_to_run(self) -> bool:
        """systemd tried and a Condition… said no, as for time synchronisation in a container: that is its state."""
        tried = self.properties.get("ConditionTimestampMonotonic", "0") != "0"
        return tried and self.properties.get("ConditionResult") == "no"


@dataclass(frozen=True, slots=True)
class Snapshot:
    paths: dict[str, PathState] = field(default_factory=dict)
    packages: frozenset[str] = frozenset()
    unconfigured: tuple[str, ...] = ()
    users: frozenset[str] = frozenset()
    members: frozenset[tuple[str, str]] = frozenset()
    units: dict[str, UnitState] = field(default_factory=dict)
    pending: frozenset[str] = frozenset()


UNIT_PROPERTIES = (
    "LoadState",
    "UnitFileState",
    "ActiveState",
    "ConditionResult",
    "ConditionTimestampMonotonic",
    "NeedDaemonReload",
)


def _quoted(names: Iterable[str]) -> str:
    return " ".join(shlex.quote(n) for n in names)


def script(parts: tuple[Part, ...]) -> str:
    """The shell script that prints a snapshot. Each section starts with a line `== NAME`."""
    files = [POLICY.path, *(path for p in parts for path in (*(f.path for f in p.files), *p.absent))]
    directories = [d.path for p in parts for d in p.directories]
    exclusive = [d.path for p in parts for d in p.directories if d.purge_unmanaged]
    packages = sorted({n for p in parts for n in p.packages})
    users = sorted({u.name for p in parts for u in p.users})
    groups = sorted({group for p in parts for _, group in p.memberships})
    units = [u.name for p in parts for u in p.units]
    show = "systemctl show --property=Id," + ",".join(UNIT_PROPERTIES)
    return "\n".join(
        [
            "export LC_ALL=C",
            f"set -- {_quoted(files)}",
            "echo '== paths'",
            "stat -c '%F|%U|%G|%a|%n' -- \"$@\" 2>/dev/null",
            f'for file; do [ ! -e "$file{NEW}" ] || stat -c \'%F|%U|%G|%a|%n\' -- "$file{NEW}"; done',
            # A directory may be a symbolic link to another disk.
            f"stat -L -c '%F|%U|%G|%a|%n' -- {_quoted(directories)} 2>/dev/null" if directories else ":",
            f"find {_quoted(exclusive)} {_FILES_BELOW} 2>/dev/null" if exclusive else ":",
            "echo '== digests'",
            'sha256sum -- "$@" 2>/dev/null',
            "echo '== packages'",
            f"{_DPKG} {_quoted(packages)} 2>/dev/null",
            # Half-installed, unpacked, half-configured, waiting for triggers; and dpkg's journal.
            "echo '== unconfigured'",
            f"{_DPKG} | grep -E '^(.[HUFWt]|..R)'",
            "ls /var/lib/dpkg/updates",
            "echo '== users'",
            f"getent passwd {_quoted(users)}" if users else ":",
            "echo '== groups'",
            f"getent group {_quoted(groups)}" if groups else ":",
            "echo '== pending'",
            f"ls {PENDING} 2>/dev/null",
            "echo '== units'",
            f"{show} -- {_quoted(units)}" if units else ":",
            "true",
        ]
    )


_FILES_BELOW = "-mindepth 1 -maxdepth 1 ! -type d ! -name '*[[:cntrl:]]*' -exec stat -c '%F|%U|%G|%a|%n' -- {} +"
_DPKG = "dpkg-query -W -f='${db:Status-Abbrev} ${Package}\\n'"


def parse(lines: list[str], units: list[str]) -> Snapshot:
    """Reads what `script` printed; `units` is the order in which they were asked for."""
    sections = dict(_sections(lines))
    digests = {path: digest for digest, path in (line.split("  ", 1) for line in sections["digests"])}
    paths = {}
    for line in sections["paths"]:
        kind, owner, group, mode, path = line.split("|", 4)
        digest = digests.get(path, "") if kind.startswith("regular") else ""
        paths[path] = PathState(kind, owner, group, int(mode, 8), digest)
    return Snapshot(
        paths=paths,
        packages=frozenset(line[4:] for line in sections["packages"] if line.startswith("ii ")),
        unconfigured=tuple(sections["unconfigured"]),
        users=frozenset(line.split(":")[0] for line in sections["users"]),
        members=frozenset(_members(sections["groups"])),
        units=dict(zip(units, _units(sections["units"]), strict=True)),
        pending=frozenset(sections["pending"]),
    )


def _sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    name, body = "", list[str]()
    for line in [*lines, "== "]:
        if line.startswith("== "):
            if name:
                yield name, body
            name, body = line[3:], []
        else:
            body.append(line)


def _members(group_lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in group_lines:
        group, _, _, users = line.split(":")
        yield from ((user, group) for user in users.split(",") if user)


def _units(lines: list[str]) -> Iterator[UnitState]:
    for block in "\n".join(lines).strip().split("\n\n"):
        if block:
            yield UnitState(dict(line.split("=", 1) for line in block.splitlines()))


class SnapshotFact(FactBase[Snapshot]):
    """pyinfra's way to run `script` on a host."""

    def command(self, parts: tuple[Part, ...]) -> str:
        self._units = [u.name for p in parts for u in p.units]
        return script(parts)

    def process(self, output: list[str]) -> Snapshot:
        return parse(list(output), self._units)

    @staticmethod
    def default() -> Any:
        """When the host could not be read."""
        return None
