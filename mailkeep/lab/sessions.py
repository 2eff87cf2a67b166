"""The number of remote commands that a program runs on a server, as the server's sshd counts them."""

from mailkeep.lab.container import Container

_LOG_LEVEL_FILE = "/etc/ssh/sshd_config.d/00-count.conf"


def log_commands(server: Container) -> None:
    """Let sshd log each command and file transfer that it starts from now on."""
    server.write(_LOG_LEVEL_FILE, "LogLevel VERBOSE\n")
    server.run("systemctl reload ssh.service")


def count_commands(server: Container) -> int:
    """The commands logged so far, without those of `Container.run`'s own connection."""
    log = server.run('echo "$SSH_CONNECTION"; journalctl --sync; journalctl --quiet --output=cat --unit=ssh.service')
    connection, *lines = log.stdout.splitlines()
    client_port = f" port {connection.split()[1]} "
    return sum(line.startswith("Starting session: ") and client_port not in line for line in lines)
