"""Whether hardening is in force: sshd's options for every kind of login, the sandboxes of running processes, and who
may write where configuration is."""

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from mailkeep_server.common.root_access import read_sshd_options

from .commands import run_command
from .config import ProbeConfig
from .unprivileged import NAME

SSHD_FILES = ("/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/*.conf")
SSHD_OPTIONS = (
    "passwordauthentication",
    "kbdinteractiveauthentication",
    "permitemptypasswords",
    "hostbasedauthentication",
)
MAX_LOGINS = 60  # combinations of user and address; sshd takes some 10 ms for each
SANDBOX = (
    *("NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateNetwork"),
    *("ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules"),
    *("ProtectKernelTunables", "ProtectProc", "ProcSubset", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality"),
    *("MemoryDenyWriteExecute", "User", "DynamicUser"),
)
"""Properties whose values `systemctl show` prints as a unit file has them."""
SYSCALLS = "SystemCallFilter"
MEMORY, RESTART, START_LIMIT = "MemoryMax", "Restart", "StartLimitIntervalUSec"
SHOWN = (
    f"Id,ActiveState,MainPID,NeedDaemonReload,CapabilityBoundingSet,{SYSCALLS},{MEMORY},{RESTART},{START_LIMIT},"
    f"{','.join(SANDBOX)}"
)
# capability.h, in the order of their numbers.
CAPABILITIES = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap"),
    *("linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner"),
    *("sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice"),
    *("sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap"),
    *("mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf"),
    "checkpoint_restore",
)


# --- sshd ------------------------------------------------------------------------------------------------------------


def examine_sshd_options(config: ProbeConfig) -> list[dict[str, Any]]:
    """The options that sshd would apply, by user and address; those that several logins share once, with the first."""
    text = "\n".join(
        path.read_text(errors="replace")
        for pattern in SSHD_FILES
        for path in sorted(Path("/").glob(pattern.removeprefix("/")))
    )
    users = ["root", NAME, *_login_users(), *_criteria(text, "User")]
    addresses = ["192.0.2.1", "2001:db8::1", "127.0.0.1", *config.addresses, *_criteria(text, "Address")]
    logins = list(product(dict.fromkeys(users), dict.fromkeys(addresses)))[:MAX_LOGINS]
    by_options: dict[tuple[str, ...], dict[str, Any]] = {}
    for user, address in logins:
        options = read_sshd_options(f"user={user},host={address},addr={address},lport={config.ssh_port}")
        values = tuple(options.get(name, "unknown") for name in SSHD_OPTIONS)
        entry = {"user": user, "address": address, "options": dict(zip(SSHD_OPTIONS, values, strict=True))}
        by_options.setdefault(values, entry)
    return list(by_options.values())


def _login_users() -> list[str]:
    return [entry.pw_name for entry in pwd.getpwall() if not entry.pw_shell.endswith(("nologin", "false", "sync"))]


def _criteria(text: str, kind: str) -> Iterator[str]:
    """A name or address for each `Match` criterion; of a network its first address, of a pattern a name that fits."""
    for values in re.findall(rf"^\s*Match\s.*?\b{kind}\s+(\S+)", text, re.MULTILINE | re.IGNORECASE):
        for value in values.strip('"').split(","):
            if not value.startswith("!"):
                yield value.partition("/")[0].replace("*", "0" if kind == "Address" else "x").replace("?", "x")


# --- sandboxes -------------------------------------------------------------------------------------------------------


def examine_sandboxes(config: ProbeConfig) -> list[dict[str, Any]]:
    """Of each service: its properties by systemd, and how its running process is less confined (`lacking`)."""
    services = [name for name in config.units if name.endswith(".service")]
    blocks = run_command("systemctl", "show", f"--property={SHOWN}", *services).strip().split("\n\n")
    units = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]
    return [
        {
            "properties": {name: value for name, value in unit.items() if name != SYSCALLS},
            "lacking": _find_lacking(unit),
        }
        for unit in units
        if unit.get("ActiveState") == "active"
    ]


def _find_lacking(unit: dict[str, str]) -> list[str]:
    """Confinements that systemd says the unit has, and that the kernel does not show of its main process."""
    try:
        process = Path("/proc", unit["MainPID"])
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        shares_files = (process / "ns/mnt").stat().st_ino == Path("/proc/1/ns/mnt").stat().st_ino
    except (OSError, KeyError):
        return []
    allowed = sum(1 << CAPABILITIES.index(name) for name in _capability_names(unit) if name in CAPABILITIES)
    excess = int(status["CapBnd"], 16) & ~allowed
    names = [name for number, name in enumerate(CAPABILITIES) if excess >> number & 1]
    is_isolated = unit.get("ProtectSystem", "no") != "no" or unit.get("PrivateTmp") == "yes"
    return [
        *(f"the capability {name}" for name in names),
        *(["NoNewPrivileges"] if unit.get("NoNewPrivileges") == "yes" and status.get("NoNewPrivs") == "0" else []),
        *(["a filter of system calls"] if unit.get(SYSCALLS) and status.get("Seccomp") == "0" else []),
        *(["its own view of the file system"] if is_isolated and shares_files else []),
    ]


def _capability_names(unit: dict[str, str]) -> list[str]:
    return [name.removeprefix("cap_") for name in unit.get("CapabilityBoundingSet", "").split()]


# --- access ----------------------------------------------------------------------------------------------------------


def find_loose_paths(config: ProbeConfig) -> list[list[str]]:
    """(path, owner and mode) of each declared path, and of each directory above, that others than declared may write
    to."""
    declared = config.directories | config.files
    paths = {*declared, *(str(parent) for path in declared for parent in Path(path).parents)}
    return [[path, found] for path in sorted(paths) if (found := _describe_if_loose(path, declared.get(path)))]


def _describe_if_loose(path: str, declared: Iterable[Any] | None) -> str:
    """The owner and mode of a path that somebody else may write to than its declared owner and group; else empty."""
    try:
        state = os.stat(path)  # noqa: PTH116 - a link is as safe as its target
    except OSError:
        return ""
    owner, _, mode = declared or ("root", "root", 0o755)
    is_root = state.st_uid == 0
    extra = stat.S_IMODE(state.st_mode) & ~int(mode) & 0o022
    if extra & stat.S_IWGRP and not _has_members(state.st_gid):  # as /usr/local of an older Debian, which is staff's
        extra &= ~stat.S_IWGRP
    if (is_root or _user_name(state.st_uid) == owner) and not extra:
        return ""
    return f"{_user_name(state.st_uid)} {stat.S_IMODE(state.st_mode):04o}"


def _has_members(gid: int) -> bool:
    """Whether a user other than root is in the group."""
    try:
        members = grp.getgrgid(gid).gr_mem
    except KeyError:
        members = []
    return bool({*members, *(entry.pw_name for entry in pwd.getpwall() if entry.pw_gid == gid)} - {"root"})


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
