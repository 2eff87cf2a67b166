"""The Linux account of the attacks: it exists only while the probe runs."""

import fcntl
import json
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from mailkeep_server.common.files import open_lock

from . import unprivileged
from .commands import COMMAND_TIMEOUT, run_command
from .config import ProbeConfig
from .unprivileged import NAME

LOCK = Path("/run/mailkeep-verify.lock")
LOCK_TIMEOUT = 60.0  # seconds that another probe may take


@contextmanager
def lock_probe() -> Iterator[None]:
    """Run a single probe at a time. A lost connection (SIGHUP) or a kill (SIGTERM) still runs every `finally`."""
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))
    deadline = time.monotonic() + LOCK_TIMEOUT
    with open_lock(LOCK) as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"another `mailkeep verify` has held {LOCK} for {LOCK_TIMEOUT:.0f} s") from None
                time.sleep(0.2)
        yield


@contextmanager
def linux_account() -> Iterator[str]:
    """Create the account NAME, and remove it in the end. Yields its password, which no other process knows."""
    password = token_urlsafe(24)
    _remove_account()
    try:
        run_command("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", NAME)
        run_command("chpasswd", stdin=f"{NAME}:{password}\n")
        yield password
    finally:
        _remove_account()


def _remove_account() -> None:
    """It may be left from a probe that was killed."""
    try:
        pwd.getpwnam(NAME)
    except KeyError:
        return
    run_command("userdel", NAME)


def try_rights(config: ProbeConfig) -> dict[str, Any]:
    """The result of unprivileged.py, run by the account, and the number of packets that the firewall rejected. Then
    the same for a connection of root's (`root`)."""
    source = unprivileged.__loader__.get_source(unprivileged.__name__)  # type: ignore[union-attr]
    arguments = {
        "paths": config.secret_paths,
        "sockets": config.sockets,
        "directories": config.socket_directories,
    }
    before = _count_rejected_packets()
    done = subprocess.run(
        [sys.executable, "-I", "-", json.dumps(arguments)],
        input=source,
        user=NAME,
        group=NAME,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_TIMEOUT,
    )
    if done.returncode:
        raise RuntimeError(f"as {NAME}: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    between = _count_rejected_packets()
    as_root = unprivileged.try_port_25("192.0.2.1")
    return result | {
        "rejected": between - before,
        "root": {"connection": as_root, "rejected": _count_rejected_packets() - between},
    }


def _count_rejected_packets() -> int:
    """Outgoing packets that the firewall has rejected since it was loaded, by the counters of its rules."""
    items = json.loads(run_command("nft", "-j", "-t", "list", "ruleset"))["nftables"]
    output_chains = {
        (chain["table"], chain["name"])
        for item in items
        for chain in [item.get("chain", {})]
        if chain.get("hook") == "output"
    }
    rules = [item["rule"] for item in items if "rule" in item]
    return sum(_rejected_packets(rule) for rule in rules if (rule["table"], rule["chain"]) in output_chains)


def _rejected_packets(rule: dict[str, Any]) -> int:
    """The counter of a rule that rejects or drops; 0 for any other rule."""
    parts = {key: value for part in rule["expr"] for key, value in part.items()}
    is_counted_refusal = "counter" in parts and parts.keys() & {"reject", "drop"}
    return int(parts["counter"]["packets"]) if is_counted_refusal else 0
