"""The actual state of a host: every path, package, user and unit that the parts name.

A remote command costs two round trips and a process, and a server has hundreds of managed paths. So one shell script
prints the whole state, and `diff` compares the parts with it alone.
"""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api import FactBase

from mailkeep.parts.model import File, Part
from mailkeep_server.common.paths import KNOWN_ACCESS, STOPPED_UNITS

RUN = "/run/mailkeep"
PENDING = f"{RUN}/pending"
"""Directory of the marks `UNIT.restart` and `UNIT.reload`. A mark outlives an interrupted run, but not a reboot."""
NEW_SUFFIX = ".mailkeep-new"
"""Ends the path of a new file beside the live one, until it is renamed to the live path."""
POLICY_RC_D = File("/usr/sbin/policy-rc.d", b"#!/bin/sh\n# Mailkeep is installing packages.\nexit 101\n", mode=0o755)
"""Keeps services from starting before they are configured (invoke-rc.d(8)). Exists only during an installation."""


@dataclass(frozen=True, slots=True)
class PathState:
    """As stat(1) and sha256sum(1) print it. `digest` is empty unless the path is a readable regular file."""

    kind: str
    owner: str
    group: str
    mode: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class UnitState:
    """Properties of `systemctl show`, by name."""

    properties: dict[str, str]

    @property
    def is_enabled(self) -> bool:
        return self.properties.get("UnitFileState") in {"enabled", "static", "generated", "alias", "indirect"}

    @property
    def is_active(self) -> bool:
        """False while `activating`: a unit that crashes and is restarted in a loop is mostly in that state."""
        return self.properties.get("ActiveState") in {"active", "reloading"}

    @property
    def is_ended(self) -> bool:
        """Without a failure, or never started."""
        return self.properties.get("ActiveState") == "inactive"

    @property
    def is_failed(self) -> bool:
        return self.properties.get("ActiveState") == "failed"

    @property
    def is_stale(self) -> bool:
        """Whether the unit file or a drop-in changed after systemd read it."""
        return self.properties.get("NeedDaemonReload") == "yes"

    @property
    def is_skipped(self) -> bool:
        """Whether a Condition… kept systemd from starting it, as for time synchronisation in a container."""
        tried = self.properties.get("ConditionTimestampMonotonic", "0") != "0"
        return tried and self.properties.get("ConditionResult") == "no"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`unconfigured` are dpkg's lines about interrupted installations. `members` are (user, group) pairs, `pending`
    the names of marks."""

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


def _quote_all(names: Iterable[str]) -> str:
    return " ".join(shlex.quote(name) for name in names)


def build_script(parts: tuple[Part, ...]) -> str:
    """The shell script that prints a snapshot. Each section starts with a line `== NAME`."""
    files = [
        POLICY_RC_D.path,
        KNOWN_ACCESS,
        STOPPED_UNITS,
        *(path for part in parts for path in (*(file.path for file in part.files), *part.absent)),
    ]
    directories = [directory for part in parts for directory in part.directories]
    paths = [directory.path for directory in directories]
    purged = [directory.path for directory in directories if directory.purge_unmanaged]
    state = [file.path for part in parts for unit in part.units for file in unit.state]
    packages = sorted({name for part in parts for name in part.packages})
    users = sorted({user.name for part in parts for user in part.users})
    groups = sorted({group for part in parts for _, group in part.memberships})
    units = [unit.name for part in parts for unit in part.units]
    show = "systemctl show --property=Id," + ",".join(UNIT_PROPERTIES)
    return "\n".join(
        [
            "export LC_ALL=C",
            f"set -- {_quote_all(files)}",
            "echo '== paths'",
            "stat -c '%F|%U|%G|%a|%n' -- \"$@\" 2>/dev/null",
            f'for file; do [ ! -e "$file{NEW_SUFFIX}" ] || stat -c \'%F|%U|%G|%a|%n\' -- "$file{NEW_SUFFIX}"; done',
            # No digest: a service may write hundreds of megabytes.
            f"stat -c '%F|%U|%G|%a|%n' -- {_quote_all(state)} 2>/dev/null" if state else ":",
            # -L: a directory may be a symbolic link to another disk.
            f"stat -L -c '%F|%U|%G|%a|%n' -- {_quote_all(paths)} 2>/dev/null" if paths else ":",
            f"find {_quote_all(purged)} {_FILES_BELOW} 2>/dev/null" if purged else ":",
            "echo '== digests'",
            'sha256sum -- "$@" 2>/dev/null',
            "echo '== packages'",
            f"{_DPKG} {_quote_all(packages)} 2>/dev/null",
            # Packages that are half-installed, unpacked, half-configured or wait for triggers; then dpkg's journal.
            "echo '== unconfigured'",
            f"{_DPKG} | grep -E '^(.[HUFWt]|..R)'",
            "ls /var/lib/dpkg/updates",
            "echo '== users'",
            f"getent passwd {_quote_all(users)}" if users else ":",
            "echo '== groups'",
            f"getent group {_quote_all(groups)}" if groups else ":",
            "echo '== pending'",
            f"ls {PENDING} 2>/dev/null",
            "echo '== units'",
            f"{show} -- {_quote_all(units)}" if units else ":",
            "true",
        ]
    )


_FILES_BELOW = "-mindepth 1 -maxdepth 1 ! -type d ! -name '*[[:cntrl:]]*' -exec stat -c '%F|%U|%G|%a|%n' -- {} +"
_DPKG = "dpkg-query -W -f='${db:Status-Abbrev} ${Package}\\n'"


def parse_snapshot(lines: list[str], units: list[str]) -> Snapshot:
    """Parse the output of the script. `units` are the units' names, in the order of the `systemctl show` command."""
    sections = dict(_split_sections(lines))
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
        members=frozenset(_parse_members(sections["groups"])),
        units=dict(zip(units, _parse_units(sections["units"]), strict=True)),
        pending=frozenset(sections["pending"]),
    )


def _split_sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    name, body = "", list[str]()
    for line in [*lines, "== "]:
        if line.startswith("== "):
            if name:
                yield name, body
            name, body = line[3:], []
        else:
            body.append(line)


def _parse_members(group_lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in group_lines:
        group, _, _, users = line.split(":")
        yield from ((user, group) for user in users.split(",") if user)


def _parse_units(lines: list[str]) -> Iterator[UnitState]:
    for block in "\n".join(lines).strip().split("\n\n"):
        if block:
            yield UnitState(dict(line.split("=", 1) for line in block.splitlines()))


class SnapshotFact(FactBase[Snapshot]):
    """Runs the script on a host by pyinfra."""

    def command(self, parts: tuple[Part, ...]) -> str:
        self._units = [unit.name for part in parts for unit in part.units]
        return build_script(parts)

    def process(self, output: list[str]) -> Snapshot:
        return parse_snapshot(list(output), self._units)

    @staticmethod
    def default() -> Any:
        """None, if the host could not be read."""
        return None
