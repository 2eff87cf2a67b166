import subprocess
from pathlib import Path

import pytest

from mailkeep.parts import ssh
from mailkeep.settings.models import Settings

KEY = "ssh-ed25519 AAAA ann"


def fake_host(tmp_path: Path, user: str, key: str, sshd: str = "authorizedkeyscommand none") -> dict[str, str]:
    """The environment of a host with `user` logged in, a home below `tmp_path`, and the output `sshd` of `sshd -T`."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/authorized_keys").write_text(key)
    commands = {"id": user, "getent": f"{user}:x:0:0::{home}:/bin/sh", "sshd": sshd}
    for name, output in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{output}'\n")
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin"}


def run_key_check(settings: Settings, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    check = ssh.build_part(settings).checks[-1].command
    return subprocess.run(["sh", "-c", check], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("user", ["root", "ann"])
def test_a_user_with_a_key_may_turn_passwords_off(settings: Settings, tmp_path: Path, user: str) -> None:
    assert run_key_check(settings, fake_host(tmp_path, user, KEY)).returncode == 0


@pytest.mark.parametrize("user", ["root", "ann"])
def test_a_user_without_a_key_is_not_locked_out(settings: Settings, tmp_path: Path, user: str) -> None:
    process = run_key_check(settings, fake_host(tmp_path, user, key=""))
    assert process.returncode == 1
    assert f"{user} has no SSH key" in process.stderr
    assert "ssh.passwords: true" in process.stderr


def test_keys_may_come_from_elsewhere(settings: Settings, tmp_path: Path) -> None:
    ca = "trustedusercakeys /etc/ssh/ca.pub"
    assert run_key_check(settings, fake_host(tmp_path, "ann", key="", sshd=ca)).returncode == 0


@pytest.mark.parametrize(("user", "status"), [("ann", 0), ("root", 1)])
def test_where_passwords_are_allowed_only_root_needs_a_key(
    declared: dict[str, object], tmp_path: Path, user: str, status: int
) -> None:
    settings = Settings.model_validate(declared | {"ssh": {"passwords": True}})
    assert run_key_check(settings, fake_host(tmp_path, user, key="")).returncode == status


def test_silent_connections_of_one_network_leave_room_for_the_administrator(settings: Settings) -> None:
    [config] = [file.content.decode() for file in ssh.build_part(settings).files if file.path == ssh.CONFIG]
    options = dict(line.split(" ", 1) for line in config.splitlines() if line and not line.startswith("#"))
    dropped_from = int(options["MaxStartups"].split(":")[0])
    assert dropped_from >= 6 * int(options["PerSourceMaxStartups"])
    assert options["PerSourceNetBlockSize"] == "32:64"
