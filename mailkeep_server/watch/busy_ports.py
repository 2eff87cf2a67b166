"""Lines of the journal that say that a port serves as many clients as it can, and who these clients are."""

import re
import subprocess
from collections import Counter

from mailkeep_server.common.commands import run
from mailkeep_server.common.networks import ban_target

IDENTIFIERS = ("postfix/master", "sshd")
"""Of the processes that log such lines. sshd is the one that listens; each connection has its own `sshd-session`."""
PROCESS_LIMIT = re.compile(r'warning: service "([\w-]+)" \((\d+)\) has reached its process limit "(\d+)"')
STARTUPS_LIMIT = re.compile(r"(?:error: )?beginning MaxStartups throttling")
MAX_NAMED = 3
FIRST_FORWARDED_PORT = 10_000
"""Those of Postfix above it are for connections that another machine forwards (`host.forwarded_from`)."""
_FORWARDED = (
    " They come through the old machine, which forwards its ports; `journalctl --unit postfix` on the server has their "
    "addresses. Only the old machine's firewall can shut them out"
)
COMMAND_TIMEOUT = 5.0


def describe_busy_port(line: str, ssh_port: int) -> tuple[str, str] | None:
    """A key and the text of an alert, if the line says that a port is busy. Outgoing mail is no port."""
    if match := PROCESS_LIMIT.match(line):
        port = int(match[2])
        text = f"Port {port} serves as many clients as it can: {match[1]}'s limit is {match[3]}. Others have to wait"
        return f"busy:{port}", f"{text}.{_advise(port) if port < FIRST_FORWARDED_PORT else _FORWARDED}"
    if STARTUPS_LIMIT.match(line):
        text = "Many clients hold connections to SSH without logging in, so sshd turns some new ones away"
        return f"busy:{ssh_port}", f"{text}.{_advise(ssh_port)}"
    return None


def _advise(port: int) -> str:
    try:
        holders = find_holders(run("ss", "-Hnt", "state", "established", f"sport = :{port}", timeout=COMMAND_TIMEOUT))
    except (OSError, RuntimeError, subprocess.TimeoutExpired):
        holders = []
    named = ", ".join(f"{target} ({count})" for target, count in holders)
    most = f" Most connections are from {named}." if named else ""
    return (
        f"{most} `ss -nt state established 'sport = :{port}'` on the server lists them, and `firewall.block` in "
        "mail.yml shuts networks out"
    )


def find_holders(output: str) -> list[tuple[str, int]]:
    """The addresses and networks with the most connections, by `ss -Hnt`: queues, our end, their end."""
    ends = [line.split()[3] for line in output.splitlines() if len(line.split()) > 3]
    clients = [end.rpartition(":")[0].strip("[]").removeprefix("::ffff:") for end in ends]
    return Counter(ban_target(client) for client in clients).most_common(MAX_NAMED)
