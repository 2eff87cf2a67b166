"""How many remote commands a program needs, as the server itself counts them."""

from mailkeep.lab.container import Container

_LOUDER = "/etc/ssh/sshd_config.d/00-count.conf"


def log_commands(server: Container) -> None:
    """From now on sshd logs each command (and file transfer) that it starts."""
    server.write(_LOUDER, "LogLevel VERBOSE\n")
    server.run("systemctl reload ssh.service")


def commands(server: Container) -> int:
    """The commands so far, those of `Container.run`'s own connection left out."""
    said = server.run('echo "$SSH_CONNECTION"; journalctl --sync; journalctl --quiet --output=cat --unit=ssh.service')
    connection, *lines = said.stdout.splitlines()
    own = f" port {connection.split()[1]} "
    return sum(line.startswith("Starting session: ") and own not in line for line in lines)
