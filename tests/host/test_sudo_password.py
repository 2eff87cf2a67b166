"""sudo's password is in no process list, neither here nor on the server, and reaches sudo alone."""

import os
from pathlib import Path

import pytest
from pyinfra.api import StringCommand
from testinfra.host import Host

from mailkeep.host.connection import connect_host
from mailkeep.host.remote import SudoSshBackend

PASSWORD = "open-sesame-30121"  # noqa: S105
# ssh runs the command here. So /proc has the processes of both sides.
SSH = """#!/bin/sh
for command; do :; done
sh -c "$command"
exit $?  # so that this process, with all arguments, stays until the command ends
"""
SUDO = f"""#!/bin/sh
if [ ! -e "$NO_PASSWORD" ]; then
  case " $* " in
    *' -n '*) echo 'sudo: a password is required' >&2; exit 1 ;;
    *' -S '*) IFS= read -r password ;;
    *' -A '*) password=$("$SUDO_ASKPASS") ;;
  esac
  [ "$password" = {PASSWORD} ] || {{ echo 'sudo: 1 incorrect password attempt' >&2; exit 1; }}
fi
while :; do case $1 in -p) shift 2 ;; -*) shift ;; *) break ;; esac; done
exec "$@"
"""
READ_ALL = "cat; cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' ' '"


@pytest.fixture
def no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this file exists, sudo asks for no password."""
    for name, text in {"ssh": SSH, "sudo": SUDO}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("NO_PASSWORD", str(tmp_path / "no-password"))
    return tmp_path / "no-password"


@pytest.mark.parametrize("needs_password", [True, False])
def test_no_process_list_has_the_password_and_the_command_reads_only_its_input(
    needs_password: bool, no_password: Path
) -> None:
    if not needs_password:
        no_password.touch()
    with connect_host("mail", {"ssh_hostname": "192.0.2.1"}) as host:
        ok, output = host.run_shell_command(
            StringCommand(READ_ALL), _sudo=True, _sudo_password=PASSWORD, _stdin=["first", "second"]
        )
    assert ok, output.output
    assert output.stdout_lines[:2] == ["first", "second"]
    assert "ControlPath" in output.stdout  # ssh's own arguments were in the list
    assert PASSWORD not in output.stdout


@pytest.mark.parametrize("needs_password", [True, False])
def test_a_program_that_comes_by_standard_input_is_not_taken_for_the_password(
    needs_password: bool, no_password: Path
) -> None:
    if not needs_password:
        no_password.touch()
    password = PASSWORD if needs_password else None
    backend = SudoSshBackend("mail", {"ssh_hostname": "192.0.2.1"}, sudo=True, password=password)
    backend.set_host(Host(backend))
    done = backend.run("sh -s", stdin=f"echo first\n{READ_ALL}\n".encode())
    assert done.rc == 0, done.stderr
    assert done.stdout.startswith("first\n")
    assert "ControlPath" in done.stdout
    assert PASSWORD not in done.stdout


def test_a_password_that_pyinfra_has_asked_for_goes_the_same_way(
    no_password: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not no_password.exists()
    monkeypatch.setattr("pyinfra.connectors.util.getpass", lambda _: PASSWORD)
    with connect_host("mail", {"ssh_hostname": "192.0.2.1"}) as host:
        ok, output = host.run_shell_command(StringCommand(READ_ALL), _sudo=True, _stdin=["first"])
    assert ok, output.output
    assert output.stdout_lines[0] == "first"
    assert PASSWORD not in output.stdout


def test_a_wrong_password_fails_with_the_words_of_sudo(no_password: Path) -> None:
    assert not no_password.exists()
    with connect_host("mail", {"ssh_hostname": "192.0.2.1"}) as host:
        ok, output = host.run_shell_command(StringCommand("true"), _sudo=True, _sudo_password="wrong")  # noqa: S106
    assert not ok
    assert output.stderr == "sudo: 1 incorrect password attempt"
