"""The canary's connection to sshd comes from its own address, over IPv6 too."""

import array
import socket
import subprocess
import sys

import pytest

from mailkeep_server.common.refused_logins import SSH_CONNECT


@pytest.mark.slow
@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.9"), (socket.AF_INET6, "::1")])
def test_ssh_gets_a_connection_from_the_canarys_address(family: socket.AddressFamily, address: str) -> None:
    destination = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with socket.create_server((destination, 0), family=family) as server:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            port = str(server.getsockname()[1])
            subprocess.run(
                [sys.executable, "-Ic", SSH_CONNECT, address, destination, port], stdout=theirs, check=True, timeout=20
            )
            message, descriptors, _, _ = socket.recv_fds(ours, 10, 1)
        assert message == b"\0"  # as ssh expects it
        with socket.socket(fileno=array.array("i", descriptors)[0]) as client:
            assert client.getsockname()[0] == address
            assert client.getpeername()[:2] == (destination, int(port))


def test_a_refused_connection_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-Ic", SSH_CONNECT, "127.0.0.9", "127.0.0.1", port],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "ConnectionRefusedError" in done.stderr
    assert "%" not in SSH_CONNECT, "ssh would expand it (ssh_config(5), TOKENS)"
