"""The services as they run: the guard's limits, what Postfix's master listens on, and configuration newer than the
process that should have read it."""

import json
import re
import socket
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mailkeep_server.common import milter_server
from mailkeep_server.common.paths import GUARD_CONTROL_SOCKET
from mailkeep_server.common.unix_http import get_body
from mailkeep_server.common.wording import describe_error

from .commands import run_command
from .config import ProbeConfig
from .mail import OUTSIDE
from .smtp_imap import HELO, IMAP_PORTS, SIEVE_PORT, LineClient

Listener = tuple[str, int, list[str]]
"""Address, port, and the names of the processes that share the socket."""

CONTROL_TIMEOUT = 5.0
GREETING_TIMEOUT = 2.0
START_TIMEOUT = 10.0
MAX_TARGETS = 40
MASTER = "master"
STARTED, CHANGED = "ActiveEnterTimestamp", "StateChangeTimestamp"
TIMES = f"Id,ActiveState,{STARTED},{STARTED}Monotonic,{CHANGED},{CHANGED}Monotonic"
RELOADED = "reload -- version|daemon started|SIGHUP|reloading configuration"
"""In the journal: a service was reloaded past systemd, by `postfix reload`, `doveadm reload` or a signal."""


@contextmanager
def keep_milters_running(config: ProbeConfig) -> Iterator[dict[str, str]]:
    """A context in which the milters run that end when idle, so that the probe sees them. By unit, why it does not
    answer; empty if it does."""
    with ExitStack() as stack:
        connections = {unit: stack.enter_context(socket.socket(socket.AF_UNIX)) for unit in config.on_demand}
        with ThreadPoolExecutor(len(connections) or 1) as pool:
            faults = pool.map(_greet_milter, connections.values(), config.on_demand.values())
            answers = dict(zip(connections, faults, strict=True))
        yield answers


def _greet_milter(connection: socket.socket, path: str) -> str:
    """As Postfix does. The open connection keeps the milter running."""
    connection.settimeout(START_TIMEOUT)
    try:
        connection.connect(path)
        connection.sendall(milter_server.OFFER)
        answer = connection.recv(len(milter_server.OFFER), socket.MSG_WAITALL)
    except OSError as error:
        return f"does not answer at {path}: {describe_error(error)}"
    is_right = answer[4:].startswith(milter_server.ANSWER_TO_OFFER)
    return "" if is_right else f"does not answer at {path} as a milter does"


def read_guard_config() -> dict[str, Any]:
    """The configuration that the running guard has, in short (mailkeep_server.guard.config.describe_config). Until
    `careful_until`, it goes by half of the limits."""
    body: dict[str, Any] = json.loads(get_body(GUARD_CONTROL_SOCKET, "/config", CONTROL_TIMEOUT))
    return body


def examine_postfix_listeners(config: ProbeConfig) -> dict[str, Any]:
    """The sockets on which Postfix's master accepts: `ports` of TCP, and `unix` as directory and name. Then the answers
    of everything that speaks SMTP, on loopback too, to a client that sends as an account (`attempts`)."""
    tcp = [_parse_listener(line) for line in run_command("ss", "-H", "-lntp").splitlines()]
    unix = [line for line in run_command("ss", "-H", "-lxp").splitlines() if line.startswith("u_str")]
    targets = [listener for listener in tcp if listener[1] not in (config.ssh_port, *IMAP_PORTS, SIEVE_PORT)][
        :MAX_TARGETS
    ]
    sender = config.accounts[0] if config.accounts else f"postmaster@{config.domains[0]}"
    with ThreadPoolExecutor(len(targets) or 1) as pool:
        attempts = list(pool.map(lambda target: _try_to_send(target, sender), targets))
    return {
        "ports": sorted({port for _, port, processes in tcp if MASTER in processes}),
        "unix": sorted("/".join(line.split()[4].split("/")[-2:]) for line in unix if MASTER in _list_processes(line)),
        "attempts": [attempt for attempt in attempts if attempt],
    }


