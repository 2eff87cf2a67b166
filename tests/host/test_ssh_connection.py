"""The way to a host: ssh's options, and its reasons in words."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailkeep.errors import UserError
from mailkeep.host import ssh_connection
from mailkeep.host.remote import RemoteHost, UnreachableError
from mailkeep.host.ssh_connection import SshConnection
from mailkeep.inventory import hosts

DATA = {
    "ssh_hostname": "192.0.2.1",
    "ssh_port": 2222,
    "ssh_user": "anna",
    "ssh_key": "/k",
    "ssh_config_file": "/c",
    "ssh_known_hosts_file": "/h",
    "ssh_strict_host_key_checking": "accept-new",
    "ssh_forward_agent": True,
}


@pytest.fixture
def deaf() -> Iterator[dict[str, object]]:
    """A host that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {"ssh_hostname": "127.0.0.1", "ssh_port": server.getsockname()[1]}


def test_all_that_the_inventory_says_reaches_ssh_and_nothing_may_ask_or_hang() -> None:
    assert hosts.ssh_command("mail", DATA) == (
        "ssh -F /c -l anna -p 2222 -i /k -oUserKnownHostsFile=/h -oStrictHostKeyChecking=accept-new -oForwardAgent=yes "
        "192.0.2.1"
    )
    command = SshConnection("mail", DATA)._build_command("no", "ERROR", "id")
    for option in ("BatchMode=yes", "ServerAliveInterval=15", "ServerAliveCountMax=3", "ConnectTimeout=10"):
        assert f"-o{option}" in command
    assert not [word for word in command if "StrictHostKeyChecking=no" in word]


@pytest.mark.slow
def test_a_deaf_host_is_given_up_and_told_from_one_that_is_down(
    deaf: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ssh_connection.OPTIONS, "ConnectTimeout", "1")
    with pytest.raises(UnreachableError, match="banner exchange") as error:
        RemoteHost("mail", deaf).run("true")
    assert error.value.remedy.startswith("It accepts connections, and does not answer as SSH.")


@pytest.mark.parametrize("key", ["ssh_password", "ssh_key_password", "ssh_paramiko_connect_kwargs"])
def test_what_ssh_cannot_use_is_refused_with_the_remedy(key: str, tmp_path: Path) -> None:
    (tmp_path / "inventory.py").write_text(f"hosts = [('mail', {{'mailkeep': 'mail.yml', '{key}': 'x'}})]\n")
    with pytest.raises(UserError, match=f"cannot use {key}.*ssh-copy-id"):
        hosts.read_hosts(tmp_path)
