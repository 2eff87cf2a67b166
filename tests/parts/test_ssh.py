import subprocess
from pathlib import Path

import pytest

from mailkeep.parts import ssh
from mailkeep.settings.models import Settings

KEY = "ssh-ed25519 AAAA ann"


def logged_in(tmp_path: Path, user: str, key: str, sshd: str = "authorizedkeyscommand none") -> dict[str, str]:
    """The environment of a host where `user` is logged in, its home is `tmp_path`, and `sshd -T` says `sshd`."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/authorized_keys").write_text(key)
    commands = {"id": user, "getent": f"{user}:x:0:0::{home}:/bin/sh", "sshd": sshd}
    for name, output in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{output}'\n")
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin"}


def outcome(settings: Settings, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    check = ssh.build_part(settings).checks[-1].command
    return subprocess.run(["sh", "-c", check], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("user", ["root", "ann"])
def test_who_logs_in_with_a_key_may_turn_passwords_off(settings: Settings, tmp_path: Path, user: str) -> None:
    assert outcome(settings, logged_in(tmp_path, user, KEY)).returncode == 0


@pytest.mark.parametrize("user", ["root", "ann"])
def test_who_has_no_key_is_not_locked_out(settings: Settings, tmp_path: Path, user: str) -> None:
    done = outcome(settings, logged_in(tmp_path, user, key=""))
    assert done.returncode == 1
    assert f"{user} has no SSH key" in done.stderr
    assert "ssh.passwords: true" in done.stderr


def test_keys_may_come_from_elsewhere(settings: Settings, tmp_path: Path) -> None:
    ca = "trustedusercakeys /etc/ssh/ca.pub"
    assert outcome(settings, logged_in(tmp_path, "ann", key="", sshd=ca)).returncode == 0


@pytest.mark.parametrize(("user", "status"), [("ann", 0), ("root", 1)])
def test_where_passwords_are_allowed_only_root_needs_a_key(
    declared: dict[str, object], tmp_path: Path, user: str, status: int
) -> None:
    settings = Settings.model_validate(declared | {"ssh": {"passwords": True}})
    assert outcome(settings, logged_in(tmp_path, user, key="")).returncode == status
