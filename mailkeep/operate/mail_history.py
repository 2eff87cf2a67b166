"""What the servers' logs say, by their `mailkeepctl`; and what files say, by the same program on this machine."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import join
from typing import Any

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, for_each_host, last_line

WRONG_ARGUMENTS = 2  # argparse, as of a command that an older mailkeepctl does not know


def ask_servers(inventory: Path, command: str, arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each host and what its `mailkeepctl COMMAND` prints. Raises UserError after the last host if one failed."""

    def ask_host(host: RemoteHost) -> tuple[str, str]:
        done = host.run_mailkeep(join(["mailkeepctl", command, *arguments]))
        if done.rc == WRONG_ARGUMENTS:
            raise UserError(
                f"{last_line(done)}. An older Mailkeep: `mailkeep deploy {host.inventory_label}` upgrades it"
            )
        if done.rc:
            raise UserError(last_line(done, "mailkeepctl"))
        return host.name, str(done.stdout).rstrip("\n")

    return for_each_host(inventory, ask_host)


def read_files(command: str, arguments: Sequence[str], files: Sequence[Path]) -> str:
    """What `mail-report` or `mail-trace` prints of these logs. Raises UserError."""
    names = [f"--file={file}" for file in files]
    program = [sys.executable, "-Im", "mailkeep_server", f"mail-{command}"]
    done = subprocess.run([*program, *names, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1].removeprefix(f"mail-{command}: error: "))
    return done.stdout.rstrip("\n")


def parse_reports(answers: Iterator[tuple[str, str]]) -> list[dict[str, Any]]:
    """Of `report --json`, with each host's name."""
    return [{"host": host, **json.loads(text)} for host, text in answers]
