"""The scripts that run on a host: their steps, and that they hold no secret."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from mailkeep.host import operations, snapshot
from mailkeep.host.snapshot import PathState, Snapshot
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit

SECRET = b"correct horse battery staple\n"
PART = Part(
    name="it's a part",
    directories=(Directory("/etc/demo", group="demo", mode=0o750), Directory("/srv/elsewhere")),
    files=(
        File("/etc/demo/it's $(here).conf", b"content\n"),
        File("/etc/demo/key", SECRET, "demo", "demo", 0o600, secret=True),
    ),
    units=(Unit("demo.service", restart_on=("/etc/demo/",)),),
    checks=(Check("""demo -t "$HOME" 'a b'""", reads=("/etc/demo/",)),),
)
BARE = Snapshot()


def archive_members() -> dict[str, tarfile.TarInfo]:
    packed = io.BytesIO(operations.build_archive((PART,), BARE, list(PART.directories)))
    with tarfile.open(fileobj=packed) as tar:
        return {member.name: member for member in tar.getmembers()}


def all_scripts() -> list[str]:
    return [operations.commit_script((PART,), BARE, list(PART.directories)), operations.check_script((PART,), BARE)]


@pytest.mark.parametrize("script", all_scripts())
def test_a_script_is_valid_shell_whatever_names_and_commands_are_in_it(script: str) -> None:
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("script", all_scripts())
def test_no_script_holds_a_secret(script: str) -> None:
    assert SECRET.decode().strip() not in script


@pytest.mark.parametrize("mode", [0o755, None])
def test_only_root_can_open_the_lock_of_a_deploy(tmp_path: Path, mode: int | None) -> None:
    directory = tmp_path / "mailkeep"
    if mode:
        directory.mkdir(mode)
    subprocess.run(["sh", "-eu", "-c", operations._LOCK.replace(snapshot.RUN, str(directory))], check=True)
    assert (directory / "lock").exists()
    assert directory.stat().st_mode & 0o777 == 0o700


def test_staged_files_have_their_owner_and_mode_from_the_start() -> None:
    key = archive_members()["new/etc/demo/key"]
    assert (key.uname, key.gname, key.mode) == ("demo", "demo", 0o600)


def test_parent_directories_of_staged_files_have_their_own_modes_and_others_are_not_staged() -> None:
    staged = archive_members()
    assert (staged["new/etc/demo"].gname, staged["new/etc/demo"].mode) == ("demo", 0o750)
    assert "new/srv/elsewhere" not in staged


def test_a_missing_owner_is_named() -> None:
    """tar would silently give the file to root."""
    lines = operations.commit_script((PART,), BARE, []).splitlines()
    first = "\n".join(line for line in lines if line.startswith("getent"))
    process = subprocess.run(["sh", "-eu", "-c", first], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "The host has no user demo" in process.stderr


def test_checks_pass_and_marks_are_written_before_the_first_file_goes_live() -> None:
    script = operations.commit_script((PART,), BARE, list(PART.directories))
    order = [script.index(step) for step in ("stage/check", "cp -pT", "demo.service.restart", "mv -fT")]
    assert order == sorted(order)


def test_files_to_remove_are_removed_from_the_view_alone_while_checks_run() -> None:
    """Laid over, even if nothing is staged below the same top directory."""
    part = Part("demo", absent=("/opt/demo/default.conf",), checks=(Check("demo -t", reads=("/opt/",)),))
    actual = Snapshot(paths={"/opt/demo/default.conf": PathState("regular file", "root", "root", 0o644)})
    script = operations.check_script((part,), actual)
    assert script.index("lay_over opt") < script.index("rm -rf -- /opt/demo/default.conf") < script.index("'demo -t'")


def test_a_unit_whose_file_is_removed_is_stopped_while_systemd_still_knows_it() -> None:
    file = f"{SYSTEMD}/demo.timer"
    actual = Snapshot(paths={file: PathState("regular file", "root", "root", 0o644)})
    script = operations.commit_script((Part("demo", absent=(file,)),), actual, [])
    order = [script.index(step) for step in ("disable --now -- demo.timer", "reset-failed", f"rm -rf -- {file}")]
    assert order == sorted(order)
