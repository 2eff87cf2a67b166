"""Attacks that fail2ban's jails must notice, and the proof that their bans reach the firewall."""

import subprocess
import time

from mailkeep_server.common.ban_proof import JailRules
from mailkeep_server.common.jail_canaries import find_recent_canaries, lock_canaries, prove_jails

from .commands import run_command
from .config import ProbeConfig, unused_client_address
from .unprivileged import NAME

FAIL2BAN_TIMEOUT = 10.0  # seconds until fail2ban must have started its jails, and have read the journal
SSH_TIMEOUT = 20.0
MAX_SSH_TRIES = 10
MAX_LOG_LINES = 50  # of each jail


def find_jail_faults(config: ProbeConfig) -> dict[str, list[str]]:
    """The faults of each jail of fail2ban, with a canary. Waits for the server's own proof (mailkeep-jails.service)."""
    jails = {jail: JailRules(**rules) for jail, rules in config.jails.items()}
    with lock_canaries():
        canaries = find_recent_canaries()
        first = int(time.time())
        never_ban = [config.address, *config.never_ban]
        return prove_jails(jails, first, never_ban, canaries, start_timeout=FAIL2BAN_TIMEOUT, tell_unproven=True)


def find_start_fault() -> str:
    """Why fail2ban would not start again, by its own test of the configuration; empty if it would."""
    done = subprocess.run(["fail2ban-client", "--test"], capture_output=True, text=True, check=False, timeout=30)
    return (done.stderr or done.stdout).strip()[-400:] if done.returncode else ""


def guess_at_ssh(config: ProbeConfig) -> str:
    """Try to log in over SSH without a key or password. Returns ssh's error, which names the methods that sshd offers.

    When many clients connect, sshd hangs up on some at once (sshd_config(5), MaxStartups). Then it is tried again.
    """
    for _ in range(MAX_SSH_TRIES):
        if "kex_exchange_identification" not in (error := _try_ssh_login(config)):
            break
    return error


def _try_ssh_login(config: ProbeConfig) -> str:
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
        ["ssh", "-F", "none", *flags, "-p", str(config.ssh_port), f"{NAME}@{config.address}", "true"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=SSH_TIMEOUT,
    )
    return done.stderr.strip() or f"exit {done.returncode}"


def read_failures(config: ProbeConfig, since: float) -> dict[str, list[str]]:
    """The failures that each jail has logged since a time (seconds since the epoch), from fail2ban's journal."""
    deadline = time.monotonic() + FAIL2BAN_TIMEOUT
    journal = ("journalctl", "--unit=fail2ban.service", "--output=cat", f"--since=@{int(since)}")
    while True:
        log = run_command(*journal).splitlines()
        failures = {
            jail: [line for line in log if f"[{jail}] Ignore " in line or f"[{jail}] Found " in line]
            for jail in config.jails
        }
        if all(failures.values()) or time.monotonic() > deadline:
            return {jail: lines[:MAX_LOG_LINES] for jail, lines in failures.items()}
        time.sleep(0.5)
        if not failures["sshd"]:
            # Each login attempt is a process of sshd. If it ends before journald has looked up its unit, its line has
            # no unit, and the jail does not read it.
            guess_at_ssh(config)
