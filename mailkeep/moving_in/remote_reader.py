"""Reads a foreign server over SSH, as root, and changes nothing on it."""

from pathlib import Path

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, UnreachableError, last_line
from mailkeep.inventory.create import parse_ssh_host
from mailkeep.moving_in.observed import Observed, parse_collection

PROGRAM = Path(__file__).with_name("collect.sh")
READ_TIMEOUT = 3600.0  # seconds: it counts every message, at the lowest priority


def read_server(ssh_host: str, ssh_config: str = "") -> Observed:
    """`ssh_host` is `[USER@]HOST`, `ssh_config` a file for `ssh -F`.

    UserError if it cannot be reached, or does not answer as it should.
    """
    user, host = parse_ssh_host(ssh_host)
    data = {"ssh_user": user, "ssh_config_file": ssh_config}
    remote = RemoteHost(host, {key: value for key, value in data.items() if value})
    try:
        # The program comes by standard input: nothing is written there, and no process list shows it.
        done = remote.connect().run("sh -s", stdin=PROGRAM.read_bytes(), timeout=READ_TIMEOUT)
    except UnreachableError as error:
        raise UserError(f"{host}: {error}. {error.remedy}") from None
    if done.rc:
        raise UserError(f"{host}: the program that reads the server failed: {last_line(done, 'sh')}")
    return parse_collection(done.stdout_bytes)
