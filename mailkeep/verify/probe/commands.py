"""Running commands on the server."""

from mailkeep_server.common import commands

COMMAND_TIMEOUT = 30.0  # seconds; many areas of the probe run at the same time


def run_command(*command: str, stdin: str = "", timeout: float = COMMAND_TIMEOUT) -> str:
    """Standard output of a command. Raises RuntimeError when it fails, subprocess.TimeoutExpired when it hangs."""
    return commands.run(*command, stdin=stdin, timeout=timeout)
