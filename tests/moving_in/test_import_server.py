"""The way to `mail-import` on the server: with sudo's password on standard input only, and an end that is told."""

import os
from pathlib import Path
from typing import Any, cast

import pytest
from import_bench import SSH

from mailkeep.host.remote import RemoteHost, SudoSshBackend
from mailkeep.moving_in.copy_model import CopyError
from mailkeep.moving_in.copy_server import ServerProcess
from mailkeep.parts import server_package

PASSWORD = "open-sesame-30121"  # noqa: S105
SUDO = f"""#!/bin/sh
IFS= read -r password
[ "$password" = {PASSWORD} ] || exit 1
while :; do case $1 in -p) shift 2 ;; -*) shift ;; *) break ;; esac; done
exec "$@"
"""
ANSWERS = """#!/bin/sh
IFS= read -r request
ps_list=$(cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\000' ' ')
case $ps_list in *open-sesame-30121*) secret=true ;; *) secret=false ;; esac
case $request in *open*) echo "{\\"done\\": true, \\"secret\\": $secret}" ;; esac
"""


class Remote:
    """As a RemoteHost whose login needs sudo with a password."""

    inventory_label = "home"

    def __init__(self) -> None:
        self.backend = SudoSshBackend("mail", {}, sudo=True, password=PASSWORD)

    def run_mailkeep(self, command: str) -> None:
        assert command.startswith("test -e /")

    def connect(self) -> Any:
        return self


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerProcess:
    for name, text in {"ssh": SSH, "sudo": SUDO, "answers": ANSWERS}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(server_package, "PYTHON", str(tmp_path / "answers"))
    return ServerProcess(cast(RemoteHost, Remote()))


def test_sudo_gets_its_password_and_the_program_what_follows(process: ServerProcess) -> None:
    assert process.session.ask("open")["secret"] is False, "it is in no process list"
    process.close()


def test_a_server_that_ends_is_told_with_what_helps(process: ServerProcess) -> None:
    with pytest.raises(CopyError, match="`mailkeep deploy home` brings it up to date"):
        process.session.ask("nonsense")
    process.close()
