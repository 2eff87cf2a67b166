"""The end of connections: nothing stays behind, and nothing waits for a host that froze."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailkeep.host import ssh_connection
from mailkeep.host.connection import connect_host
from mailkeep.host.each_host import run_on_each
from mailkeep.host.ssh_connection import SshConnection

SSH = """#!/bin/sh
echo "$*" >> "$SSH_LOG"
for command; do :; done
exec sh -c "$command"
"""


@pytest.fixture
def ssh_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A line for each start of a program that stands for ssh, and runs the command here."""
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SSH_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tempfile.mkdtemp(prefix="t", dir="/tmp")  # short enough for a socket
    monkeypatch.setattr(tempfile, "tempdir", directory)
    yield Path(directory)
    shutil.rmtree(directory)


def connect_and_end(name: str) -> str:
    connection = SshConnection(name, {"ssh_hostname": "192.0.2.1"})
    connection.open()
    if name == "interrupted":
        os._exit(130)
    if name == "hanging":
        time.sleep(60)
    return connection._socket


@pytest.mark.slow
@pytest.mark.usefixtures("ssh_log")
def test_however_the_process_of_a_host_ends_no_directory_is_left(temporary: Path) -> None:
    results = {result.name: result for result in run_on_each(["done", "hanging", "interrupted"], connect_and_end, 3)}
    assert results["interrupted"].error.startswith("its process ended with exit code 130")
    assert results["hanging"].error.startswith("no answer within")
    path = results["done"].value
    assert path
    assert path.startswith(f"{temporary}/")
    # unix(7): with the zero byte, and with what ssh adds while it creates the socket.
    longest = ssh_connection.MAX_DIRECTORY - 1 + len(path.removeprefix(str(temporary)))
    assert longest + 17 < 108
    assert list(temporary.iterdir()) == []


def test_a_host_that_froze_is_not_asked_once_more_at_the_end(ssh_log: Path) -> None:
    with connect_host("mail", {"ssh_hostname": "192.0.2.1"}) as host:
        host.connector_data["su_askpass_path__/tmp"] = "/nonexistent/askpass"
        master = host.connector.connection._master
        master.kill()  # as ssh ends itself when the host no longer answers
        master.wait()
    assert len(ssh_log.read_text().splitlines()) == 1