def _parse_listener(line: str) -> Listener:
    address, _, port = line.split()[3].rpartition(":")
    return address.strip("[]").partition("%")[0], int(port), _list_processes(line)


def _list_processes(line: str) -> list[str]:
    """Of a socket that `ss -p` lists. Children of Postfix's master share its sockets."""
    return re.findall(r'\("([^"]+)",pid=', line)


def _try_to_send(listener: Listener, sender: str) -> dict[str, Any] | None:
    """The answer to a message from an account to somebody elsewhere, up to RCPT; None if no SMTP is spoken there."""
    address, port, processes = listener
    reachable = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    try:
        with LineClient(reachable, port) as client:
            client.socket.settimeout(GREETING_TIMEOUT)
            if client.smtp()[0] != 220:
                return None
            commands = (f"EHLO {HELO}", f"MAIL FROM:<{sender}>", f"RCPT TO:<{OUTSIDE}>", "QUIT")
            code, text = [client.smtp(command) for command in commands][2]
    except OSError:
        return None
    return {
        "address": reachable,
        "port": port,
        "process": ", ".join(sorted(set(processes))),
        "code": code,
        "text": text,
    }


def find_stale_services(config: ProbeConfig) -> list[dict[str, Any]]:
    """For each running service whose configuration has changed since it last started or was reloaded: the `files` that
    were written since, and those `touched`: an older file was put back, or a backup or chmod(1) has changed the inode
    alone."""
    names = list(config.reads)
    blocks = run_command("systemctl", "show", "--timestamp=unix", f"--property={TIMES}", *names).strip().split("\n\n")
    units = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]
    # A clock that was wrong at boot has falsified the times of day since; the monotonic clock is right then.
    boot = time.time() - time.monotonic()
    return [
        {
            "unit": unit["Id"],
            "files": [path for path, is_written in newer.items() if is_written],
            "touched": [path for path, is_written in newer.items() if not is_written],
        }
        for unit in units
        if unit.get("ActiveState") == "active"
        for newer in [_find_newer_files(config, unit, boot)]
        if newer
    ]


def _find_newer_files(config: ProbeConfig, unit: dict[str, str], boot: float) -> dict[str, bool]:
    """Each file that has changed, and whether it was written."""
    restart_on, reload_on = config.reads[unit["Id"]]
    started = _latest_time(unit, STARTED, boot)
    reloaded = _latest_time(unit, CHANGED, boot)
    unread_at_start = _list_newer(config.files, restart_on, started)
    newer = _list_newer(config.files, reload_on, max(started, reloaded)) | unread_at_start
    if newer and reload_on and unit["Id"].endswith(".service"):
        since = f"--since=@{int(max(_time_of_change(path) for path in newer))}"
        journal = ("journalctl", "--quiet", "--output=cat", f"--unit={unit['Id']}", f"--grep={RELOADED}", since)
        if run_command("sh", "-c", '"$@" || true', "sh", *journal).strip():
            return unread_at_start
    return newer


def _latest_time(unit: dict[str, str], name: str, boot: float) -> float:
    """Seconds since the epoch."""
    realtime = float(unit.get(name, "").lstrip("@") or 0)
    return max(realtime, boot + int(unit.get(f"{name}Monotonic") or 0) / 1e6)


def _list_newer(files: Iterable[str], prefixes: Iterable[str], moment: float) -> dict[str, bool]:
    return {
        path: Path(path).stat().st_mtime > moment
        for path in files
        if path.startswith(tuple(prefixes)) and _time_of_change(path) > moment
    }


def _time_of_change(path: str) -> float:
    """The time of the last change of the inode: what a program sets (utime(2), rename(2)) cannot make it older."""
    try:
        return Path(path).stat().st_ctime
    except OSError:
        return 0.0
