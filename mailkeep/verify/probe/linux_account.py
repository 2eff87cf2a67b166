"""The Linux account that attacks are made with: it is there while the probe runs, and gone afterwards."""

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
from .config import ProbeConfig
from .unprivileged import NAME

LOCK = Path("/run/mailkeep-verify.lock")
WAIT = 60.0  # seconds that another run of the probe may take


def run(*command: str, stdin: str = "", timeout: float = 30) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


@contextmanager
def alone() -> Iterator[None]:
    """One probe at a time. A lost connection or a kill still leaves through every `finally`."""
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))
    deadline = time.monotonic() + WAIT
    with open_lock(LOCK) as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"another `mailkeep verify` has held {LOCK} for {WAIT:.0f} s") from None
                time.sleep(0.2)
        yield


@contextmanager
def linux_account() -> Iterator[str]:
    """Yields the password of the account `NAME`, which nobody else ever knows."""
    password = token_urlsafe(24)
    _remove()
    try:
        run("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", NAME)
        run("chpasswd", stdin=f"{NAME}:{password}\n")
        yield password
    finally:
        _remove()


def _remove() -> None:
    """Also what an earlier run has left."""
    try:
        pwd.getpwnam(NAME)
    except KeyError:
        return
    run("userdel", NAME)


def rights(given: ProbeConfig) -> dict[str, Any]:
    """What `stranger` says when the account runs it."""
    source = unprivileged.__loader__.get_source(unprivileged.__name__)  # type: ignore[union-attr]
    arguments = json.dumps({"paths": given.secret_paths, "sockets": given.sockets})
    before = _rejected()
    done = subprocess.run(
        [sys.executable, "-I", "-", arguments],
        input=source,
        user=NAME,
        group=NAME,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if done.returncode:
        raise RuntimeError(f"as {NAME}: {done.stderr.strip()}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said | {"rejected": _rejected() - before}


def _rejected() -> int:
    """Packets that the firewall has refused to let out."""
    listed = json.loads(run("nft", "-j", "-t", "list", "ruleset"))["nftables"]
    chains = {
        (chain["table"], chain["name"])
        for item in listed
        for chain in [item.get("chain", {})]
        if chain.get("hook") == "output"
    }
    return sum(_refusals(item["rule"]) for item in listed if _place(item.get("rule")) in chains)


def _place(rule: dict[str, Any] | None) -> tuple[str, str] | None:
    return (rule["table"], rule["chain"]) if rule else None


def _refusals(rule: dict[str, Any]) -> int:
    parts = {key: value for part in rule["expr"] for key, value in part.items()}
    return int(parts["counter"]["packets"]) if {"counter"} < parts.keys() & {"counter", "reject", "drop"} else 0
