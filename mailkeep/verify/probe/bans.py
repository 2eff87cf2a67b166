"""Whether each fail2ban jail sees a guess, and whether its bans reach the firewall."""

import subprocess
import time

from mailkeep_server.common.jail_canaries import find_recent_canaries, lock_canaries, prove_jails

from .config import ProbeConfig, unused_client_address
from .linux_account import run
from .unprivileged import NAME

WAIT = 10.0  # seconds until fail2ban must have started its jails, or must have read what is in the journal


def find_jail_faults(given: ProbeConfig) -> dict[str, list[str]]:
    """By jail, what goes wrong when it bans a canary. It waits while the server proves its jails by itself
    (mailkeep-jails.service)."""
    with lock_canaries():
        return prove_jails(given.jails, int(time.time()), [given.address], find_recent_canaries(), start_timeout=WAIT)


def guess_at_ssh(given: ProbeConfig) -> str:
    """One attempt to log in with nothing. Returns what sshd says, which names the ways that it offers. When many are at
    its door, it hangs up on some before it has said anything (MaxStartups): then another attempt."""
    for _ in range(10):
        if "kex_exchange_identification" not in (said := _guess_at_ssh(given)):
            break
    return said


def _guess_at_ssh(given: ProbeConfig) -> str:
    options = {
        "BatchMode": "yes",
        "BindAddress": unused_client_address(),
        "ConnectTimeout": "10",
        "LogLevel": "ERROR",
        "PreferredAuthentications": "none",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
    }
    flags = [f"-o{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        ["ssh", "-F", "none", *flags, "-p", str(given.ssh_port), f"{NAME}@{given.address}", "true"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=20,
    )
    return done.stderr.strip() or f"exit {done.returncode}"


def noticed(given: ProbeConfig, since: float) -> dict[str, list[str]]:
    """Per jail, what fail2ban's own log says of failures since then (seconds since the epoch)."""
    deadline = time.monotonic() + WAIT
    while True:
        log = run("journalctl", "--unit=fail2ban.service", "--output=cat", f"--since=@{int(since)}").splitlines()
        lines = {
            jail: [line for line in log if f"[{jail}] Ignore " in line or f"[{jail}] Found " in line]
            for jail in given.jails
        }
        if all(lines.values()) or time.monotonic() > deadline:
            return {jail: said[:50] for jail, said in lines.items()}
        time.sleep(0.5)
        if not lines["sshd"]:
            # Each guess is a process of sshd's. One that ends before journald has looked who it is leaves a line
            # without a unit, which the jail does not read.
            guess_at_ssh(given)
