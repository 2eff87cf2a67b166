"""Other programs, each with an end."""

import subprocess


def run(*command: str, timeout: float = 5.0) -> str:
    """Standard output of a command that must succeed. Raises OSError, RuntimeError or subprocess.TimeoutExpired."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-200:]
        raise RuntimeError(f"{' '.join(command[:3])}: exit {done.returncode}: {said}")
    return done.stdout
